"""From a database URL to an engine; what is wrong with the URL is said without a piece of its password."""

from __future__ import annotations

import sqlalchemy as sa

from person_repo.exceptions import ConfigurationError
from person_repo.settings import redact

__all__ = ["engine_of"]


def engine_of(url: str | sa.URL) -> sa.Engine:
    """An engine for a database URL; opens no connection. SQLite in memory gets one connection that all threads share.

    Raises ``ConfigurationError`` for a URL that cannot be read, or whose driver is not installed.
    """
    # What SQLAlchemy and Python say of a URL may quote a part of the password, so no cause is chained.
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigurationError(f"database URL {redact(url)!r} cannot be read; write dialect+driver://...") from None
    if "@" in (parsed.host or ""):  # the driver would show the host
        raise ConfigurationError(f"database URL {redact(url)!r} has two @; write %40 for an @ in a password")
    try:
        if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
            # Each connection to SQLite in memory is a database of its own.
            return sa.create_engine(parsed, poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
        return sa.create_engine(parsed)
    except sa.exc.ArgumentError as exc:
        raise ConfigurationError(f"database URL {redact(url)!r} cannot be used: {redact(exc)}") from None
    except ImportError as exc:
        raise ConfigurationError(
            f"database URL {redact(url)!r} needs the driver {exc.name}, which is not installed; for MySQL and MariaDB "
            "write mysql+pymysql://"
        ) from None
