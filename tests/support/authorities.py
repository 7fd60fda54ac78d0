"""No certificate authority of the system's: nothing that the tests connect to has a certificate of theirs.

PyMySQL reads all of them at each connection that it opens, which takes longer than the connection.
"""

from __future__ import annotations

import os

__all__ = ["trust_no_authority"]


def trust_no_authority() -> None:
    """Has OpenSSL in this process and its children begin with an empty list of authorities."""
    os.environ["SSL_CERT_FILE"] = os.devnull
