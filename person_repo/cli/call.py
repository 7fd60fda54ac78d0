"""One call of the command line: its options, and the service or engine that they name."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from person_repo.settings import Settings
from person_repo.urls import redact

if TYPE_CHECKING:
    import sqlalchemy as sa

    from person_repo.service import PersonService

__all__ = ["TEXT", "Call", "Failure", "database_errors", "pass_call", "shared_options", "undisturbed"]

logger = logging.getLogger("person_repo.cli")

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """The end of a call with an exit code other than 0. ``kind`` is for programs, the message for people."""

    def __init__(self, kind: str, code: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.details = details


@dataclass(slots=True)
class Call:
    """The options of one call; None for each that was not given."""

    database_url: str | None = None
    cache_url: str | None = None
    use_db: bool | None = None
    json: bool = False
    after_interrupt: str = ""
    """How things stand if Ctrl-C comes now; part of the message then."""

    def settings(self) -> Settings:
        """The options given, over the environment, over the defaults."""
        given = {name: getattr(self, name) for name in ("database_url", "cache_url", "use_db")}
        return replace(Settings.from_environ(), **{name: value for name, value in given.items() if value is not None})

    @property
    def names_database(self) -> bool:
        """True if an option or the environment names a database other than the default one."""
        return self.database_url is not None or self.settings().database_url != Settings().database_url

    @contextlib.contextmanager
    def people(self) -> Iterator[PersonService]:
        """The service that the settings name. A missing schema or an unusable database ends the call."""
        from person_repo import connect

        settings = self.settings()
        with (
            database_errors(),
            connect(settings.database_url, settings.cache_url, use_db=settings.use_db) as people,
        ):
            _require_schema(people.engine)
            yield people

    def warn_if_no_cache_was_told(self) -> None:
        """After a change: without the name of a cache, applications that cache people have not heard of it."""
        if self.cache_url is None and self.settings().cache_url == Settings().cache_url:
            logger.warning(
                "no cache was named, so an application that caches people goes on with what it has; name its cache by "
                "--cache-url or PERSON_REPO_CACHE_URL (null:// if there is none)"
            )

    @contextlib.contextmanager
    def engine(self, *, may_create: bool = False) -> Iterator[sa.Engine]:
        """An engine of the database that the settings name, after a first connection.

        SQLite makes a file that does not exist when it is connected to; so it is not, unless ``may_create``.
        """
        from person_repo.database.engines import engine_of

        with database_errors():
            engine = engine_of(self.settings().database_url)
            try:
                if not is_absent(engine) or may_create:
                    _connect_once(engine)
                yield engine
            finally:
                engine.dispose()


@contextlib.contextmanager
def database_errors() -> Iterator[None]:
    """Turns what SQLAlchemy raises into a ``Failure``."""
    import sqlalchemy as sa

    try:
        yield
    except sa.exc.SQLAlchemyError as exc:
        raise _unusable(getattr(exc, "orig", None) or exc) from exc


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C does nothing in this block. Meant for a COMMIT: interrupted there, its outcome would be unknown."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only.
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def is_absent(engine: sa.Engine) -> bool:
    """True for a SQLite file that does not exist. Raises ``Failure`` if its folder does not exist either."""
    path = engine.url.database or ":memory:"
    is_file = engine.dialect.name == "sqlite" and not engine.url.host and not path.startswith((":memory:", "file:"))
    if not is_file or os.path.exists(path):
        return False
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise _unusable(f"there is no folder {folder}")
    return True


def _require_schema(engine: sa.Engine) -> None:
    import sqlalchemy as sa

    from person_repo.model import Person

    table = Person.__tablename__
    if not is_absent(engine):
        _connect_once(engine)
        if sa.inspect(engine).has_table(table):
            return
    raise Failure("schema", 3, f"{redact(engine.url)} has no table {table}; run: person-repo upgrade")


def _connect_once(engine: sa.Engine) -> None:
    """Opens and closes a connection. A driver may raise anything for an unknown option or a missing package."""
    import sqlalchemy as sa

    try:
        engine.connect().close()
    except sa.exc.SQLAlchemyError:
        raise
    except Exception as exc:
        raise _unusable(f"{type(exc).__name__}: {exc}") from exc


def _unusable(reason: object) -> Failure:
    return Failure("database", 3, f"the database cannot be used: {reason}")


class _Text(click.types.StringParamType):
    """An argument that a database can hold or look for."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(super().convert(value, param, ctx))
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail("it is not UTF-8", param, ctx)
        return text


TEXT = _Text()


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Sets an option of the call. click parses the options before the command first, so that the later one counts."""
    if value is not None:
        setattr(ctx.ensure_object(Call), str(param.name), value)


_SHARED = (
    click.option(
        "--database-url", metavar="URL", expose_value=False, callback=_remember,
        help="The database, as SQLAlchemy writes it: sqlite:///people.db (the default), "
        "mysql+pymysql://user@host/name, postgresql+psycopg://user@host/name.",
    ),
    click.option(
        "--cache-url", metavar="URL", expose_value=False, callback=_remember,
        help="The cache: memory:// (the default), memcached://host:port[,host:port...], null://.",
    ),
    click.option(
        "--use-db/--no-use-db", default=None, expose_value=False, callback=_remember,
        help="Read from the database, not through the cache.",
    ),
    click.option(
        "--json", is_flag=True, default=None, expose_value=False, callback=_remember,
        help="Print one JSON document (an export: JSON lines), and errors as JSON.",
    ),
)  # fmt: skip


def shared_options(command: F) -> F:
    """The options of every command, before its name or after it."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


pass_call = click.make_pass_decorator(Call)
