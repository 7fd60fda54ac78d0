"""The program: the group of all commands, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import click

from person_repo.cli.call import Call, Failure, shared_options
from person_repo.cli.csv.commands import export, import_
from person_repo.cli.csv.problems import ImportFailedError
from person_repo.cli.demo.command import demo
from person_repo.cli.output import counted, discard_stdout, open_closed_streams, print_json, say
from person_repo.cli.people import add, delete, find, get, list_, update
from person_repo.cli.schema import check, current, identity, upgrade
from person_repo.cli.torture import torture
from person_repo.exceptions import (
    ConfigurationError,
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
    InvalidIdError,
    MigrationError,
    PersonRepoError,
    StaleEntityError,
    UnknownFieldError,
)
from person_repo.urls import hide_passwords, redact

__all__ = ["main"]

_EPILOG = """\b
Exit codes:
  0    done
  1    somebody was not found; the file has problems; something is not ready; the demo or the torture read a wrong
       answer
  2    a wrong argument, option, value, file or setting
  3    the database cannot be used, or its schema is missing
  4    a conflict: the id is taken, or the person was changed meanwhile
  130  interrupted by Ctrl-C

\b
Environment, where the option is not given:
  PERSON_REPO_DATABASE_URL, PERSON_REPO_CACHE_URL, PERSON_REPO_USE_DB"""


class _Program(click.Group):
    """The group of all commands."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Runs one call and exits."""
        open_closed_streams()
        arguments = list(sys.argv[1:] if args is None else args)
        call = Call()
        with _warnings_shown(call):
            try:
                # --help and --version return an exit code, commands return None.
                sys.exit(super().main(arguments, prog_name or "person-repo", complete_var, False, obj=call, **extra))
            except click.exceptions.NoArgsIsHelpError as exc:
                exc.show()
                sys.exit(exc.exit_code)
            except (click.Abort, click.ClickException, PersonRepoError, OSError) as exc:
                failure = _failure(exc, call)
                # An error in the arguments may come before click has parsed --json.
                options = itertools.takewhile(lambda argument: argument != "--", arguments)
                _complain(failure, call, as_json=call.json or "--json" in options)
                sys.exit(failure.code)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parses the options before the command; ``--help`` and ``--version`` print here."""
        with _broken_pipe_is_no_error():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        with _broken_pipe_is_no_error():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


@contextlib.contextmanager
def _broken_pipe_is_no_error() -> Iterator[None]:
    """A reader of the output that has seen enough (``| head``) ends the call with exit code 0."""
    try:
        yield
    except BrokenPipeError:
        discard_stdout()
        raise click.exceptions.Exit(0) from None


@contextlib.contextmanager
def _warnings_shown(call: Call) -> Iterator[None]:
    """In this block, warnings of the package, such as a cache that does not answer, go to stderr."""
    logger = logging.getLogger("person_repo")
    logger.addHandler(handler := _Warnings(call))
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Warnings(logging.Handler):
    """Writes warnings of the package to stderr."""

    def __init__(self, call: Call) -> None:
        super().__init__(logging.WARNING)
        self._call = call

    def emit(self, record: logging.LogRecord) -> None:
        message = hide_passwords(record.getMessage(), *_urls(self._call))
        if self._call.json:
            print_json({"warning": message}, err=True)
        else:
            say(f"person-repo: warning: {message}")


def _failure(exc: Exception, call: Call) -> Failure:
    """The message and the exit code for an error."""
    match exc:
        case Failure():
            return exc
        case click.Abort():
            return Failure("interrupted", 130, "; ".join(filter(None, ["interrupted", call.after_interrupt])))
        case click.UsageError():
            command = exc.ctx.command_path if exc.ctx else "person-repo"
            # A URL in the wrong place is quoted in the message.
            message = re.sub(r"[\w+.-]+://.*", lambda url: redact(url[0]), exc.format_message())
            return Failure("usage", 2, f"{message} (see {command} --help)")
        case click.ClickException():
            return Failure("usage", 2, exc.format_message())
        case ImportFailedError():
            problems = [{"file": p.file, "line": p.line, "reason": p.reason} for p in exc.problems]
            listed = "".join(f"\n{problem}" for problem in exc.problems)
            message = f"nothing was imported; {counted(len(problems), 'problem')}:{listed}"
            return Failure("refused", 1, message, problems=problems)
        case EntityNotFoundError():
            return Failure("not-found", 1, str(exc), missing=[exc.id])
        case EntityExistsError():
            return Failure("exists", 4, str(exc))
        case StaleEntityError():
            return Failure("stale", 4, str(exc))
        case ConfigurationError():
            return Failure("configuration", 2, str(exc))
        case InvalidEntityError() | InvalidIdError() | UnknownFieldError():
            return Failure("usage", 2, str(exc))
        case MigrationError():
            return Failure("schema", 3, str(exc))
        case OSError():
            return Failure("file", 2, f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc))
    return Failure("database", 3, str(exc))


def _complain(failure: Failure, call: Call, *, as_json: bool) -> None:
    may_quote_urls = failure.kind in ("configuration", "database", "schema")
    message = hide_passwords(failure.message, *_urls(call)) if may_quote_urls else failure.message
    if not as_json:
        say(f"person-repo: {message}")
        return
    print_json({"error": failure.kind, "exit_code": failure.code, "message": message, **failure.details}, err=True)


def _urls(call: Call) -> tuple[str, ...]:
    """The URLs of a call; none if the environment cannot be read, since none was used then."""
    try:
        settings = call.settings()
    except ConfigurationError:
        return ()
    return settings.database_url, settings.cache_url


@click.group("person-repo", cls=_Program, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@shared_options
@click.version_option(package_name="person-repo", message="%(prog)s %(version)s")
def main() -> None:
    """People in a database, read through a cache that is never stale once a commit was acknowledged.

    The options below may stand before a command or after it.
    """


for _command in (
    upgrade,
    current,
    identity,
    check,
    import_,
    export,
    add,
    get,
    list_,
    find,
    update,
    delete,
    demo,
    torture,
):
    main.add_command(_command)
