"""The checks before a service is used: what is missing in the database, and which cache servers do not answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from person_repo.cache.contract import LeaseBackend
from person_repo.database.schema import REMEDY, problems
from person_repo.urls import redact

__all__ = ["Finding", "findings_of_cache", "findings_of_databases"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a service would not work as it should, and what to do about it. As a string, both in a line."""

    about: Literal["database", "schema", "cache"]
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}"


def findings_of_databases(engines: Iterable[sa.Engine], *, fenced: bool) -> Iterator[Finding]:
    """Problems of the database as these engines reach it, up to the first that cannot.

    ``fenced``: the layer's tables must be there, too, and the last engine is the one that reads them.
    """
    distinct = list(dict.fromkeys(engines))
    for engine in distinct:
        try:
            with engine.connect() as connection:
                connection.execute(sa.select(sa.literal(1)))
                if fenced and engine is distinct[-1]:
                    for problem in problems(connection):
                        yield Finding("schema", f"{redact(engine.url)}: {problem}", REMEDY)
        except sa.exc.SQLAlchemyError as exc:
            problem = f"{redact(engine.url)} cannot be used: {getattr(exc, 'orig', None) or exc}"
            yield Finding("database", problem, "see if it runs, and if this account may connect and read")
            return


def findings_of_cache(backend: LeaseBackend) -> Iterator[Finding]:
    """Each cache server that does not answer."""
    for server in sorted(backend.unreachable()):
        remedy = "see if it runs and can be reached from here; meanwhile its keys are read from the database"
        yield Finding("cache", f"{server} does not answer", remedy)
