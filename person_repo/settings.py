"""Frozen settings, and the only reader of the environment."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, NamedTuple

from person_repo.exceptions import ConfigurationError
from person_repo.urls import KNOWN_SCHEMES, CacheUrl, parse_cache_url, redact

__all__ = [
    "KNOWN_SCHEMES",
    "LEAST_SECRET",
    "ON_UNREACHABLE",
    "CacheSettings",
    "CacheUrl",
    "Settings",
    "parse_cache_url",
    "redact",
]

ON_UNREACHABLE = ("proceed", "strict", "refuse")
"""The values of ``CacheSettings.on_unreachable``."""

LEAST_SECRET: Final = 16
"""Bytes of the shortest secret: 128 bits if each is random."""

_SECRET_REMEDY: Final = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'

_KINDS: Mapping[str, type] = {"int": int, "float": float, "bool": bool, "str": str}
_KIND_REMEDIES: Mapping[type, str] = {
    int: "give a whole number",
    float: "give a number",
    bool: "give True or False",
    str: "give a string",
}
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})

# memcached takes a larger number for a date, not for a duration (protocol.txt, "Expiration times").
_LONGEST_TTL: Final = 30 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """How a region caches. Every field is also an option of a cache URL. Durations are in seconds.

    Raises ``ConfigurationError`` for a value of the wrong kind or beyond its limits.
    """

    namespace: str = "person_repo"
    """The first part of every key. All who write one table share one namespace."""
    ttl: int = 3600
    """Seconds that a value, or a known absence, lives in the cache."""
    ttl_jitter: float = 0.1
    """The part of the ``ttl`` by which a value may live shorter, at random, so that values that were filled together do
    not end together. 0: none."""
    refresh_ahead: float = 0.05
    """The last part of the ``ttl``, in which one reader reloads a value that is still read, while the others go on
    with it. 0: none."""
    lease_ttl: int = 5
    """Seconds after which a reader that died has lost its right to fill."""
    tombstone_ttl: int = 60
    """Seconds that a tombstone outlives a writer that died. Give more than the slowest COMMIT takes."""
    wait: float = 0.1
    """Seconds that a reader waits for another reader's load before it loads for itself. 0: it does not wait."""
    timeout: float = 0.25
    """Seconds that one operation may wait for the cache in all: connecting, further attempts and every server
    included."""
    connect_timeout: float = 0.25
    """Seconds of the ``timeout`` that opening a connection may take."""
    breaker_failures: int = 3
    """Failures in a row after which a server is left alone."""
    breaker_reset: float = 1.0
    """Seconds after which one operation tries a server that is left alone."""
    on_unreachable: str = "proceed"
    """Decides how a commit ends that cannot place a tombstone. ``proceed``: readers learn of it within
    ``fence_interval``; ``strict``: the commit waits until they have; ``refuse``: the commit raises."""
    fence_interval: float = 1.0
    """Seconds for which a process may rely on the list of such commits that it last read."""
    max_loads: int = 0
    """Loads from the database that one process may have under way for this cache. 0: any number."""
    max_load_wait: float = 5.0
    """Seconds that a read waits for its turn at the database, before it raises ``OverloadError``."""
    max_keys: int = 1000
    """Changed keys of one class in one transaction above which the whole class is dropped."""
    max_items: int = 100_000
    """Entries that a ``memory://`` region holds."""
    tls: bool = False
    """Encrypts the connections to memcached."""
    tls_ca: str = ""
    """The file of the certificates that may have signed the server's. Empty: the system's."""
    tls_cert: str = ""
    """The file of the client's own certificate. Empty: none."""
    tls_key: str = ""
    """The file of the key of ``tls_cert``. Empty: the key is in the same file."""
    tls_hostname: str = ""
    """The name that the server's certificate must have. Empty: the host of the URL."""
    secret: str = dataclasses.field(default="", repr=False)
    """The secret that seals every value. Of several, separated by commas or in a list, the first seals and each opens.
    Empty: nothing is sealed."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_kind(field.name, getattr(self, field.name), _KINDS[str(field.type)])
        for name, rule in _RULES.items():
            value = getattr(self, name)
            if not rule.accepts(value):
                raise ConfigurationError(f"{name} {value!r}: give {rule.allowed}")
        for name in ("tls_ca", "tls_cert", "tls_key", "tls_hostname"):
            if getattr(self, name) and not self.tls:
                raise ConfigurationError(f"{name} is given and tls is off, so nothing would be encrypted; add tls=1")
        if self.secret:
            check_secrets(split_secrets(self.secret))

    def with_options(self, options: Mapping[str, Any], /) -> CacheSettings:
        """These settings with the given ones replaced; strings, as a URL has them, are converted. ``secret`` may be
        a list or a tuple of secrets.

        Raises ``ConfigurationError`` for an unknown name or a value of the wrong kind.
        """
        kinds = {field.name: _KINDS[str(field.type)] for field in fields(self)}
        unknown = sorted(set(options) - set(kinds))
        if unknown:
            raise ConfigurationError(f"unknown cache option {unknown[0]!r}; known are: {', '.join(sorted(kinds))}")
        return replace(self, **{name: _convert(name, value, kinds[name]) for name, value in options.items()})


class _Rule(NamedTuple):
    """The limits of an option: whether a value is within, and the limits as a message says them."""

    accepts: Callable[[Any], bool]
    allowed: str


_LIFETIME = _Rule(lambda value: 1 <= value <= _LONGEST_TTL, f"whole seconds between 1 and {_LONGEST_TTL} (30 days)")
_DEADLINE = _Rule(lambda value: 0 < value <= 60, "seconds above 0, at most 60")
_PART_OF_TTL = _Rule(lambda value: 0 <= value <= 0.5, "a part of the ttl, between 0 and 0.5")
_COUNT = _Rule(lambda value: value >= 1, "at least 1")

_RULES: Mapping[str, _Rule] = {
    "namespace": _Rule(
        lambda value: re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", value) is not None,
        "1 to 40 of the characters A-Z a-z 0-9 _ . -",
    ),
    "ttl": _LIFETIME,
    "lease_ttl": _LIFETIME,
    "tombstone_ttl": _LIFETIME,
    "timeout": _DEADLINE,
    "connect_timeout": _DEADLINE,
    "breaker_reset": _DEADLINE,
    "fence_interval": _DEADLINE,
    "max_load_wait": _DEADLINE,
    "ttl_jitter": _PART_OF_TTL,
    "refresh_ahead": _PART_OF_TTL,
    "wait": _Rule(lambda value: 0 <= value <= 60, "seconds between 0 and 60"),
    "on_unreachable": _Rule(lambda value: value in ON_UNREACHABLE, ", ".join(ON_UNREACHABLE)),
    "max_loads": _Rule(lambda value: value >= 0, "at least 1, or 0 for no bound"),
    "max_keys": _COUNT,
    "max_items": _COUNT,
    "breaker_failures": _COUNT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that the command line and ``connect`` need: two URLs and the toggle."""

    database_url: str = "sqlite:///people.db"
    """The database, as SQLAlchemy writes it."""
    cache_url: str = "memory://"
    """The cache."""
    use_db: bool = False
    """True: reads go to the database."""

    def __repr__(self) -> str:
        return (
            f"Settings(database_url={redact(self.database_url)!r}, cache_url={redact(self.cache_url)!r}, "
            f"use_db={self.use_db!r})"
        )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings of ``PERSON_REPO_DATABASE_URL``, ``_CACHE_URL`` and ``_USE_DB``; defaults for those unset.

        ``environ``: the variables; ``os.environ`` if not given. Raises ``ConfigurationError`` if
        ``PERSON_REPO_USE_DB`` is neither true nor false.
        """
        source = os.environ if environ is None else environ
        default = cls()
        return cls(
            database_url=source.get("PERSON_REPO_DATABASE_URL") or default.database_url,
            cache_url=source.get("PERSON_REPO_CACHE_URL") or default.cache_url,
            use_db=_convert("PERSON_REPO_USE_DB", source.get("PERSON_REPO_USE_DB", ""), bool),
        )


def split_secrets(secrets: str) -> list[str]:
    """The secrets of a string that separates them by commas."""
    return [secret.strip() for secret in secrets.split(",")]


def check_secrets(secrets: Sequence[str]) -> None:
    """Raises ``ConfigurationError`` for no secret, and for one that is too short. The message shows none."""
    if not secrets:
        raise ConfigurationError(f"sealing needs a secret; {_SECRET_REMEDY}")
    for number, secret in enumerate(secrets, 1):
        if len(secret.encode(errors="surrogatepass")) < LEAST_SECRET:
            which = f"number {number} of {len(secrets)} in secret" if len(secrets) > 1 else "secret"
            raise ConfigurationError(f"{which} is shorter than {LEAST_SECRET} bytes; {_SECRET_REMEDY}")


def _check_kind(name: str, value: object, kind: type) -> None:
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        shown = name if name == "secret" else f"{name}={value!r}"
        raise ConfigurationError(f"{shown} is {type(value).__name__}; {_KIND_REMEDIES[kind]}")


def _convert(name: str, value: Any, kind: type) -> Any:
    """A string of a URL or the environment as a value of the kind. Other values stay, but for a list of secrets."""
    if name == "secret" and isinstance(value, (list, tuple)):
        return _comma_joined(value)
    if not isinstance(value, str) or kind is str:
        return value
    if kind is bool:
        if value.strip().lower() in _TRUE:
            return True
        if value.strip().lower() in _FALSE:
            return False
        raise ConfigurationError(f"{name}={value!r} is neither true nor false; write 1 or 0")
    try:
        return kind(value)
    except ValueError as exc:
        raise ConfigurationError(f"{name}={value!r} is no number; {_KIND_REMEDIES[kind]}") from exc


def _comma_joined(secrets: list[Any] | tuple[Any, ...]) -> str:
    for number, secret in enumerate(secrets, 1):
        # An empty secret alone would turn sealing off in silence.
        if not isinstance(secret, str) or not secret.strip() or "," in secret:
            raise ConfigurationError(
                f"number {number} of {len(secrets)} in secret is no secret; give strings, not empty and without a comma"
            )
    return ",".join(secrets)
