"""TLS contexts from the files that a cache's options or a database URL name."""

from __future__ import annotations

import ssl

from person_repo.exceptions import ConfigurationError

__all__ = ["tls_context"]


def tls_context(ca: str = "", certificate: str = "", key: str = "", *, owner: str) -> ssl.SSLContext:
    """A context that verifies the server's certificate and name.

    ``ca``: the file of the authorities to trust, the system's if empty. ``certificate`` and ``key``: the files that
    are shown to a server which asks for them; the key may be in the certificate's file. ``owner``: who names the files,
    for the message.

    Raises ``ConfigurationError`` for files that cannot be used; its message names them, which Python's own does not.
    """
    try:
        context = ssl.create_default_context(cafile=ca or None)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as exc:
        names = ", ".join(filter(None, (ca, certificate, key)))
        raise ConfigurationError(f"the TLS files {names} of {owner} cannot be used: {exc}") from exc
    return context
