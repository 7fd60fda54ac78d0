"""Frozen settings; the only reader of the environment; parses cache URLs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from person_repo.exceptions import ConfigurationError

__all__ = ["KNOWN_SCHEMES", "CacheSettings", "CacheUrl", "Settings", "parse_cache_url", "redact"]

KNOWN_SCHEMES = ("memcached", "memory", "null")

_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})

# memcached takes a larger number for a date, not for a duration (protocol.txt, "Expiration times").
_LONGEST_TTL = 30 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """How a region caches. Every field is also an option of a cache URL.

    ``ttl``: seconds a value or a negative entry lives at the server. ``lease_ttl``: seconds after which a
    reader that died has lost its right to fill. ``tombstone_ttl``: seconds a tombstone outlives a
    writer that died; longer than the slowest commit. ``wait``: seconds a reader waits for another's load before
    it loads for itself. ``timeout`` and ``connect_timeout``: seconds for one exchange with a server and
    for opening a connection to it. ``max_keys``: changed keys of one model in one transaction above
    which the whole model is dropped. ``max_items``: entries a memory region holds.
    """

    namespace: str = "person_repo"
    ttl: int = 3600
    lease_ttl: int = 5
    tombstone_ttl: int = 60
    wait: float = 0.1
    timeout: float = 0.25
    connect_timeout: float = 0.25
    max_keys: int = 1000
    max_items: int = 100_000
    tls: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_hostname: str = ""

    def __post_init__(self) -> None:
        if not _NAMESPACE.fullmatch(self.namespace):
            raise ConfigurationError(
                f"namespace {self.namespace!r}: give 1 to 40 of the characters A-Z a-z 0-9 _ . -"
            )
        for name in ("ttl", "lease_ttl", "tombstone_ttl"):
            if not 1 <= getattr(self, name) <= _LONGEST_TTL:
                raise ConfigurationError(
                    f"{name} {getattr(self, name)!r}: give whole seconds between 1 and {_LONGEST_TTL} (30 days)"
                )
        for name in ("timeout", "connect_timeout"):
            if not 0 < getattr(self, name) <= 60:
                raise ConfigurationError(f"{name} {getattr(self, name)!r}: give seconds above 0, at most 60")
        if not 0 <= self.wait <= 60:
            raise ConfigurationError(f"wait {self.wait!r}: give seconds between 0 and 60")
        for name in ("max_keys", "max_items"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} {getattr(self, name)!r}: give at least 1")

    def with_options(self, options: Mapping[str, Any], /) -> CacheSettings:
        """These settings with the given ones replaced; strings, as a URL has them, are converted.

        Raises ``ConfigurationError`` for an unknown name or a value of the wrong kind.
        """
        kinds = {field.name: type(getattr(self, field.name)) for field in fields(self)}
        unknown = sorted(set(options) - set(kinds))
        if unknown:
            raise ConfigurationError(f"unknown cache option {unknown[0]!r}; known are: {', '.join(sorted(kinds))}")
        return replace(self, **{name: _convert(name, value, kinds[name]) for name, value in options.items()})


@dataclass(frozen=True, slots=True)
class CacheUrl:
    """A parsed cache URL: ``scheme``, ``servers`` (``host:port`` or a socket path each), ``options``."""

    scheme: str
    servers: tuple[str, ...]
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line and ``connect`` need: two URLs and the toggle."""

    database_url: str = "sqlite:///people.db"
    cache_url: str = "memory://"
    use_db: bool = False

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings of ``PERSON_REPO_DATABASE_URL``, ``_CACHE_URL`` and ``_USE_DB``; defaults where unset.

        Raises ``ConfigurationError`` where ``PERSON_REPO_USE_DB`` is neither true nor false.
        """
        source = os.environ if environ is None else environ
        default = cls()
        return cls(
            database_url=source.get("PERSON_REPO_DATABASE_URL") or default.database_url,
            cache_url=source.get("PERSON_REPO_CACHE_URL") or default.cache_url,
            use_db=_convert("PERSON_REPO_USE_DB", source.get("PERSON_REPO_USE_DB", ""), bool),
        )


def parse_cache_url(url: str) -> CacheUrl:
    """The parts of ``memory://``, ``memcached://host[:port][,host[:port]...]?option=value`` and the like.

    Raises ``ConfigurationError`` for an unknown scheme, a port that is none, or a missing server.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in KNOWN_SCHEMES:
        known = ", ".join(f"{name}://" for name in KNOWN_SCHEMES)
        raise ConfigurationError(f"cache URL {redact(url)!r} has no known scheme; known are: {known}")
    place, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if scheme != "memcached":
        if place.strip("/"):
            raise ConfigurationError(f"cache URL {redact(url)!r}: {scheme}:// takes no server; leave {place!r} out")
        return CacheUrl(scheme, (), options)
    if place.startswith("/"):
        return CacheUrl(scheme, (place,), options)
    servers = tuple(_server(part, url) for part in place.rstrip("/").split(","))
    if len(set(servers)) != len(servers):
        raise ConfigurationError(f"cache URL {redact(url)!r} names a server twice")
    return CacheUrl(scheme, servers, options)


def redact(url: object) -> str:
    """The URL as text with its password as ``***``; fit for messages and logs."""
    render = getattr(url, "render_as_string", None)
    text = render(hide_password=True) if callable(render) else str(url)
    hidden = re.sub(r"(://[^/@]*?):([^@]*)@", r"\1:***@", text)
    return re.sub(r"(?i)((?:^|[?&])[^=&]*(?:password|passwd|secret|token)[^=&]*=)[^&]*", r"\1***", hidden)


def _server(part: str, url: str) -> str:
    try:
        pieces = urlsplit(f"//{part.strip()}")
        host, port = pieces.hostname, pieces.port or 11211
    except ValueError:
        host, port = None, 0
    if not host or pieces.username or pieces.path:
        raise ConfigurationError(
            f"cache URL {redact(url)!r}: {redact(part)!r} is no server; write host, host:port or [address]:port"
        )
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _convert(name: str, value: Any, kind: type) -> Any:
    if kind is bool and not isinstance(value, bool):
        if str(value).strip().lower() in _TRUE:
            return True
        if str(value).strip().lower() in _FALSE:
            return False
        raise ConfigurationError(f"{name}={value!r} is neither true nor false; write 1 or 0")
    try:
        return kind(value)
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"{name}={value!r} is not a {kind.__name__}") from exc
