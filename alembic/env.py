"""Run by alembic for every command: from a checkout, or from ``person_repo.migrations`` with a connection in hand."""

from __future__ import annotations

from logging.config import fileConfig
from typing import Any

import sqlalchemy as sa
from alembic import context

from person_repo.migrations import VERSION_TABLE, exclusive
from person_repo.model import Base
from person_repo.settings import Settings

OPTIONS: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "version_table": VERSION_TABLE,
    "render_as_batch": True,  # SQLite cannot ALTER most things
    "user_module_prefix": "",  # script.py.mako imports ExactString
}


def database_url() -> str:
    given = context.get_x_argument(as_dictionary=True).get("url")
    settings = Settings.from_environ()
    if given is None and settings.database_url == Settings().database_url:
        return context.config.get_main_option("sqlalchemy.url", settings.database_url)
    return given or settings.database_url


def print_sql() -> None:
    context.configure(url=database_url(), literal_binds=True, dialect_opts={"paramstyle": "named"}, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


def migrate(connection: sa.Connection) -> None:
    context.configure(connection=connection, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


if context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)

target = context.config.attributes.get("connection")
if context.is_offline_mode():
    print_sql()
elif isinstance(target, sa.Connection):
    migrate(target)
else:
    with exclusive(target or database_url()) as connection:
        migrate(connection)
