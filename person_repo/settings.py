"""Frozen settings; the only reader of the environment; parses cache URLs."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from person_repo.exceptions import ConfigurationError
from person_repo.mapped.sealing import Seal

__all__ = ["KNOWN_SCHEMES", "ON_UNREACHABLE", "CacheSettings", "CacheUrl", "Settings", "parse_cache_url", "redact"]

KNOWN_SCHEMES = ("memcached", "memory", "null")
ON_UNREACHABLE = ("proceed", "strict", "refuse")

_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,40}")
# A server of a URL: neither user, path, query nor anything that urlsplit would drop without a word.
_SERVER = re.compile(r"[^\s\x00-\x20\x7f@/?#\\]+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET_OPTION = re.compile(
    r"(?i)[?&;][^=&;]*(?:password|passwd|pwd|passphrase|secret|token|credential)[^=&;]*=([^&]*)"
)
_SPOKEN: Mapping[type, str] = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
_KINDS: Mapping[str, type] = {"int": int, "float": float, "bool": bool, "str": str}
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})

# memcached takes a larger number for a date, not for a duration (protocol.txt, "Expiration times").
_LONGEST_TTL = 30 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """How a region caches. Every field is also an option of a cache URL.

    ``ttl``: seconds a value or a negative entry lives at the server. ``ttl_jitter``: the part of it by which each
    value's may be shorter, at random. ``refresh_ahead``: the last part of it, in which one reader renews
    a value that is still read. ``lease_ttl``: seconds after which a
    reader that died has lost its right to fill. ``tombstone_ttl``: seconds a tombstone outlives a
    writer that died; longer than the slowest commit. ``wait``: seconds a reader waits for another's load before
    it loads for itself. ``timeout``: seconds one operation may wait for the cache, in all: connecting,
    further attempts and every server included. ``connect_timeout``: seconds of these for opening a connection.
    ``breaker_failures``: failures in a row after which a server is left alone. ``breaker_reset``: seconds
    after which one operation tries it again. ``on_unreachable``: what a commit does where a tombstone cannot be placed:
    ``proceed`` (readers learn of it within ``fence_interval``), ``strict`` (the commit waits until they
    have), ``refuse`` (it raises). ``fence_interval``: seconds for which a process may go by what it last read of
    such commits. ``max_loads``: loads of one process from the database at a time, 0 for no bound.
    ``max_load_wait``: seconds a read waits for its turn then, before it raises. ``max_keys``: changed keys of one model
    in one transaction above which the whole model is dropped. ``max_items``: entries a memory region holds.
    ``secret``: seals every value (see ``sealing``); of several, separated by commas, the first seals and each opens.
    """

    namespace: str = "person_repo"
    ttl: int = 3600
    ttl_jitter: float = 0.1
    refresh_ahead: float = 0.05
    lease_ttl: int = 5
    tombstone_ttl: int = 60
    wait: float = 0.1
    timeout: float = 0.25
    connect_timeout: float = 0.25
    breaker_failures: int = 3
    breaker_reset: float = 1.0
    on_unreachable: str = "proceed"
    fence_interval: float = 1.0
    max_loads: int = 0
    max_load_wait: float = 5.0
    max_keys: int = 1000
    max_items: int = 100_000
    tls: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_hostname: str = ""
    secret: str = dataclasses.field(default="", repr=False)

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_kind(field.name, getattr(self, field.name), _KINDS[str(field.type)])
        if not _NAMESPACE.fullmatch(self.namespace):
            raise ConfigurationError(f"namespace {self.namespace!r}: give 1 to 40 of the characters A-Z a-z 0-9 _ . -")
        for name in ("ttl", "lease_ttl", "tombstone_ttl"):
            if not 1 <= getattr(self, name) <= _LONGEST_TTL:
                raise ConfigurationError(
                    f"{name} {getattr(self, name)!r}: give whole seconds between 1 and {_LONGEST_TTL} (30 days)"
                )
        for name in ("timeout", "connect_timeout", "breaker_reset", "fence_interval", "max_load_wait"):
            if not 0 < getattr(self, name) <= 60:
                raise ConfigurationError(f"{name} {getattr(self, name)!r}: give seconds above 0, at most 60")
        for name in ("ttl_jitter", "refresh_ahead"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise ConfigurationError(f"{name} {getattr(self, name)!r}: give a part of the ttl, between 0 and 0.5")
        if not 0 <= self.wait <= 60:
            raise ConfigurationError(f"wait {self.wait!r}: give seconds between 0 and 60")
        if self.on_unreachable not in ON_UNREACHABLE:
            raise ConfigurationError(f"on_unreachable {self.on_unreachable!r}: give {', '.join(ON_UNREACHABLE)}")
        if self.max_loads < 0:
            raise ConfigurationError(f"max_loads {self.max_loads!r}: give at least 1, or 0 for no bound")
        for name in ("max_keys", "max_items", "breaker_failures"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} {getattr(self, name)!r}: give at least 1")
        for name in ("tls_ca", "tls_cert", "tls_key", "tls_hostname"):
            if getattr(self, name) and not self.tls:
                raise ConfigurationError(f"{name} is given and tls is off, so nothing would be encrypted; add tls=1")
        Seal.of(self.secret)  # one that cannot be used is refused where it is given, not at the first service

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

    def __repr__(self) -> str:
        return (
            f"Settings(database_url={redact(self.database_url)!r}, cache_url={redact(self.cache_url)!r}, "
            f"use_db={self.use_db!r})"
        )

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

    In the path of a socket, ``memcached:///path/to.sock``, a question mark is written ``%3F`` and a percent sign
    ``%25``. Options stay strings; ``CacheSettings.with_options`` converts them.

    Raises ``ConfigurationError`` for an unknown scheme, a port that is none, a missing server, an option given twice.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in KNOWN_SCHEMES:
        known = ", ".join(f"{name}://" for name in KNOWN_SCHEMES)
        raise ConfigurationError(f"cache URL {redact(url)!r} has no known scheme; known are: {known}")
    place, _, query = rest.partition("?")
    options = _options(query, url)
    if scheme != "memcached":
        if place.strip("/"):
            raise ConfigurationError(
                f"cache URL {redact(url)!r}: {scheme}:// takes no server; write {scheme}://, then ?option=value"
            )
        return CacheUrl(scheme, (), options)
    if place.startswith("/"):
        return CacheUrl(scheme, (_socket(place, url),), options)
    servers = tuple(_server(part, url) for part in place.rstrip("/").split(","))
    if len(set(servers)) != len(servers):
        raise ConfigurationError(f"cache URL {redact(url)!r} names a server twice")
    return CacheUrl(scheme, servers, options)


def redact(url: object) -> str:
    """The URL as text with its passwords as ``***``; fit for messages and logs.

    A password that was not percent-encoded may hold any delimiter, so everything from the first colon after the scheme
    to the last ``@`` is taken for one: in doubt, too much is hidden.
    """
    render = getattr(url, "render_as_string", None)
    text = render(hide_password=True) if callable(render) else str(url)
    secret = [match.span(1) for match in _SECRET_OPTION.finditer(text)]
    scheme = _SCHEME.match(text)
    colon = text.find(":", scheme.end() if scheme else 0)
    at = text.rfind("@")
    if 0 <= colon < at:
        secret.append((colon + 1, at))
    shown, end = "", 0
    for start, stop in sorted(secret):
        if start > end or not shown:
            shown += text[end:start] + "***"
        end = max(end, stop)
    return shown + text[end:]


def _options(query: str, url: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ConfigurationError(f"cache URL {redact(url)!r} gives an option twice")
    if not all(map(str.isidentifier, options)):
        raise ConfigurationError(f"cache URL {redact(url)!r}: after the ? only option=value, joined by &, can stand")
    return options


def _socket(place: str, url: str) -> str:
    path = unquote(place)
    if path.endswith("/") or "\0" in path:
        raise ConfigurationError(f"cache URL {redact(url)!r} has no path of a socket; write memcached:///path/to.sock")
    return path


def _server(part: str, url: str) -> str:
    try:
        if not _SERVER.fullmatch(part) or part.endswith(":"):
            raise ValueError(part)
        pieces = urlsplit(f"//{part}")
        host, port = pieces.hostname, 11211 if pieces.port is None else pieces.port
    except ValueError:
        host, port = None, 0
    if not host or not port:
        shown = "a part" if "@" in url else repr(part)  # of a URL with a password, any part can be a piece of it
        raise ConfigurationError(
            f"cache URL {redact(url)!r}: {shown} is no server; write host, host:port or [address]:port, without a user"
        )
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_kind(name: str, value: object, kind: type) -> None:
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        shown = name if name == "secret" else f"{name}={value!r}"
        raise ConfigurationError(f"{shown} is {type(value).__name__}; give {_SPOKEN[kind]}")


def _convert(name: str, value: Any, kind: type) -> Any:
    """A string, as a URL or the environment has it, as a value of the kind; anything else as it is, but for a list of
    secrets.
    """
    if name == "secret" and isinstance(value, (list, tuple)):
        return _joined(value)
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
        raise ConfigurationError(f"{name}={value!r} is no number; give {_SPOKEN[kind]}") from exc


def _joined(secrets: list[Any] | tuple[Any, ...]) -> str:
    """Secrets as one string. An empty one is refused: alone it would turn sealing off without a word."""
    for number, secret in enumerate(secrets, 1):
        if not isinstance(secret, str) or not secret.strip() or "," in secret:
            raise ConfigurationError(
                f"number {number} of {len(secrets)} in secret is no secret; give strings, not empty and without a comma"
            )
    return ",".join(secrets)
