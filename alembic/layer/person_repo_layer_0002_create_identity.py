"""The identity of the database, which the names of its cache entries begin with.

Revises: person_repo_layer_0001. A table that is there, as from ``create_all``, keeps its identity.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import person_repo.migrations  # noqa: F401 - it extends the operations
from person_repo.model import ExactString, birth_of_identity, new_identity

revision = "person_repo_layer_0002"
down_revision = "person_repo_layer_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    table = op.create_table(
        "person_repo_identity",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("identity", ExactString(40), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_person_repo_identity")),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
    )
    if op.get_context().as_sql:
        op.bulk_insert(table, [{"id": 1, "identity": new_identity(), "since": 0}])
    elif op.get_bind().scalar(sa.select(table.c.identity)) is None:
        op.bulk_insert(table, [{"id": 1, "identity": new_identity(), "since": birth_of_identity(op.get_bind())}])


def downgrade() -> None:
    op.drop_table("person_repo_identity")
