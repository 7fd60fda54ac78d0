"""The alembic of an imagined host: two revisions of its own, beside folders of ours."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic.config import Config

from person_repo import migrations

__all__ = ["alembic_of_a_host"]

_ENV = """
    import sqlalchemy as sa
    from alembic import context

    url = context.config.get_main_option("sqlalchemy.url")
    if context.is_offline_mode():
        context.configure(url=url, literal_binds=True)
        context.run_migrations()
    else:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            context.configure(connection=connection)
            with context.begin_transaction():
                context.run_migrations()
            connection.commit()
"""

_REVISION = """
    import sqlalchemy as sa
    from alembic import op

    revision = {revision!r}
    down_revision = {down!r}
    branch_labels = {label!r}
    depends_on = {depends_on!r}


    def upgrade():
        op.create_table({table!r}, sa.Column("id", sa.Integer(), primary_key=True))


    def downgrade():
        op.drop_table({table!r})
"""


def alembic_of_a_host(folder: Path, url: sa.URL, ours: Sequence[str], *, depends_on: str | None = None) -> Config:
    """A host whose revisions ``shop_0001`` and ``shop_0002`` make the tables ``order`` and ``parcel``.

    ``ours``: the folders of ``script_location()`` that it lists, before its own. ``depends_on``: of its first revision.
    """
    versions = folder / "versions"
    versions.mkdir(parents=True)
    (folder / "env.py").write_text(textwrap.dedent(_ENV))
    first = {"down": None, "label": "shop", "depends_on": depends_on, "table": "order"}
    second = {"down": "shop_0001", "label": None, "depends_on": None, "table": "parcel"}
    for revision, rest in {"shop_0001": first, "shop_0002": second}.items():
        (versions / f"{revision}.py").write_text(textwrap.dedent(_REVISION.format(revision=revision, **rest)))
    places = [*(f"{migrations.script_location()}/{name}" for name in ours), str(versions)]
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(places))
    config.set_main_option("sqlalchemy.url", url.render_as_string(hide_password=False).replace("%", "%%"))
    return config
