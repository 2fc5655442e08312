"""Rule revisions, the platform's file, grants."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, and a revision for each tenant there is and for what they share."""
    revisions = op.create_table(
        "rule_revisions",
        sa.Column("scope", sa.String(length=40), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope", name="pk_rule_revisions"),
    )
    op.create_table(
        "platform_policies",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("file_name", sa.String(length=200), nullable=False),
        sa.Column("author", sa.String(length=100), nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_platform_policies"),
    )
    op.create_table(
        "grants",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("source", sa.String(length=110), nullable=False),
        sa.Column("destination", sa.String(length=110), nullable=False),
        sa.Column("services", sa.String(length=500), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("author", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_grants_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_grants"),
    )
    op.create_index("ix_grants_tenant_id", "grants", ["tenant_id"], unique=False)
    op.create_index("ix_grants_ends_at", "grants", ["ends_at"], unique=False)
    tenants = op.get_bind().scalars(sa.text("SELECT id FROM tenants")).all()
    op.bulk_insert(revisions, [{"scope": scope, "revision": secrets.randbits(63)} for scope in ("", *tenants)])


def downgrade() -> None:
    """Drop the tables."""
    op.drop_index("ix_grants_ends_at", table_name="grants")
    op.drop_index("ix_grants_tenant_id", table_name="grants")
    op.drop_table("grants")
    op.drop_table("platform_policies")
    op.drop_table("rule_revisions")
