"""The storage engines of MySQL and MariaDB: does a change of a table's rows wait for the COMMIT?

Rows of a table without transactions (MyISAM, Aria, MEMORY) are everybody's as soon as the statement has run, in the
middle of a transaction, and stay if that is rolled back. The connection's status does not say so: a transaction may be
open because of another table's rows.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from person_repo.database.marks import OWN
from person_repo.database.snapshots import question_to
from person_repo.interruptions import DATABASE_ERRORS

__all__ = ["Storage"]

logger = logging.getLogger("person_repo.writing")

# ENGINES says of each engine if it has transactions. A view has no engine.
_QUESTION = sa.text(
    "SELECT ENGINES.TRANSACTIONS FROM information_schema.TABLES LEFT JOIN information_schema.ENGINES"
    " ON ENGINES.ENGINE = TABLES.ENGINE"
    " WHERE TABLES.TABLE_SCHEMA = COALESCE(:schema, DATABASE()) AND TABLES.TABLE_NAME = :name"
)


class Storage:
    """The storage engines of a database's tables, each asked for once, and again after a statement on a covered engine
    that may have given it another one (``forget``). ``is_asked``: the database has storage engines.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.is_asked = engine.dialect.name in ("mysql", "mariadb")
        self._engine = weakref.ref(engine)
        # Replaced by ``forget``, so that an answer from before comes to nothing.
        self._known: dict[tuple[str | None, str], bool] = {}

    def waits_for_commit(self, table: sa.Table, options: Mapping[str, Any]) -> bool:
        """True if changes of the table's rows are nobody else's before a COMMIT. False if the server cannot be asked,
        or has no such table: then they may be.

        ``options``: the execution options of the statement, which may name another schema.
        """
        if not self.is_asked:
            return True
        schema = (options.get("schema_translate_map") or {}).get(table.schema, table.schema)
        all_known = self._known
        known = all_known.get((schema, table.name))
        if known is not None:
            return known
        answer = self._ask(schema, table.name)
        if answer is not None:
            all_known[schema, table.name] = answer
        return bool(answer)

    def forget(self, table: sa.Table) -> None:
        """Ask again for this table, whatever its schema: it may have another engine now."""
        self._known = {key: value for key, value in self._known.items() if key[1] != table.name}

    def _ask(self, schema: str | None, name: str) -> bool | None:
        """None if there is no answer now. On a connection of our own: a question in the host's transaction could fix
        what that transaction sees.
        """
        engine = self._engine()
        if engine is None:
            return None
        try:
            with question_to(engine) as connection:
                parameters = {"schema": schema, "name": name}
                row = connection.execute(_QUESTION, parameters, execution_options={OWN: True}).first()
        except DATABASE_ERRORS as exc:
            logger.warning(
                "the storage engine of %s cannot be asked for; its changes are announced early: %s", name, exc
            )
            return None
        return None if row is None else row[0] == "YES"
