"""The table of the fence: invalidations that a cache server could not be told.

Revises: person_repo_0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from person_repo.model import ExactString

revision = "person_repo_0002"
down_revision = "person_repo_0001"
branch_labels = None
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
