"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column("authority", sa.String(length=63), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("subject", sa.String(length=63), nullable=False),
        sa.Column("pem", sa.String(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("serial", name="pk_certificates"),
    )
    op.create_index("ix_certificates_authority", "certificates", ["authority"], unique=False)
    op.create_index("ix_certificates_subject", "certificates", ["subject"], unique=False)
    op.create_table(
        "gateways",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("rule_set", sa.String(length=64), nullable=False),
        sa.Column("dataplane", sa.String(length=20), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_gateways"),
    )
    op.create_table(
        "incidents",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=63), nullable=False),
        sa.Column("open_key", sa.String(length=110), nullable=True),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("notified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("acknowledged_by", sa.String(length=100), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_incidents"),
        sa.UniqueConstraint("open_key", name="uq_incidents_open_key"),
    )
    op.create_index("ix_incidents_kind", "incidents", ["kind"], unique=False)
    op.create_index("ix_incidents_subject", "incidents", ["subject"], unique=False)
    op.create_table(
        "revocation_lists",
        sa.Column("authority", sa.String(length=63), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.Column("next_update", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("authority", name="pk_revocation_lists"),
    )
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("block", sa.String(length=43), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tenants"),
        sa.UniqueConstraint("block", name="uq_tenants_block"),
    )
    op.create_table(
        "policies",
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("file_name", sa.String(length=200), nullable=False),
        sa.Column("author", sa.String(length=100), nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_policies_tenant_id"),
        sa.PrimaryKeyConstraint("tenant_id", "version", name="pk_policies"),
    )
    op.create_table(
        "servers",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=True),
        sa.Column("address", sa.String(length=43), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_servers_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_servers"),
        sa.UniqueConstraint("address", name="uq_servers_address"),
    )
    op.create_table(
        "sites",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("overlay", sa.String(length=43), nullable=False),
        sa.Column("lan", sa.String(length=43), nullable=False),
        sa.Column("phase", sa.String(length=20), nullable=False),
        sa.Column("timezone", sa.String(length=40), nullable=False),
        sa.Column("mail_hourly_limit", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_sites_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_sites"),
        sa.UniqueConstraint("overlay", name="uq_sites_overlay"),
    )
    op.create_index("ix_sites_tenant_id", "sites", ["tenant_id"], unique=False)
    op.create_table(
        "devices",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("lan_address", sa.String(length=43), nullable=False),
        sa.Column("ssh_host_key", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_devices_site_id"),
        sa.PrimaryKeyConstraint("site_id", "name", name="pk_devices"),
        sa.UniqueConstraint("site_id", "lan_address", name="uq_devices_site_id_lan_address"),
    )
    op.create_table(
        "heartbeats",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source", sa.String(length=43), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_heartbeats_site_id"),
        sa.PrimaryKeyConstraint("site_id", name="pk_heartbeats"),
    )
    op.create_table(
        "log_requests",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("requested_by", sa.String(length=100), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_log_requests_site_id"),
        sa.PrimaryKeyConstraint("id", name="pk_log_requests"),
    )
    op.create_index("ix_log_requests_site_id", "log_requests", ["site_id"], unique=False)
    op.create_table(
        "routers",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("device_id_sha256", sa.String(length=64), nullable=False),
        sa.Column("ssh_host_key", sa.String(), nullable=False),
        sa.Column("enrolled_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_routers_site_id"),
        sa.PrimaryKeyConstraint("site_id", name="pk_routers"),
    )
    op.create_table(
        "settings",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("problem", sa.JSON(), nullable=True),
        sa.Column("author", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_settings_site_id"),
        sa.PrimaryKeyConstraint("site_id", "version", name="pk_settings"),
    )
    op.create_table(
        "smtp_credentials",
        sa.Column("user", sa.String(length=64), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("password_hash", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_smtp_credentials_site_id"),
        sa.PrimaryKeyConstraint("user", name="pk_smtp_credentials"),
    )
    op.create_index("ix_smtp_credentials_site_id", "smtp_credentials", ["site_id"], unique=False)
    op.create_table(
        "tunnels",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("gateway", sa.String(length=40), nullable=False),
        sa.Column("up", sa.Boolean(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("peer", sa.String(length=60), nullable=False),
        sa.Column("suite", sa.String(length=100), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_tunnels_site_id"),
        sa.PrimaryKeyConstraint("site_id", "gateway", name="pk_tunnels"),
    )


def downgrade() -> None:
    """Drop all tables."""
    op.drop_table("tunnels")
    op.drop_index("ix_smtp_credentials_site_id", table_name="smtp_credentials")
    op.drop_table("smtp_credentials")
    op.drop_table("settings")
    op.drop_table("routers")
    op.drop_index("ix_log_requests_site_id", table_name="log_requests")
    op.drop_table("log_requests")
    op.drop_table("heartbeats")
    op.drop_table("devices")
    op.drop_index("ix_sites_tenant_id", table_name="sites")
    op.drop_table("sites")
    op.drop_table("servers")
    op.drop_table("policies")
    op.drop_table("tenants")
    op.drop_table("revocation_lists")
    op.drop_index("ix_incidents_subject", table_name="incidents")
    op.drop_index("ix_incidents_kind", table_name="incidents")
    op.drop_table("incidents")
    op.drop_table("gateways")
    op.drop_index("ix_certificates_subject", table_name="certificates")
    op.drop_index("ix_certificates_authority", table_name="certificates")
    op.drop_table("certificates")
