"""The tables of the layer, without that of Person: the fence, as ``person_repo_0002`` makes it.

Revises: nothing. A fence that is there is taken over: see ``person_repo.migrations.operations``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import person_repo.migrations  # noqa: F401 - it extends the operations
from person_repo.model import ExactString

revision = "person_repo_layer_0001"
down_revision = None
branch_labels = ("person_repo_layer",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "person_repo_fence",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("namespace", ExactString(40), nullable=False),
        sa.Column("server", ExactString(300), nullable=False),
        sa.Column("item", ExactString(250), nullable=False),
        sa.Column("held_until", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_person_repo_fence")),
        sa.Index(op.f("ix_person_repo_fence_namespace"), "namespace"),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
    )


def downgrade() -> None:
    op.drop_table("person_repo_fence")
