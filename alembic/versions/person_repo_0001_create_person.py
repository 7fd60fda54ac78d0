"""The table of people.

Revises: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from person_repo.model import ExactString

revision = "person_repo_0001"
down_revision = None
branch_labels = ("person_repo",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "person",
        sa.Column("id", ExactString(100), nullable=False),
        sa.Column("first_name", ExactString(200), nullable=False),
        sa.Column("last_name", ExactString(200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_person")),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
    )


def downgrade() -> None:
    op.drop_table("person")
