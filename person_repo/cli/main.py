"""The command line: arguments in, functions of the package called, tables or JSON out.

Whatever is heavy (SQLAlchemy, rich) is imported by the command that needs it, so that ``--help`` is quick.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NoReturn, TypeVar

import click

from person_repo.exceptions import (
    ConfigurationError,
    EntityExistsError,
    EntityNotFoundError,
    ImportFailedError,
    InvalidEntityError,
    InvalidIdError,
    MigrationError,
    PersonRepoError,
    StaleEntityError,
    UnknownFieldError,
)
from person_repo.settings import Settings
from person_repo.urls import hide_passwords, redact

if TYPE_CHECKING:
    import sqlalchemy as sa
    from rich.progress import TaskID
    from rich.table import Table

    from person_repo.cli.demo import Step
    from person_repo.model import Person
    from person_repo.service import PersonService
    from person_repo.testing.torture.report import Report

__all__ = ["main"]

F = TypeVar("F", bound=Callable[..., Any])

_EXIT_CODES = """\b
Exit codes:
  0    done
  1    somebody was not found; the file has problems; the demo or the torture read a wrong answer
  2    a wrong argument, option, value, file or setting
  3    the database cannot be used, or its schema is missing
  4    a conflict: the id is taken, or the person was changed meanwhile
  130  interrupted by Ctrl-C

\b
Environment, where the option is not given:
  PERSON_REPO_DATABASE_URL, PERSON_REPO_CACHE_URL, PERSON_REPO_USE_DB"""


@dataclass(slots=True)
class _Call:
    """What one call of the command line was told; None where an option was not given."""

    database_url: str | None = None
    cache_url: str | None = None
    use_db: bool | None = None
    json: bool = False
    undone: str = ""
    """What the user can rely on after Ctrl-C."""

    def settings(self) -> Settings:
        """The options given, over the environment, over the defaults."""
        given = {name: getattr(self, name) for name in ("database_url", "cache_url", "use_db")}
        return replace(Settings.from_environ(), **{name: value for name, value in given.items() if value is not None})


class _Failure(click.ClickException):
    """What ends a call with an exit code other than 0: ``kind`` is for programs, the message for people."""

    def __init__(self, kind: str, code: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.details = details


class _Program(click.Group):
    """The group of all commands; the one place where errors become messages and exit codes."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Runs one call and exits."""
        arguments = list(sys.argv[1:] if args is None else args)
        call = _Call()
        warnings = logging.getLogger("person_repo")
        warnings.addHandler(listener := _Warnings(call))
        try:
            # --help and --version return an exit code, commands return None.
            sys.exit(super().main(arguments, prog_name or "person-repo", complete_var, False, obj=call, **extra))
        except click.exceptions.NoArgsIsHelpError as exc:
            exc.show()
            sys.exit(exc.exit_code)
        except (click.Abort, click.ClickException, PersonRepoError, OSError) as exc:
            failure = _failure(exc, call)
            _complain(failure, call, as_json=call.json or "--json" in arguments)
            sys.exit(failure.code)
        finally:
            warnings.removeHandler(listener)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; a reader of the output that has seen enough (``| head``) is no error."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # The interpreter flushes once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        return result


class _Warnings(logging.Handler):
    """What the package logs during a call, such as a cache that does not answer, told on stderr."""

    def __init__(self, call: _Call) -> None:
        super().__init__(logging.WARNING)
        self._call = call

    def emit(self, record: logging.LogRecord) -> None:
        message = _without_passwords(record.getMessage(), self._call)
        if self._call.json:
            _print_json({"warning": message}, err=True)
        else:
            _say(f"person-repo: warning: {message}")


def _failure(exc: Exception, call: _Call) -> _Failure:
    """What to tell of an error, and the exit code for it."""
    match exc:
        case _Failure():
            return exc
        case click.Abort():
            return _Failure("interrupted", 130, "; ".join(filter(None, ["interrupted", call.undone])))
        case click.UsageError():
            command = exc.ctx.command_path if exc.ctx else "person-repo"
            # A URL in the wrong place is quoted there.
            told = re.sub(r"[\w+.-]+://.*", lambda url: redact(url[0]), exc.format_message())
            return _Failure("usage", 2, f"{told} ({command} --help tells more)")
        case click.ClickException():
            return _Failure("usage", 2, exc.format_message())
        case ImportFailedError():
            problems = [{"file": p.file, "line": p.line, "reason": p.reason} for p in exc.problems]
            listed = "".join(f"\n{problem}" for problem in exc.problems)
            message = f"nothing was imported; {_counted(len(problems), 'problem')}:{listed}"
            return _Failure("refused", 1, message, problems=problems)
        case EntityNotFoundError():
            return _Failure("not-found", 1, str(exc), missing=[exc.id])
        case EntityExistsError():
            return _Failure("exists", 4, str(exc))
        case StaleEntityError():
            return _Failure("stale", 4, str(exc))
        case ConfigurationError():
            return _Failure("configuration", 2, str(exc))
        case InvalidEntityError() | InvalidIdError() | UnknownFieldError():
            return _Failure("usage", 2, str(exc))
        case MigrationError():
            return _Failure("schema", 3, str(exc))
        case OSError():
            return _Failure("file", 2, f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc))
    return _Failure("database", 3, str(exc))


def _complain(failure: _Failure, call: _Call, *, as_json: bool) -> None:
    may_quote_urls = failure.kind in ("configuration", "database", "schema")
    message = _without_passwords(failure.message, call) if may_quote_urls else failure.message
    if not as_json:
        _say(f"person-repo: {message}")
        return
    document = {"error": failure.kind, "exit_code": failure.code, "message": message, **failure.details}
    _print_json(document, err=True)


def _say(message: str) -> None:
    """A message to stderr; what could steer a terminal is shown as an escape."""
    click.echo("\n".join(_visible(line) for line in message.split("\n")), err=True)


def _without_passwords(message: str, call: _Call) -> str:
    """The message without the passwords of the URLs in it, as they were written and as they are meant."""
    try:
        settings = call.settings()
    except ConfigurationError:
        return message
    return hide_passwords(message, settings.database_url, settings.cache_url)


def _visible(text: str) -> str:
    """The text with each character that prints nothing, or steers a terminal, as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _counted(n: int, thing: str) -> str:
    plural = {"person": "people"}.get(thing, f"{thing}s")
    return f"{n:,} {thing if n == 1 else plural}"


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    # Given before the command and after it, the later one counts: click runs the group's callbacks first.
    if value is not None:
        setattr(ctx.ensure_object(_Call), str(param.name), value)


class _Text(click.types.StringParamType):
    """An argument that a database can hold or look for."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(super().convert(value, param, ctx))
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail("it is not UTF-8", param, ctx)
        return text


_TEXT = _Text()

_SHARED = (
    click.option(
        "--database-url", metavar="URL", expose_value=False, callback=_keep,
        help="The database, as SQLAlchemy writes it: sqlite:///people.db (the default), mysql+pymysql://user@host/name.",
    ),
    click.option(
        "--cache-url", metavar="URL", expose_value=False, callback=_keep,
        help="The cache: memory:// (the default), memcached://host:port[,host:port...], null://.",
    ),
    click.option(
        "--use-db/--no-use-db", default=None, expose_value=False, callback=_keep,
        help="Read from the database, not through the cache.",
    ),
    click.option(
        "--json", is_flag=True, default=None, expose_value=False, callback=_keep,
        help="Print one JSON document (an export: JSON lines), and errors as JSON.",
    ),
)  # fmt: skip


def _shared(command: F) -> F:
    """The options that every command takes, before its name or after it."""
    for option in reversed(_SHARED):
        command = option(command)
    return command


_call = click.make_pass_decorator(_Call)


@click.group("person-repo", cls=_Program, epilog=_EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@_shared
@click.version_option(package_name="person-repo", message="%(prog)s %(version)s")
def main() -> None:
    """People in a database, read through a cache that is never stale once a commit was acknowledged.

    The options below may stand before a command or after it.
    """


@main.command()
@_shared
@_call
def upgrade(call: _Call) -> None:
    """Bring the schema of the database to the one this version needs."""
    from person_repo import migrations

    call.undone = "the schema may be half way; run upgrade again"
    with _engine(call) as engine:
        _reach(engine)
        before = migrations.current(engine)
        migrations.upgrade(engine)
        after = migrations.current(engine)
    if call.json:
        _print_json({"database": redact(engine.url), "before": before, "revision": after})
    else:
        done = "is up to date" if before == after else f"was upgraded from {before or 'nothing'}"
        _print(f"{redact(engine.url)} {done}: {after}")


@main.command(short_help="Show the revision of the schema.")
@_shared
@_call
def current(call: _Call) -> None:
    """Show the revision of the schema, and the one this version needs."""
    from person_repo import migrations

    revision, head = None, migrations.head()
    with _engine(call) as engine:
        if not _is_absent(engine):
            _reach(engine)
            revision = migrations.current(engine)
    up_to_date = revision == head
    if call.json:
        _print_json({"database": redact(engine.url), "revision": revision, "head": head, "up_to_date": up_to_date})
    else:
        rest = "up to date" if up_to_date else f"this version needs {head}; run: person-repo upgrade"
        _print(f"{redact(engine.url)}: {revision or 'no revision'} ({rest})")


@main.command("import", short_help="Import people from a CSV, all of it or nothing.")
@click.argument("file", metavar="FILE.csv")
@click.option(
    "--skip-bad", metavar="FILE", help="Import the good rows; write the bad ones to this new file, with reasons."
)
@_shared
@_call
def import_(call: _Call, file: str, skip_bad: str | None) -> None:
    """Import people from a CSV with the columns id, first_name and last_name; - reads stdin.

    All of the file or nothing: it is checked whole first, and every problem is listed with its line.
    """
    from person_repo.cli.csv import import_people

    call.undone = "nothing was imported"
    source: str | BinaryIO = sys.stdin.buffer if file == "-" else file
    with _people(call) as people, _progress() as bar, contextlib.ExitStack() as from_commit_on:

        def progress(step: str, done: int, total: int | None) -> None:
            if step == "commit":
                from_commit_on.enter_context(_undisturbed())
            if bar:
                bar(step, done, total)

        report = import_people(people, source, skip_bad=skip_bad, progress=progress)
        call.undone = "the import was complete"
    bad_rows = str(report.bad_rows) if report.bad_rows else None
    if call.json:
        _print_json({"file": report.file, "imported": report.imported, "skipped": report.skipped, "bad_rows": bad_rows})
        return
    empty = "" if report.imported + report.skipped else ": it has a header and no rows"
    _print(f"{_counted(report.imported, 'person')} imported from {report.file}{empty}")
    if bad_rows:
        _print(f"{_counted(report.skipped, 'bad row')} written to {bad_rows}")


@main.command(short_help="Export everybody, as CSV or JSON lines.")
@click.argument("file", required=False)
@click.option("--format", type=click.Choice(["csv", "jsonl"]), help="csv (the default) or, under --json, jsonl.")
@_shared
@_call
def export(call: _Call, file: str | None, format: Literal["csv", "jsonl"] | None) -> None:
    """Export everybody to FILE, or to stdout, in the order of their ids.

    FILE is replaced when the export is complete, and left as it was when it is not.
    """
    from person_repo.cli.csv import export_people, replacing

    to_file = file is not None and file != "-"
    call.undone = f"{file} was left as it was" if to_file else ""
    target = replacing(file) if file and to_file else contextlib.nullcontext(sys.stdout.buffer)
    format = format or ("jsonl" if call.json else "csv")
    with _people(call) as people:
        with target as stream, _progress(wanted=to_file or not sys.stdout.isatty()) as bar:
            exported = export_people(people, stream, format=format, progress=bar)
        call.undone = "the export was complete"
    if to_file and call.json:
        _print_json({"file": file, "exported": exported})
    elif to_file:
        _print(f"{_counted(exported, 'person')} exported to {file}")


@main.command()
@click.argument("id", type=_TEXT)
@click.argument("first_name", type=_TEXT, metavar="FIRST")
@click.argument("last_name", type=_TEXT, metavar="LAST")
@_shared
@_call
def add(call: _Call, id: str, first_name: str, last_name: str) -> None:
    """Add one person."""
    from person_repo.model import Person

    _refuse_bad({"id": id, "first_name": first_name, "last_name": last_name})
    with _people(call) as people:
        people.add(Person(id=id, first_name=first_name, last_name=last_name))
    _print_person(call, Person(id=id, first_name=first_name, last_name=last_name))


@main.command()
@click.argument("ids", type=_TEXT, metavar="ID...", nargs=-1, required=True)
@_shared
@_call
def get(call: _Call, ids: tuple[str, ...]) -> None:
    """Show the people with these ids, in this order."""
    with _people(call) as people:
        found = people.get_many(ids)
    missing = [id for id in dict.fromkeys(ids) if id not in found]
    _print_people(call, found.values(), missing=missing)
    _fail_if_missing(missing)


@main.command("list", short_help="Show people in the order of their ids.")
@click.option("--after", type=_TEXT, metavar="ID", help="Begin with the id that follows this one.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Show at most so many.")
@_shared
@_call
def list_(call: _Call, after: str | None, limit: int) -> None:
    """Show people in the order of their ids, a page at a time."""
    with _people(call) as people:
        page = people.list(after=after, limit=limit + 1)
    more = page[limit - 1].id if len(page) > limit else None
    _print_people(call, page[:limit], next=more)
    if more is not None and not call.json:
        _say(f"there are more: --after {shlex.quote(more)}")


@main.command(short_help="Show everybody with these names.")
@click.option("--first-name", type=_TEXT, metavar="NAME", help="Whose first name is exactly this.")
@click.option("--last-name", type=_TEXT, metavar="NAME", help="Whose last name is exactly this.")
@_shared
@_call
def find(call: _Call, /, **names: str | None) -> None:
    """Show everybody with this first name, this last name, or both. That nobody has them is an answer, no error."""
    equals = _given(names)
    with _people(call) as people:
        found = people.find(**equals)
    _print_people(call, found)


@main.command()
@click.argument("id", type=_TEXT)
@click.option("--first-name", type=_TEXT, metavar="NAME", help="The new first name.")
@click.option("--last-name", type=_TEXT, metavar="NAME", help="The new last name.")
@_shared
@_call
def update(call: _Call, /, id: str, **names: str | None) -> None:
    """Change one person's first name, last name, or both."""
    changes = _given(names)
    _refuse_bad(changes)
    with _people(call) as people:
        person = people.update(id, **changes)
    _print_person(call, person)


@main.command(short_help="Delete people, in one transaction.")
@click.argument("ids", type=_TEXT, metavar="ID...", nargs=-1, required=True)
@_shared
@_call
def delete(call: _Call, ids: tuple[str, ...]) -> None:
    """Delete the people with these ids, in one transaction; those that nobody has are named."""
    from sqlalchemy.orm import Session

    call.undone = "nobody was deleted"
    with _people(call) as people, Session(people.engine) as session:
        bound = people.bind(session)
        deleted = [id for id in dict.fromkeys(ids) if bound.delete(id)]
        with _undisturbed():
            session.commit()
            call.undone = "the deletion was complete"
    missing = [id for id in dict.fromkeys(ids) if id not in deleted]
    if call.json:
        _print_json({"deleted": deleted, "missing": missing})
    else:
        _print(f"{_counted(len(deleted), 'person')} deleted")
    _fail_if_missing(missing)


@main.command(short_help="Show the package at work, every answer checked.")
@_shared
@_call
def demo(call: _Call) -> None:
    """Show the package at work, every answer checked: who answered, how fast, at what cost.

    In a SQLite file of its own that is gone afterwards; or in the database given: nothing that is there
    is changed, and what the demo adds it removes.
    """
    from person_repo.cli.demo import run

    settings = call.settings()
    url = call.database_url or settings.database_url
    # The default is where a user's own people are; nobody has asked for a demo among them.
    own = call.database_url is None and url == Settings().database_url
    if not own:
        with _engine(call) as engine:
            _reach(engine)
    with _database_errors():
        steps = run(None if own else url, settings.cache_url)
    wrong = [step for step in steps if step.wrong]
    place = {"database": "a temporary SQLite file" if own else redact(url), "cache": redact(settings.cache_url)}
    if call.json:
        _print_json({**place, "right": not wrong, "steps": [asdict(step) for step in steps]})
    else:
        _print_steps(steps, "{database}, {cache}".format(**place))
    if wrong:
        raise _Failure("wrong", 1, "\n".join(f"wrong answer: {step.what}: {step.wrong}" for step in wrong))


@main.command(short_help="Check the promise: readers, writers and faults, and an exact check of what was read.")
@click.option("--readers", type=click.IntRange(1), default=3, show_default=True, help="Processes that read.")
@click.option("--writers", type=click.IntRange(1), default=2, show_default=True, help="Processes that write.")
@click.option("--keys", type=click.IntRange(1, 60_000), default=20, show_default=True, help="People they share.")
@click.option("--seconds", type=click.FloatRange(0.1), default=10.0, show_default=True, help="How long.")
@click.option(
    "--faults",
    type=click.Choice(["none", "pause", "kill", "restart", "partition", "hang", "flush", "all"]),
    multiple=True,
    default=("none",),
    show_default=True,
    help="What goes wrong meanwhile; may be given several times. restart, hang and flush need --start-memcached.",
)
@click.option(
    "--on-unreachable",
    type=click.Choice(["proceed", "strict", "refuse"]),
    default="proceed",
    show_default=True,
    help="What a commit does while it cannot reach the cache.",
)
@click.option(
    "--fence-interval",
    type=click.FloatRange(0, 60, min_open=True),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="After how long readers know of a commit that could not reach the cache.",
)
@click.option("--start-memcached", is_flag=True, help="Start a memcached for this run, in place of --cache-url.")
@click.option(
    "--against",
    type=click.Choice(["person_repo", "naive"]),
    default="person_repo",
    show_default=True,
    help="naive: the usual recipe, delete after commit, in which staleness is found.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed makes other choices.")
@_shared
@_call
def torture(call: _Call, /, faults: tuple[str, ...], start_memcached: bool, **options: Any) -> None:
    """Check the promise where it is to hold: processes that read and write people of their own, in every way there is,
    faults among them, and an exact check of each answer afterwards. Exit code 1 if any was wrong.

    In the database given, or in a SQLite file of its own; the people and the table it adds it removes.
    """
    from person_repo.testing.torture.plan import FAULTS, Plan
    from person_repo.testing.torture.run import run

    call.undone = "what it added was removed"
    settings = call.settings()
    own = call.database_url is None and settings.database_url == Settings().database_url
    chosen = FAULTS if "all" in faults else tuple(fault for fault in dict.fromkeys(faults) if fault != "none")
    with contextlib.ExitStack() as stack:
        url = settings.database_url
        if own:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="person_repo-torture-"))
            url = f"sqlite:///{folder}/people.db"
        plan = Plan(
            database_url=url, cache_url=settings.cache_url, own_memcached=start_memcached, faults=chosen, **options
        )
        stack.enter_context(_database_errors())
        progress = stack.enter_context(_progress())
        report = run(plan, progress=progress and (lambda passed: progress("torture", int(passed), int(plan.seconds))))
    place = {
        "database": "a temporary SQLite file" if own else redact(url),
        "cache": "a memcached of its own" if start_memcached else redact(settings.cache_url),
    }
    if call.json:
        _print_json({**place, **report.as_dict(), "error_kinds": report.error_kinds})
    else:
        _print_report(report, "{database}, {cache}".format(**place))
    if not report.clean:
        raise _Failure("wrong", 1, "\n".join(["the promise was broken:", *report.examples]))


@contextlib.contextmanager
def _people(call: _Call) -> Iterator[PersonService]:
    """The service the settings name; a database that cannot be used or has no schema ends the call."""
    from person_repo import connect

    settings = call.settings()
    with (
        _database_errors(),
        connect(settings.database_url, settings.cache_url, use_db=settings.use_db) as people,
    ):
        _require_schema(people.engine)
        yield people


@contextlib.contextmanager
def _engine(call: _Call) -> Iterator[sa.Engine]:
    from person_repo.database.engines import engine_of

    with _database_errors():
        engine = engine_of(call.settings().database_url)
        try:
            yield engine
        finally:
            engine.dispose()


@contextlib.contextmanager
def _database_errors() -> Iterator[None]:
    import sqlalchemy as sa

    try:
        yield
    except sa.exc.DBAPIError as exc:
        raise _Failure("database", 3, f"the database cannot be used: {exc.orig}") from exc
    except sa.exc.SQLAlchemyError as exc:
        raise _Failure("database", 3, f"the database cannot be used: {exc}") from exc


def _reach(engine: sa.Engine) -> None:
    """Connects once. Drivers raise whatever they like for options they do not know and packages they miss."""
    import sqlalchemy as sa

    try:
        engine.connect().close()
    except sa.exc.SQLAlchemyError:
        raise
    except Exception as exc:
        raise _Failure("database", 3, f"the database cannot be used: {type(exc).__name__}: {exc}") from exc


def _require_schema(engine: sa.Engine) -> None:
    import sqlalchemy as sa

    from person_repo.model import Person

    table = Person.__tablename__
    if not _is_absent(engine):
        _reach(engine)
        if sa.inspect(engine).has_table(table):
            return
    raise _Failure("schema", 3, f"{redact(engine.url)} has no table {table}; run: person-repo upgrade")


def _is_absent(engine: sa.Engine) -> bool:
    """Whether this is a SQLite file that does not exist. Only to look into it would make an empty one."""
    path = engine.url.database or ":memory:"
    is_file = engine.dialect.name == "sqlite" and not engine.url.host and not path.startswith((":memory:", "file:"))
    return is_file and not os.path.exists(path)


@contextlib.contextmanager
def _progress(*, wanted: bool = True) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A progress bar on stderr where that is a terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(step: str, done: int, total: int | None) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done, total=total)

        yield report


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C does nothing in this block. For a COMMIT: interrupted there, nobody could say whether it took place."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _given(names: Mapping[str, str | None]) -> dict[str, str]:
    given = {name: value for name, value in names.items() if value is not None}
    if not given:
        raise click.UsageError("give --first-name, --last-name or both")
    return given


def _refuse_bad(values: Mapping[str, str]) -> None:
    from person_repo.cli.csv import check_fields

    if problems := check_fields(values):
        raise InvalidEntityError("; ".join(problems))


def _fail_if_missing(missing: Sequence[str]) -> None:
    if missing:
        raise _Failure("not-found", 1, f"nobody has the id {', '.join(map(repr, missing))}", missing=missing)


def _print_json(document: Mapping[str, Any], *, err: bool = False) -> None:
    # A path that is not UTF-8 holds surrogates; the escape they become is JSON's own.
    click.echo(json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace"), err=err)


def _print_person(call: _Call, person: Person) -> None:
    if call.json:
        _print_json(_fields(person))
    else:
        _print_people(call, [person])


def _print_people(call: _Call, people: Iterable[Person], **rest: Any) -> None:
    rows = [_fields(person) for person in people]
    if call.json:
        _print_json({"people": rows, **rest})
        return
    from rich.table import Table

    table = Table("id", "first name", "last name", box=None, header_style="bold")
    _print_table(table, [tuple(row.values()) for row in rows])


def _fields(person: Person) -> dict[str, str]:
    from person_repo.cli.csv import COLUMNS

    return {name: getattr(person, name) for name in COLUMNS}


def _print_steps(steps: Sequence[Step], title: str) -> None:
    from rich.table import Table

    table = Table("what happened", "answer", "who answered", title=title)
    for name in ("microseconds", "SQL statements", "cache round trips"):
        table.add_column(name, justify="right")
    rows = []
    for step in steps:
        answer = f"WRONG: {step.answer}" if step.wrong else step.answer
        figures = (f"{step.microseconds:,.0f}", str(step.statements), str(step.round_trips))
        rows.append((step.what, answer, step.answered_by, *figures))
    _print_table(table, rows)


def _print_report(report: Report, title: str) -> None:
    from rich.table import Table

    table = Table(title=title)
    names = ("reads", "hits", "writes", "late", "stale", "phantom")
    for name in (*names, "worst staleness", "bound", "errors", "faults"):
        table.add_column(name, justify="right")
    figures = [f"{getattr(report, name):,}" for name in names]
    times = [f"{seconds * 1000:,.1f} ms" for seconds in (report.worst_staleness, report.plan.bound)]
    faults = ", ".join(f"{count} {name}" for name, count in report.faults.items()) or "none"
    _print_table(table, [(*figures, *times, f"{report.errors:,}", faults)])


def _print_table(table: Table, rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.text import Text

    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(Text(_visible(value)) for value in row))
    # A file or a pipe has no width: there each row is one line.
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as captured:
        console.print(table)
    _echo(captured.get().rstrip("\n"))


def _print(message: str) -> None:
    _echo(_visible(message))


def _echo(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding))
