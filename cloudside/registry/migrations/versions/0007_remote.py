"""Settings drafts, changes of settings to many sites, log pulls in pieces, commands, crash reports."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_AT = sa.DateTime(timezone=True)
_TABLES = (
    "crash_reports", "site_commands", "log_pieces", "log_uploads", "log_pulls", "settings_change_sites",
    "settings_changes", "settings_drafts",
)  # fmt: skip


def upgrade() -> None:
    """Create the tables."""
    _settings()
    _logs()
    op.create_table(
        "site_commands",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("arguments", sa.JSON(), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("timeout_s", sa.Integer(), nullable=False),
        sa.Column("requested_by", sa.String(length=100), nullable=False),
        sa.Column("requested_at", _AT, nullable=False),
        sa.Column("expires_at", _AT, nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("answered_at", _AT, nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("output", sa.Text(), nullable=True),
        sa.Column("truncated", sa.Boolean(), nullable=False),
        sa.Column("began_at", _AT, nullable=True),
        sa.Column("duration_ms", sa.BigInteger(), nullable=True),
        sa.Column("problem", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_site_commands_site_id"),
        sa.PrimaryKeyConstraint("id", name="pk_site_commands"),
    )
    _index("site_commands", "site_id")
    _index("site_commands", "state")
    op.create_table(
        "crash_reports",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=12), nullable=False),
        sa.Column("process", sa.String(length=200), nullable=False),
        sa.Column("summary", sa.String(length=200), nullable=False),
        sa.Column("first_at", _AT, nullable=False),
        sa.Column("last_at", _AT, nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("versions", sa.JSON(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("received_at", _AT, nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_crash_reports_site_id"),
        sa.PrimaryKeyConstraint("site_id", "id", name="pk_crash_reports"),
    )
    _index("crash_reports", "received_at")


def _settings() -> None:
    op.create_table(
        "settings_drafts",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("changes", sa.JSON(), nullable=False),
        sa.Column("base", sa.JSON(), nullable=False),
        sa.Column("author", sa.String(length=100), nullable=False),
        sa.Column("updated_at", _AT, nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_settings_drafts_site_id"),
        sa.PrimaryKeyConstraint("site_id", name="pk_settings_drafts"),
    )
    op.create_table(
        "settings_changes",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=True),
        sa.Column("changes", sa.JSON(), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("author", sa.String(length=100), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("stagger", sa.Integer(), nullable=False),
        sa.Column("every_s", sa.Integer(), nullable=False),
        sa.Column("stop_after", sa.Integer(), nullable=False),
        sa.Column("until", _AT, nullable=False),
        sa.Column("ended_at", _AT, nullable=True),
        sa.Column("problem", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_settings_changes_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_settings_changes"),
    )
    _index("settings_changes", "tenant_id")
    _index("settings_changes", "state")
    op.create_table(
        "settings_change_sites",
        sa.Column("change_id", sa.Integer(), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("stated_at", _AT, nullable=True),
        sa.Column("ended_at", _AT, nullable=True),
        sa.Column("problem", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["change_id"], ["settings_changes.id"], name="fk_settings_change_sites_change_id"),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_settings_change_sites_site_id"),
        sa.PrimaryKeyConstraint("change_id", "site_id", name="pk_settings_change_sites"),
    )
    _index("settings_change_sites", "site_id")


def _logs() -> None:
    op.create_table(
        "log_pulls",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("units", sa.JSON(), nullable=False),
        sa.Column("since_at", _AT, nullable=True),
        sa.Column("until_at", _AT, nullable=True),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("follow", sa.Boolean(), nullable=False),
        sa.Column("max_bytes", sa.Integer(), nullable=False),
        sa.Column("mobile_max_bytes", sa.Integer(), nullable=False),
        sa.Column("mobile_rate_bytes_s", sa.Integer(), nullable=False),
        sa.Column("requested_by", sa.String(length=100), nullable=False),
        sa.Column("requested_at", _AT, nullable=False),
        sa.Column("expires_at", _AT, nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("ended_at", _AT, nullable=True),
        sa.Column("problem", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_log_pulls_site_id"),
        sa.PrimaryKeyConstraint("id", name="pk_log_pulls"),
    )
    _index("log_pulls", "site_id")
    _index("log_pulls", "state")
    op.create_table(
        "log_uploads",
        sa.Column("pull_id", sa.String(length=32), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("total_bytes", sa.Integer(), nullable=False),
        sa.Column("received_bytes", sa.Integer(), nullable=False),
        sa.Column("updated_at", _AT, nullable=False),
        sa.Column("waits", sa.JSON(), nullable=True),
        sa.Column("wanted_until", _AT, nullable=True),
        sa.ForeignKeyConstraint(["pull_id"], ["log_pulls.id"], name="fk_log_uploads_pull_id"),
        sa.PrimaryKeyConstraint("pull_id", name="pk_log_uploads"),
    )
    op.create_table(
        "log_pieces",
        sa.Column("pull_id", sa.String(length=32), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["pull_id"], ["log_pulls.id"], name="fk_log_pieces_pull_id"),
        sa.PrimaryKeyConstraint("pull_id", "start", name="pk_log_pieces"),
    )


def _index(table: str, column: str) -> None:
    op.create_index(f"ix_{table}_{column}", table, [column], unique=False)


def downgrade() -> None:
    """Drop the tables."""
    for name in _TABLES:
        op.drop_table(name)
