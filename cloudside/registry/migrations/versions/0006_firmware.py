"""Labels of sites, firmware releases, what sites run, rollouts."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "site_labels",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("key", sa.String(length=40), nullable=False),
        sa.Column("value", sa.String(length=63), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_site_labels_site_id"),
        sa.PrimaryKeyConstraint("site_id", "key", name="pk_site_labels"),
    )
    op.create_index("ix_site_labels_key_value", "site_labels", ["key", "value"], unique=False)
    op.create_table(
        "firmware_releases",
        sa.Column("hardware", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=40), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.String(length=200), nullable=False),
        sa.Column("minimum_from", sa.BigInteger(), nullable=False),
        sa.Column("disk_mib", sa.Integer(), nullable=False),
        sa.Column("full_bytes", sa.BigInteger(), nullable=False),
        sa.Column("deltas", sa.JSON(), nullable=False),
        sa.Column("published_at", _AT, nullable=False),
        sa.Column("yanked_at", _AT, nullable=True),
        sa.Column("yank_reason", sa.String(length=500), nullable=False),
        sa.PrimaryKeyConstraint("hardware", "version", name="pk_firmware_releases"),
    )
    op.create_table(
        "site_firmware",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("hardware", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=40), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("slot", sa.String(length=1), nullable=False),
        sa.Column("stage", sa.String(length=20), nullable=False),
        sa.Column("release", sa.String(length=200), nullable=False),
        sa.Column("rollout", sa.String(length=80), nullable=False),
        sa.Column("progress_pct", sa.Integer(), nullable=False),
        sa.Column("bytes_fetched", sa.BigInteger(), nullable=False),
        sa.Column("since", _AT, nullable=False),
        sa.Column("problem", sa.JSON(), nullable=True),
        sa.Column("modules", sa.JSON(), nullable=False),
        sa.Column("reported_at", _AT, nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_site_firmware_site_id"),
        sa.PrimaryKeyConstraint("site_id", name="pk_site_firmware"),
    )
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=True),
        sa.Column("version", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("ring", sa.Integer(), nullable=False),
        sa.Column("soak_since", _AT, nullable=True),
        sa.Column("cause", sa.JSON(), nullable=True),
        sa.Column("author", sa.String(length=100), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("ended_at", _AT, nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_rollouts_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_rollouts"),
    )
    op.create_index("ix_rollouts_tenant_id", "rollouts", ["tenant_id"], unique=False)
    op.create_index("ix_rollouts_state", "rollouts", ["state"], unique=False)
    op.create_table(
        "rollout_targets",
        sa.Column("rollout_id", sa.String(length=80), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("ring", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("path", sa.String(length=200), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("from_version", sa.String(length=40), nullable=False),
        sa.Column("exclusive", sa.String(length=110), nullable=False),
        sa.Column("offered_at", _AT, nullable=True),
        sa.Column("settled_at", _AT, nullable=True),
        sa.Column("cause", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.id"], name="fk_rollout_targets_rollout_id"),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_rollout_targets_site_id"),
        sa.PrimaryKeyConstraint("rollout_id", "site_id", name="pk_rollout_targets"),
    )
    op.create_index("ix_rollout_targets_site_id", "rollout_targets", ["site_id"], unique=False)
    op.create_table(
        "rollout_progress",
        sa.Column("rollout_id", sa.String(length=80), nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.id"], name="fk_rollout_progress_rollout_id"),
        sa.PrimaryKeyConstraint("rollout_id", name="pk_rollout_progress"),
    )


def downgrade() -> None:
    """Drop the tables."""
    for name in (
        "rollout_progress",
        "rollout_targets",
        "rollouts",
        "site_firmware",
        "firmware_releases",
        "site_labels",
    ):
        op.drop_table(name)
