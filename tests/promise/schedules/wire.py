"""A memcached without a network: the meta commands that ``cache.memcached.backend`` sends, as 1.6.18 has them.

Commands are executed one at a time, when the schedule says so. ``test_schedules`` compares every reply with a
real memcached's over random sequences of commands.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

__all__ = ["Clock", "Command", "FakeMemcached", "Item", "commands_of"]

_NEVER = 0
# More is a date to memcached, less is over at once.
_LONGEST = 30 * 24 * 3600
_KNOWN: Mapping[bytes, frozenset[bytes]] = {
    b"mg": frozenset([b"f", b"c", b"s", b"t", b"v", b"T", b"N", b"R"]),
    b"ms": frozenset([b"C", b"F", b"T", b"M", b"c"]),
    b"md": frozenset([b"C"]),
}


class Clock:
    """A clock whose time passes only when a schedule says so."""

    __slots__ = ("now",)

    def __init__(self, now: float = 1_000_000) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Command(NamedTuple):
    """One command as it came over a connection: its key, the flags it has by their letters, a value, the whole line."""

    verb: bytes
    key: bytes
    flags: Mapping[bytes, bytes]
    body: bytes
    text: str


class Item(NamedTuple):
    """An item: client flags, bytes, CAS id, the second at which it ends (0: never), whether a lease was given, and who
    made it (``FakeMemcached.maker``).
    """

    flags: int
    body: bytes
    cas: int
    until: float
    won: bool
    made: object


@functools.lru_cache(100_000)
def commands_of(request: bytes) -> tuple[Command, ...]:
    """The commands of a request, in order; a ``get`` of several keys is as many."""
    return tuple(_parsed(request))


def _parsed(request: bytes) -> Iterator[Command]:
    at = 0
    while at < len(request):
        line, _, _ = request[at:].partition(b"\r\n")
        verb, *words = line.split()
        at += len(line) + 2
        body = b""
        if verb == b"get":
            # Each key is looked up by itself: another's command may come between any two.
            for key in words:
                yield Command(verb, key, {b"last": b""} if key is words[-1] else {}, b"", f"get {key.decode()}")
            continue
        if verb == b"ms":
            size = int(words.pop(1))
            body = request[at : at + size]
            at += size + 2
            if request[at - 2 : at] != b"\r\n":
                raise ValueError(f"a value does not end where its line says: {request!r}")
        flags = {word[:1]: word[1:] for word in words[1:]}
        unknown = not set(flags) <= _KNOWN.get(verb, frozenset()) or {b"C", b"M"} <= set(flags)
        if unknown and line != b"stats settings":
            raise ValueError(f"the fake memcached does not know {line!r}")
        yield Command(verb, words[0], flags, body, line.decode())


class FakeMemcached:
    """One server. ``restart`` forgets everything and starts the CAS ids again; connections notice by ``incarnation``.

    ``maker`` is kept with every item made, to name its CAS id. ``shown``: the item whose CAS id the last reply gave.
    """

    __slots__ = ("clock", "incarnation", "items", "last_cas", "maker", "running", "shown")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.items: dict[bytes, Item] = {}
        self.last_cas = 0
        self.incarnation = 1
        self.running = True
        self.maker: object = None
        self.shown: Item | None = None

    def restart(self) -> None:
        """Forgets everything, CAS ids included."""
        self.items = {}
        self.last_cas = 0
        self.incarnation += 1

    def live(self) -> dict[bytes, Item]:
        """The items that have not expired; the others are dropped."""
        now = self.clock.now
        for key in [key for key, item in self.items.items() if item.until and item.until <= now]:
            del self.items[key]
        return self.items

    def execute(self, command: Command) -> bytes:
        """Executes one command and returns its reply."""
        self.shown = None
        verb = command.verb
        if verb == b"mg":
            return self._get(command)
        if verb == b"get":
            return self._classic_get(command)
        if verb == b"ms":
            return self._set(command)
        if verb == b"md":
            return self._delete(command)
        return b"STAT item_size_max 1048576\r\nSTAT cas_enabled yes\r\nEND\r\n"

    def _item(self, key: bytes) -> Item | None:
        item = self.items.get(key)
        if item is not None and item.until and item.until <= self.clock.now:
            del self.items[key]
            return None
        return item

    def _link(self, key: bytes, flags: int, body: bytes, until: float, won: bool = False) -> Item:
        self.last_cas += 1
        item = self.items[key] = Item(flags, body, self.last_cas, until, won, self.maker)
        return item

    def _until(self, ttl: bytes) -> float:
        seconds = int(ttl)
        if not 0 <= seconds <= _LONGEST:
            raise ValueError(f"the fake memcached knows no ttl of {seconds} s")
        return self.clock.now + seconds if seconds else _NEVER

    def _get(self, command: Command) -> bytes:
        """Takes the flags in their order, as memcached does: a ttl that is asked before it is set is the old one."""
        key, flags = command.key, command.flags
        item = self._item(key)
        last = b""
        if item is None:
            if b"N" not in flags:
                return b"EN\r\n"
            item = self._link(key, 0, b"", _NEVER, won=True)
            last = b" W"
        elif item.won:
            last = b" Z"
        elif item.until and item.until - self.clock.now < int(flags.get(b"R", b"0")):
            item = self.items[key] = item._replace(won=True)
            last = b" W"
        words = b""
        for flag, argument in flags.items():
            if flag == b"T" or (flag == b"N" and last == b" W"):
                item = self.items[key] = item._replace(until=self._until(argument))
            elif flag in _WORDS:
                words += _WORDS[flag](self, item)
        if b"c" in flags:
            self.shown = item
        if b"v" in flags:
            return b"VA %d%b%b\r\n%b\r\n" % (len(item.body), words, last, item.body)
        return b"HD%b%b\r\n" % (words, last)

    def _classic_get(self, command: Command) -> bytes:
        item = self._item(command.key)
        end = b"END\r\n" if b"last" in command.flags else b""
        if item is None:
            return end
        return b"VALUE %b %d %d\r\n%b\r\n%b" % (command.key, item.flags, len(item.body), item.body, end)

    def _set(self, command: Command) -> bytes:
        """Cases: append, to something; add, to nothing; compare and set; set."""
        key, flags = command.key, command.flags
        item = self._item(key)
        mode, wanted = flags.get(b"M", b"S"), flags.get(b"C")
        stored: Item | None = None
        word = b"NS"
        if mode == b"A":
            if item is not None:
                stored = self._link(key, item.flags, item.body + command.body, item.until)
        elif mode == b"E" and item is not None:
            pass
        elif wanted is not None and (item is None or item.cas != int(wanted)):
            word = b"NF" if item is None else b"EX"
        else:
            until = self._until(flags.get(b"T", b"0"))
            stored = self._link(key, int(flags.get(b"F", b"0")), command.body, until)
        if stored is not None:
            word = b"HD"
            self.shown = stored
        if b"c" not in flags:
            return word + b"\r\n"
        return b"%b c%d\r\n" % (word, stored.cas if stored else 0)

    def _delete(self, command: Command) -> bytes:
        item = self._item(command.key)
        if item is None:
            return b"NF\r\n"
        wanted = command.flags.get(b"C")
        if wanted is not None and int(wanted) != item.cas:
            return b"EX\r\n"
        del self.items[command.key]
        return b"HD\r\n"


_WORDS: Mapping[bytes, Callable[[FakeMemcached, Item], bytes]] = {
    b"f": lambda server, item: b" f%d" % item.flags,
    b"c": lambda server, item: b" c%d" % item.cas,
    b"s": lambda server, item: b" s%d" % len(item.body),
    b"t": lambda server, item: b" t%d" % (item.until - server.clock.now if item.until else -1),
}
