"""The contestants: a raw socket, pymemcache, the dogpile recipe, advanced-alchemy, drivers, SQLAlchemy, and ours."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import dogpile.cache
import msgspec
import pymysql
import sqlalchemy as sa
from pymemcache.client.base import Client  # type: ignore[import-untyped]
from sqlalchemy import orm

from benchmarks.method import Contestant
from benchmarks.world import World, item_of, key_of, person
from person_repo import Person, PersonService

__all__ = [
    "DOGPILE",
    "DRIVER",
    "OURS",
    "PYMEMCACHE",
    "PYMEMCACHE_TIMED",
    "RAW",
    "RAW_HIT",
    "RAW_MISS",
    "RAW_OURS",
    "SESSION",
    "Recipe",
    "advanced_alchemy",
    "around_commit",
    "batches_of",
    "dogpile_get_multi",
    "dogpile_recipe",
    "driver",
    "fill",
    "ours",
    "ours_many",
    "pymemcache",
    "pymemcache_many",
    "raw_exchange",
    "raw_hit",
    "raw_miss",
    "raw_socket",
    "raw_socket_ours",
    "session_get",
]

OURS = "ours"
RAW = "raw socket"
RAW_OURS = "raw socket, our request"
PYMEMCACHE = "pymemcache, bytes"
PYMEMCACHE_TIMED = "pymemcache, bytes, with a timeout"
DOGPILE = "dogpile get_or_create"
DRIVER = "driver, open cursor"
RAW_HIT = "raw socket, decoded, an object"
RAW_MISS = "raw socket and driver"
SESSION = "Session.get, new session"

_RECEIVE = 65536
_DEADLINE = 0.25
_EPOCH = 8
"""The bytes before each item of ours: the epoch of its model."""


def _is_person(id: str, answer: object) -> bool:
    return answer == person(id)


def _are_people(ids: Sequence[str], answer: object) -> bool:
    return answer == {id: person(id) for id in ids}


# Ours


def ours(service: PersonService, name: str = OURS, *, prepare: Callable[[Any], object] | None = None) -> Contestant:
    """``get`` of one person."""
    return Contestant(name, service.get, prepare, _is_person)


def ours_many(service: PersonService, name: str = OURS) -> Contestant:
    """``get_many`` of a tuple of ids."""
    return Contestant(name, service.get_many, expect=_are_people)


# The floor


def raw_socket(world: World, items: Sequence[Any]) -> Contestant:
    """One classic ``get`` on a blocking socket, of an id or of a tuple of them; nothing is parsed."""
    fill(world)
    connection = _connected(world)
    requests = {item: f"get {' '.join(map(key_of, _tuple(item)))}\r\n".encode() for item in items}

    def call(item: Hashable) -> bytes:
        return raw_exchange(connection, requests[item])

    def expect(item: Hashable, reply: bytes) -> bool:
        return all(item_of(id) in reply for id in _tuple(item))

    return Contestant(RAW, call, expect=expect)


def raw_exchange(connection: socket.socket, request: bytes) -> bytes:
    """The reply to a classic ``get``."""
    connection.sendall(request)
    reply = connection.recv(_RECEIVE)
    while reply[-5:] != b"END\r\n":
        reply += connection.recv(_RECEIVE)
    return reply


def raw_socket_ours(world: World, service: Callable[[str], PersonService], method: str, items: Sequence[Any]) -> Any:
    """The request that ``method`` of a service sends for each item, sent again on a blocking socket.

    ``service`` makes a service from a cache URL. A relay between it and memcached records its requests.
    """
    requests: dict[Hashable, tuple[bytes, int]] = {}
    host, port = world.memcached[0].url.split(":")
    with _Relay((host, int(port))) as relay:
        people = service(f"memcached://{relay.url}")
        call_ours = getattr(people, method)
        call_ours(items[0])
        for item in items:
            relay.forget()
            call_ours(item)
            requests[item] = (bytes(relay.asked), relay.answered)
        people.close()
    connection = _connected(world)

    def call(item: Hashable) -> int:
        request, left = requests[item]
        connection.sendall(request)
        while left > 0:
            left -= len(connection.recv(_RECEIVE))
        return left

    return Contestant(RAW_OURS, call, expect=lambda _, left: left == 0)


class _Relay:
    """Passes bytes between one client and a server, and records the request and the size of the reply."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.asked = bytearray()
        self.answered = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._server = socket.create_connection(server)
        self._client: socket.socket | None = None

    def __enter__(self) -> _Relay:
        threading.Thread(target=self._pass_on, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listening, self._server, self._client):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def forget(self) -> None:
        self.asked.clear()
        self.answered = 0

    def _pass_on(self) -> None:
        with contextlib.suppress(OSError):
            self._client, _ = self._listening.accept()
            threading.Thread(target=self._pass_back, args=(self._client,), daemon=True).start()
            while part := self._client.recv(_RECEIVE):
                self.asked += part
                self._server.sendall(part)

    def _pass_back(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := self._server.recv(_RECEIVE):
                self.answered += len(part)  # The client must find its reply counted.
                client.sendall(part)


def _connected(world: World) -> socket.socket:
    host, port = world.memcached[0].url.split(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    world.close_later(connection.close)
    return connection


def _tuple(item: Any) -> tuple[str, ...]:
    return (item,) if isinstance(item, str) else item


# pymemcache


def fill(world: World) -> None:
    """Store the bytes that we would cache under other keys, for contestants that only read bytes."""
    client = pymemcache_client(world)
    refused = client.set_many({key_of(id): item_of(id) for id in world.hot}, noreply=False)
    assert not refused, refused


def pymemcache_client(world: World, timeout: float | None = None) -> Client:
    """A client without a serializer, and by default without a timeout."""
    client = Client(world.memcached[0].url, timeout=timeout)
    world.close_later(client.close)
    return client


def pymemcache(world: World, name: str = PYMEMCACHE, timeout: float | None = None) -> Contestant:
    """``Client.get``: bytes."""
    fill(world)
    keys = {id: key_of(id) for id in world.hot}
    get = pymemcache_client(world, timeout).get
    return Contestant(name, lambda id: get(keys[id]), expect=lambda id, answer: answer == item_of(id))


def pymemcache_many(world: World, batches: Sequence[tuple[str, ...]]) -> Contestant:
    """``Client.get_many`` of a tuple of ids: bytes."""
    fill(world)
    keys = {ids: [key_of(id) for id in ids] for ids in batches}
    get_many = pymemcache_client(world).get_many

    def expect(ids: Sequence[str], answer: object) -> bool:
        return answer == {key_of(id): item_of(id) for id in ids}

    return Contestant(PYMEMCACHE, lambda ids: get_many(keys[ids]), expect=expect)


# The dogpile recipe


class Recipe:
    """The recipe of dogpile's documentation: ``get_or_create`` around a session that loads the object."""

    def __init__(self, region: dogpile.cache.CacheRegion, engine: sa.Engine) -> None:
        self.region = region
        self._sessions = orm.sessionmaker(engine)

    @classmethod
    def over(cls, world: World, engine: sa.Engine, *, memory: bool = False, expiration_time: int = 3600) -> Recipe:
        """The recipe over memcached by dogpile's pymemcache backend, or over a dictionary."""
        backend = "dogpile.cache.memory" if memory else "dogpile.cache.pymemcache"
        arguments = {} if memory else {"url": [world.memcached[0].url]}
        region = dogpile.cache.make_region().configure(backend, expiration_time=expiration_time, arguments=arguments)
        return cls(region, engine)

    def get(self, id: str) -> Person | None:
        """The person, cached."""
        return self.region.get_or_create(f"person:{id}", lambda: self.load(id))  # type: ignore[no-any-return]

    def load(self, id: str) -> Person | None:
        """The person from the database."""
        with self._sessions() as session:
            return session.get(Person, id)

    def warm(self, ids: Sequence[str]) -> Recipe:
        """Cache these people; returns itself."""
        for id in ids:
            self.get(id)
        return self

    def forget(self, ids: Sequence[str]) -> None:
        """Delete these people from the cache."""
        for id in ids:
            self.region.delete(f"person:{id}")


def dogpile_recipe(recipe: Recipe, *, prepare: Callable[[Any], object] | None = None) -> Contestant:
    """``get_or_create`` of one person."""
    return Contestant(DOGPILE, recipe.get, prepare, _is_person)


def dogpile_get_multi(recipe: Recipe) -> Contestant:
    """``get_multi`` of a tuple of ids, all of them cached."""
    get_multi: Callable[[list[str]], object] = recipe.region.get_multi

    def expect(ids: Sequence[str], answer: object) -> bool:
        return answer == [person(id) for id in ids]

    return Contestant("dogpile get_multi", lambda ids: get_multi([f"person:{id}" for id in ids]), expect=expect)


# advanced-alchemy


def advanced_alchemy(world: World, engine: sa.Engine) -> list[Contestant]:
    """``get`` of a repository with a cache manager over dogpile's pymemcache backend; none if it is not installed.

    It has a model of its own on the same table, because it builds cached objects with the model's constructor, and ours
    takes no version there. The repository and its session are made once, not for each request.
    """
    try:
        from advanced_alchemy.cache import CacheConfig, CacheManager
        from advanced_alchemy.repository import SQLAlchemySyncRepository
    except ImportError:
        return []

    class Base(orm.DeclarativeBase):
        pass

    class AlchemyPerson(Base):
        __tablename__ = "person"
        id = orm.mapped_column(sa.String(100), primary_key=True)
        first_name = orm.mapped_column(sa.String(200))
        last_name = orm.mapped_column(sa.String(200))
        version = orm.mapped_column(sa.Integer)

    class Repository(SQLAlchemySyncRepository[AlchemyPerson]):
        model_type = AlchemyPerson

    session = orm.Session(engine)
    world.close_later(session.close)
    config = CacheConfig(backend="dogpile.cache.pymemcache", arguments={"url": [world.memcached[0].url]})
    get = Repository(session=session, auto_expunge=True, cache_manager=CacheManager(config)).get

    def expect(id: str, answer: AlchemyPerson) -> bool:
        return (answer.id, answer.first_name) == (id, person(id).first_name)

    for id in world.hot:
        get(id)
    session.rollback()
    return [Contestant("advanced-alchemy", get, expect=expect)]


# The database


def session_get(engine: sa.Engine) -> Contestant:
    """``Session.get`` in a new session."""
    return Contestant(SESSION, Recipe(dogpile.cache.make_region(), engine).load, expect=_is_person)


def driver(world: World, url: str) -> Contestant:
    """The driver's own statement on an open cursor, each a transaction of its own."""
    cursor, mark = _mysql_cursor(world, url) if url.startswith("mysql") else _sqlite_cursor(world, url)
    query = f"SELECT id, first_name, last_name, version FROM person WHERE id = {mark}"

    def call(id: str) -> Any:
        cursor.execute(query, (id,))
        return cursor.fetchone()

    return Contestant(DRIVER, call, expect=lambda id, answer: answer[0] == id)


def mysql_connection(world: World, url: str) -> Any:
    """A connection of PyMySQL's, as SQLAlchemy would open it."""
    parsed = sa.make_url(url)
    connection = pymysql.connect(
        host=parsed.host, port=parsed.port or 3306, user=parsed.username, database=parsed.database, charset="utf8mb4"
    )
    world.close_later(connection.close)
    return connection


def _mysql_cursor(world: World, url: str) -> tuple[Any, str]:
    connection = mysql_connection(world, url)
    connection.autocommit(True)
    return connection.cursor(), "%s"


def _sqlite_cursor(world: World, url: str) -> tuple[Any, str]:
    connection = sqlite3.connect(str(sa.make_url(url).database), isolation_level=None)
    world.close_later(connection.close)
    return connection.cursor(), "?"


def raw_hit(world: World, service: Callable[[str], PersonService], items: Sequence[Any]) -> Contestant:
    """The least that a hit needs: one exchange on a socket with a deadline, the item decoded, an object made by
    SQLAlchemy's rules. Neither the reply nor the right to use it is checked.
    """
    people = service(world.cache_url())
    keys, mapping = people.cached.keys, people.cached.mapping
    connection = _connected(world)
    connection.settimeout(_DEADLINE)
    requests = {item: b"mg %b v\r\n" % keys.key_of((item,))[0].encode() for item in items}
    decode = msgspec.msgpack.Decoder(tuple[Any, str, tuple[str, str, str, int] | None]).decode

    def call(id: str) -> Person:
        connection.sendall(requests[id])
        received = connection.recv(_RECEIVE)
        _, _, row = decode(received[received.find(b"\r\n") + 2 + _EPOCH : -2])
        return mapping.hydrate(row)

    return Contestant(RAW_HIT, call, expect=_is_person)


def raw_miss(world: World, url: str) -> Contestant:
    """The least that a miss needs: an exchange for a lease, the driver's statement on an open cursor, one to fill."""
    connection = _connected(world)
    cursor, mark = _mysql_cursor(world, url)
    query = f"SELECT id, first_name, last_name, version FROM person WHERE id = {mark}"

    def call(id: str) -> Any:
        key, item = key_of(id).encode(), item_of(id)
        connection.sendall(b"mg %b f c v N10\r\n" % key)
        connection.recv(_RECEIVE)
        cursor.execute(query, (id,))
        found = cursor.fetchone()
        connection.sendall(b"ms %b %d T60\r\n%b\r\n" % (key, len(item), item))
        connection.recv(_RECEIVE)
        return found

    def forget(ids: Sequence[str]) -> None:
        for id in ids:
            connection.sendall(b"md %b\r\n" % key_of(id).encode())
            connection.recv(_RECEIVE)

    return Contestant(RAW_MISS, call, forget, lambda id, answer: answer[0] == id)


def around_commit(world: World, engine: sa.Engine) -> sa.Engine:
    """The engine, with the least that a covered commit needs: one exchange with the cache before COMMIT, of as many
    commands as ours, and one after it.
    """
    connection = _connected(world)
    dialect: Any = engine.dialect
    commit = dialect.do_commit
    key = key_of("commit").encode()
    before = b"mg %b N30\r\nms %b 16 MA c\r\n%b\r\nmg %b T30 f s c\r\n" % (key, key, bytes(16), key)

    def do_commit(dbapi_connection: Any) -> None:
        connection.sendall(before)
        reply = connection.recv(_RECEIVE)
        while reply.count(b"\r\n") < 3:
            reply += connection.recv(_RECEIVE)
        commit(dbapi_connection)
        connection.sendall(b"md %b\r\n" % key)
        connection.recv(_RECEIVE)

    dialect.do_commit = do_commit
    return engine


def batches_of(ids: Sequence[str], size: int, count: int) -> Iterator[tuple[str, ...]]:
    """``count`` different batches of ids, spread over all of them."""
    step = max(len(ids) // size, 1)
    for at in range(count):
        yield tuple(ids[(at + step * number) % len(ids)] for number in range(size))
