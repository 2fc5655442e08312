"""What mail may be sent, how much, what waits, and what is not sent any more."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_AT = sa.DateTime(timezone=True)
_LISTS = ("sources", "senders", "recipients")


def upgrade() -> None:
    """Create the tables."""
    op.add_column("smtp_credentials", sa.Column("device", sa.String(length=40), nullable=False, server_default=""))
    op.add_column("smtp_credentials", sa.Column("previous_hash", sa.String(length=200), nullable=True))
    op.add_column("smtp_credentials", sa.Column("previous_until", _AT, nullable=True))
    op.add_column("smtp_credentials", sa.Column("cram_secret", sa.String(length=2000), nullable=True))
    for name in _LISTS:
        op.add_column("smtp_credentials", sa.Column(name, sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("smtp_credentials", sa.Column("rotated_at", _AT, nullable=True))
    op.create_table(
        "mail_profiles",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("notify", sa.String(length=254), nullable=True),
        sa.Column("old_tls", sa.Boolean(), nullable=False),
        sa.Column("senders", sa.JSON(), nullable=False),
        sa.Column("recipients", sa.JSON(), nullable=False),
        sa.Column("silent_after_s", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_mail_profiles_site_id"),
        sa.PrimaryKeyConstraint("site_id", name="pk_mail_profiles"),
    )
    _scoped_table(
        "mail_limits",
        sa.Column("hourly", sa.Integer(), nullable=True),
        sa.Column("daily", sa.Integer(), nullable=True),
        sa.Column("action", sa.String(length=10), nullable=False),
        sa.Column("raised", sa.Integer(), nullable=False),
        sa.Column("raised_until", _AT, nullable=True),
    )
    _scoped_table(
        "mail_holds",
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("author", sa.String(length=100), nullable=False),
        sa.Column("since", _AT, nullable=False),
        sa.Column("imposed", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "suppressions",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("address", sa.String(length=254), nullable=False),
        sa.Column("cause", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("message", sa.String(length=16), nullable=False),
        sa.Column("author", sa.String(length=100), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("expires_at", _AT, nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "address", name="pk_suppressions"),
    )
    op.create_index("ix_suppressions_expires_at", "suppressions", ["expires_at"], unique=False)
    op.create_table(
        "mail_domains",
        sa.Column("origin", sa.String(length=80), nullable=False),
        sa.Column("domain", sa.String(length=253), nullable=False),
        sa.Column("first_seen", _AT, nullable=False),
        sa.PrimaryKeyConstraint("origin", "domain", name="pk_mail_domains"),
    )
    with op.batch_alter_table("incidents") as incidents:
        incidents.add_column(sa.Column("due_at", _AT, nullable=True))
        incidents.alter_column("subject", existing_type=sa.String(length=63), type_=sa.String(length=140))
        incidents.alter_column("open_key", existing_type=sa.String(length=110), type_=sa.String(length=190))
    op.create_index("ix_incidents_due_at", "incidents", ["due_at"], unique=False)
    op.execute("UPDATE incidents SET due_at = opened_at WHERE open_key IS NOT NULL AND notified_at IS NULL")


def _scoped_table(name: str, *more: sa.Column[object]) -> None:
    op.create_table(
        name,
        sa.Column("scope", sa.String(length=10), nullable=False),
        sa.Column("name", sa.String(length=110), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=True),
        *more,
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=f"fk_{name}_tenant_id"),
        sa.PrimaryKeyConstraint("scope", "name", name=f"pk_{name}"),
    )
    op.create_index(f"ix_{name}_tenant_id", name, ["tenant_id"], unique=False)


def downgrade() -> None:
    """Drop the tables."""
    op.drop_index("ix_incidents_due_at", "incidents")
    with op.batch_alter_table("incidents") as incidents:
        incidents.drop_column("due_at")
        incidents.alter_column("subject", existing_type=sa.String(length=140), type_=sa.String(length=63))
        incidents.alter_column("open_key", existing_type=sa.String(length=190), type_=sa.String(length=110))
    for name in ("mail_domains", "suppressions", "mail_holds", "mail_limits", "mail_profiles"):
        op.drop_table(name)
    for name in ("rotated_at", *_LISTS, "cram_secret", "previous_until", "previous_hash", "device"):
        op.drop_column("smtp_credentials", name)
