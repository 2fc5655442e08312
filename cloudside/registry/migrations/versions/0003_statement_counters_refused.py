"""Counters of statements, and who was refused."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "statement_counters",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("statement", sa.String(length=150), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("flows", sa.BigInteger(), nullable=False),
        sa.Column("packets", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("last_used", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_statement_counters_tenant_id"),
        sa.PrimaryKeyConstraint("tenant_id", "statement", "day", name="pk_statement_counters"),
    )
    op.create_table(
        "refused",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("source_address", sa.String(length=43), nullable=False),
        sa.Column("destination_address", sa.String(length=43), nullable=False),
        sa.Column("service", sa.String(length=40), nullable=False),
        sa.Column("gateway", sa.String(length=40), nullable=False),
        sa.Column("source", sa.String(length=110), nullable=False),
        sa.Column("destination", sa.String(length=110), nullable=False),
        sa.Column("reason", sa.String(length=60), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("statements", sa.String(), nullable=False),
        sa.Column("first_seen", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_refused_tenant_id"),
        sa.PrimaryKeyConstraint(
            "tenant_id", "source_address", "destination_address", "service", "gateway", name="pk_refused"
        ),
    )
    op.create_index("ix_refused_tenant_id_last_seen", "refused", ["tenant_id", "last_seen"], unique=False)


def downgrade() -> None:
    """Drop the tables."""
    op.drop_index("ix_refused_tenant_id_last_seen", table_name="refused")
    op.drop_table("refused")
    op.drop_table("statement_counters")
