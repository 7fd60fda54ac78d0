"""Cache URLs taken apart, and all URLs shown without their passwords. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from person_repo.exceptions import ConfigurationError

__all__ = ["KNOWN_SCHEMES", "CacheUrl", "hide_passwords", "parse_cache_url", "parse_servers", "redact"]

KNOWN_SCHEMES = ("memcached", "memory", "null")
"""The schemes of a cache URL."""

# Neither user, path nor query, nor anything that urlsplit would drop in silence.
_SERVER = re.compile(r"[^\s\x00-\x20\x7f@/?#\\]+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET_OPTION = re.compile(
    r"(?i)[?&;][^=&;]*(?:password|passwd|pwd|passphrase|secret|token|credential)[^=&;]*=([^&]*)"
)


@dataclass(frozen=True, slots=True)
class CacheUrl:
    """A parsed cache URL: ``scheme``, ``servers`` (``host:port`` or a socket path each), ``options``."""

    scheme: str
    servers: tuple[str, ...]
    options: Mapping[str, str]


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


def parse_servers(places: Iterable[str]) -> tuple[str, ...]:
    """The servers of a list of ``host[:port]`` and paths of sockets, as in ``CacheUrl.servers``.

    Raises ``ConfigurationError`` for an empty list, something else in it, or a server that is named twice.
    """
    if not isinstance(places, Iterable):
        raise ConfigurationError(f"{places!r} names no servers; give a list of host:port, or of paths of sockets")
    servers = tuple(map(_listed, places))
    if not servers:
        raise ConfigurationError("no server is given; give a list of host:port, or of paths of sockets")
    for at, server in enumerate(servers):
        if server in servers[:at]:
            raise ConfigurationError(f"the list of servers names {server!r} twice; name it once")
    return servers


def redact(url: object) -> str:
    """The URL as text with its passwords as ``***``; fit for messages and logs. ``url``: a string, or SQLAlchemy's.

    A password that is not percent-encoded may hold any delimiter, so all from the first colon after the scheme to the
    last ``@`` counts as one: in doubt, too much is hidden.
    """
    render = getattr(url, "render_as_string", None)
    text = render(hide_password=False) if callable(render) else str(url)
    parts, end = [], 0
    for start, stop in _passwords_in(text):
        parts += [text[end:start], "***"]
        end = stop
    return "".join([*parts, text[end:]])


def hide_passwords(text: str, *urls: str) -> str:
    """A text with the passwords of these URLs as ``***``, as they are written there and as they are meant.

    A password is hidden as a word of its own only, and not if its URL shows the same word elsewhere. Otherwise the
    stars would give it away: ``mysql+***ymysql`` says that it is ``p``, ``Access denied for user '***'`` that it is the
    user's name.
    """
    for url in urls:
        visible = redact(url)
        text = text.replace(url, visible)
        written = [url[start:stop] for start, stop in _passwords_in(url)]
        for password in sorted({*written, *map(unquote, written)} - {""}, key=len, reverse=True):
            as_word = _word(password)
            if not as_word.search(visible):
                text = as_word.sub("***", text)
    return text


def _passwords_in(url: str) -> list[tuple[int, int]]:
    """The start and end of each password in a URL, in order, none touching another."""
    spans = [match.span(1) for match in _SECRET_OPTION.finditer(url)]
    scheme = _SCHEME.match(url)
    first_colon = url.find(":", scheme.end() if scheme else 0)
    last_at = url.rfind("@")
    if 0 <= first_colon < last_at:
        spans.append((first_colon + 1, last_at))
    apart: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if apart and start <= apart[-1][1]:
            start, before = apart.pop()
            end = max(before, end)
        apart.append((start, end))
    return apart


def _word(text: str) -> re.Pattern[str]:
    before = r"(?<!\w)" if re.match(r"\w", text) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", text) else ""
    return re.compile(f"{before}{re.escape(text)}{after}")


def _options(query: str, url: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ConfigurationError(f"cache URL {redact(url)!r} gives an option twice")
    if not all(map(str.isidentifier, options)):
        raise ConfigurationError(f"cache URL {redact(url)!r}: after the ? only option=value, joined by &, can stand")
    return options


def _listed(place: object) -> str:
    if not isinstance(place, str) or "://" in place:
        shown = redact(place) if isinstance(place, str) else place
        raise ConfigurationError(
            f"{shown!r} in a list of servers is neither host:port nor the path of a socket; a cache URL names all "
            "servers in one string"
        )
    if place.startswith("/"):
        return _socket(quote(place), f"memcached://{place}")
    return _server(place, f"memcached://{place}")


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
        shown = "a part" if "@" in url else repr(part)  # any part of a URL with a password can be a piece of it
        raise ConfigurationError(
            f"cache URL {redact(url)!r}: {shown} is no server; write host, host:port or [address]:port, without a user"
        )
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
