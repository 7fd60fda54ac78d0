"""A plugin of pytest for SQLAlchemy's suite: ``-p promise.suites.plugin``, in the folder of its source.

Every engine is covered once it is made, and every class is declared once it is mapped; a table that is made and has
no class gets one. What was covered is forgotten after each class of tests, which drops its tables.

``--covered FILE`` turns it on, and names the file for the results, as JSON; without it, nothing is done but noting
the outcomes in the file of ``--uncovered``.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from promise.suites.ledger import Ledger, Standing
from sqlalchemy import event, orm

import person_repo
from person_repo import declare
from person_repo.cache.region import lease_backend, make_region
from person_repo.database.identity import Database, Home
from person_repo.exceptions import ConfigurationError
from person_repo.mapped.identities import IdentityMapping
from person_repo.writing import coverage, declared, unseen

_FUNCTIONS = (*coverage._WRAPPED, "do_execute", "do_executemany", "do_execute_no_params", "execution_ctx_cls")


class Results:
    """What became of the tests."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.outcomes: dict[str, str] = {}
        self.words: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """pytest: the worst of the three phases counts."""
        worst = self.outcomes.get(report.nodeid)
        if report.failed:
            self.outcomes[report.nodeid] = "failed"
            self.words[report.nodeid] = str(report.longrepr)[-4000:]
        elif worst is None or (report.skipped and worst == "passed"):
            self.outcomes[report.nodeid] = report.outcome

    def write(self, **more: Any) -> None:
        self._file.write_text(json.dumps({"outcomes": self.outcomes, "words": self.words, **more}), encoding="utf-8")

    def pytest_sessionfinish(self) -> None:
        """pytest: writes the file."""
        self.write()


class Covering(Results):
    """The same with everything covered."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.refused: Counter[str] = Counter()
        self.classes = self.engines = 0
        self.missed: list[dict[str, Any]] = []
        self._region = make_region("memory://")
        self._standing = Standing(lease_backend(self._region))
        self._ledger = Ledger(self._standing)
        self._engines: list[Any] = []
        self._watched: weakref.WeakSet[sa.Dialect] = weakref.WeakSet()
        self._own: list[orm.registry] = []
        self._mapped: weakref.WeakSet[sa.Table] = weakref.WeakSet()
        self._cover_engines()
        self._listen()
        event.listen(sa.Table, "before_create", self._give_class)
        Database._ask = _home_of  # type: ignore[method-assign,assignment]
        unseen.invalidate = self._unnoted(unseen.invalidate)  # type: ignore[attr-defined]

    def _listen(self) -> None:
        """Some classes of tests remove the listeners to all mappers, ours included."""
        for listener in (declare._hear_of_subclass, self._declare):  # The last one comes first.
            if not event.contains(orm.Mapper, "after_mapper_constructed", listener):
                event.listen(orm.Mapper, "after_mapper_constructed", listener, insert=True)

    def _cover_engines(self) -> None:
        create_engine = sa.create_engine

        def create_and_cover(*arguments: Any, **options: Any) -> sa.Engine:
            engine = create_engine(*arguments, **options)
            is_own = sys._getframe(1).f_globals.get("__name__", "").startswith("person_repo.")
            if isinstance(engine, sa.Engine) and not is_own:
                self._engines.append(engine)
                self._cover(engine)
            return engine

        import sqlalchemy.engine.create as module

        sa.create_engine = sa.engine.create_engine = module.create_engine = create_and_cover

    def _unnoted(self, invalidate: Any) -> Any:
        """Classes that are declared while connections are in use are dropped when these come back: more than what a
        transaction has changed itself, so that it would hide what that did not drop.
        """

        def wrapped(*arguments: Any, **options: Any) -> None:
            with self._standing.unnoted():
                invalidate(*arguments, **options)

        return wrapped

    def _cover(self, engine: sa.Engine) -> None:
        self.engines += 1
        person_repo.cover(engine, self._region)
        self._watch()

    def _watch(self) -> None:
        """Engines that are covered since: one is only once there is a class."""
        for engine in self._engines:
            covered = coverage._covered.get(engine.dialect)
            if covered is not None and engine.dialect not in self._watched:
                self._watched.add(engine.dialect)
                self._ledger.watch(engine, covered)

    def _declare(self, mapper: orm.Mapper[Any], class_: type[Any]) -> None:
        root = mapper.base_mapper.class_
        self._mapped.update(table for table in mapper.tables if isinstance(table, sa.Table))
        try:
            if mapper.inherits is None:
                person_repo.cached(class_)
                self.classes += 1
                self._watch()
            elif declare.declaration_of(root) is not None:
                for variant in mapper.base_mapper.self_and_descendants:
                    IdentityMapping(variant.class_)
        except ConfigurationError as error:
            self.refused[_reason(error)] += 1
            declare._declared.pop(root, None)

    def _give_class(self, table: sa.Table, connection: sa.Connection, **_: Any) -> None:
        if not table.primary_key.columns or table in self._mapped:
            return
        registry = orm.registry()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                registry.map_imperatively(type(f"Of_{table.name}", (), {}), table)
        except sa.exc.SQLAlchemyError as error:  # It names no column or type that can be mapped.
            self.refused[f"{type(error).__name__}: {error!s:.100}"] += 1
            registry.dispose()
        else:
            self._own.append(registry)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        """pytest: what a test missed is noted with its name."""
        self._listen()
        result = yield
        self.missed += [{"test": item.nodeid, **asdict(missed)} for missed in self._ledger.missed]
        self._ledger.missed.clear()
        if nextitem is None or nextitem.getparent(pytest.Class) is not item.getparent(pytest.Class):
            self._forget()
        return result

    def _forget(self) -> None:
        for entity, _ in [*declare.declared()]:
            declare._declared.pop(entity, None)
        declared._caches.clear()
        declared._unresolved.clear()
        coverage._covered.clear()
        for registry in self._own:
            registry.dispose()
        self._own.clear()
        self._ledger.forget()
        self._watched.clear()
        for engine in self._engines:
            for name in _FUNCTIONS:
                vars(engine.dialect).pop(name, None)
        # Those of one class of tests are closed with it; the suite keeps the others.
        from sqlalchemy.testing.engines import testing_reaper

        kept = {getattr(engine, "sync_engine", engine) for engine in testing_reaper.testing_engines["global"]}
        self._engines = [engine for engine in self._engines if engine in kept]
        for engine in self._engines:
            self._cover(engine)

    def pytest_sessionfinish(self) -> None:
        """pytest: writes the file."""
        ledger = self._ledger
        self.write(
            missed=self.missed,
            refused=self.refused,
            classes=self.classes,
            engines=self.engines,
            by_key=ledger.by_key,
            by_class=ledger.by_class,
            unasked=ledger.unasked,
            unread=ledger.unread,
        )


def _reason(error: ConfigurationError) -> str:
    """The message without names."""
    return re.sub(r"^\S+|'[^']*'|[\w.]+\(.*?\)", "...", str(error))[:120]


def _home_of(database: Any, schema: str | None, table: str, is_reader: bool) -> Home:
    """An identity for every database, without the table for it, which the suite would list among its own."""
    engine = database._engine()
    return Home(str(engine and engine.url), schema or "", lasts=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """pytest: the options of this module."""
    parser.addoption("--covered", type=Path, help="cover everything, and write the results to this file")
    parser.addoption("--uncovered", type=Path, help="cover nothing, and write the results to this file")


def pytest_configure(config: pytest.Config) -> None:
    """pytest: begins before the suite makes its first engine."""
    if file := config.getoption("--covered"):
        config.pluginmanager.register(Covering(file), "covering")
    elif file := config.getoption("--uncovered"):
        config.pluginmanager.register(Results(file), "uncovered")
