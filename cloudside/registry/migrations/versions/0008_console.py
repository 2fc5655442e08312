"""Responses to challenges at routers' serial consoles."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "console_answers",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("challenge", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("answered_by", sa.String(length=100), nullable=False),
        sa.Column("answered_at", _AT, nullable=False),
        sa.Column("used_at", _AT, nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_console_answers_site_id"),
        sa.PrimaryKeyConstraint("id", name="pk_console_answers"),
    )
    op.create_index("ix_console_answers_site_id", "console_answers", ["site_id"], unique=False)


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("console_answers")
