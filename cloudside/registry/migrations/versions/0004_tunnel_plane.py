"""Audit log, enrolment tokens, history of tunnels, troubles of sites, usage."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_AT = sa.DateTime(timezone=True)
#: Columns with prefixes that must not overlap.
_PREFIXES = {"tenants": "block", "sites": "overlay"}


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "audit_entries",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=True),
        sa.Column("action", sa.String(length=10), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=300), nullable=False),
        sa.Column("before", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("after", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit_entries"),
    )
    for column in ("at", "tenant_id", "subject"):
        op.create_index(f"ix_audit_entries_{column}", "audit_entries", [column], unique=False)
    op.create_table(
        "enrolment_tokens",
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("created_by", sa.String(length=100), nullable=False),
        sa.Column("expires_at", _AT, nullable=False),
        sa.Column("used_at", _AT, nullable=True),
        sa.Column("withdrawn_at", _AT, nullable=True),
        sa.Column("certificate_serial", sa.String(length=40), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_enrolment_tokens_site_id"),
        sa.PrimaryKeyConstraint("token_sha256", name="pk_enrolment_tokens"),
    )
    op.create_index("ix_enrolment_tokens_site_id", "enrolment_tokens", ["site_id"], unique=False)
    op.create_table(
        "tunnel_changes",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("gateway", sa.String(length=40), nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.Column("up", sa.Boolean(), nullable=False),
        sa.Column("peer", sa.String(length=60), nullable=False),
        sa.Column("cause", sa.String(length=60), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_tunnel_changes_site_id"),
        sa.PrimaryKeyConstraint("id", name="pk_tunnel_changes"),
    )
    op.create_index("ix_tunnel_changes_site_id_at", "tunnel_changes", ["site_id", "at"], unique=False)
    op.create_index("ix_tunnel_changes_at", "tunnel_changes", ["at"], unique=False)
    op.create_table(
        "site_problems",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("seen_by", sa.String(length=50), nullable=False),
        sa.Column("key", sa.String(length=60), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("since", _AT, nullable=False),
        sa.Column("seen_at", _AT, nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_site_problems_site_id"),
        sa.PrimaryKeyConstraint("site_id", "seen_by", name="pk_site_problems"),
    )
    _usage_table("site_usage")
    _usage_table("membership_usage", sa.Column("group_name", sa.String(length=100), nullable=False))
    op.create_table(
        "usage_cursors",
        sa.Column("gateway", sa.String(length=40), nullable=False),
        sa.Column("cut", sa.BigInteger(), nullable=False),
        sa.Column("until", _AT, nullable=False),
        sa.PrimaryKeyConstraint("gateway", name="pk_usage_cursors"),
    )
    op.create_index("ix_routers_device_id_sha256", "routers", ["device_id_sha256"], unique=False)
    op.add_column("certificates", sa.Column("overlay", sa.String(length=43), nullable=True))
    op.add_column("tunnels", sa.Column("ike_version", sa.Integer(), nullable=False, server_default="0"))
    if _on_postgresql():
        for table, column in _PREFIXES.items():
            # Whatever else goes wrong, no two prefixes share an address. They are text; the cast is immutable.
            op.execute(
                f"ALTER TABLE {table} ADD CONSTRAINT ex_{table}_{column} "
                f"EXCLUDE USING gist (({column}::inet) inet_ops WITH &&)"
            )
    _append_only()


def _usage_table(name: str, *more: sa.Column[str]) -> None:
    op.create_table(
        name,
        sa.Column("site_id", sa.String(length=63), nullable=False),
        *more,
        sa.Column("hour", _AT, nullable=False),
        sa.Column("gateway", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("bytes_from_site", sa.BigInteger(), nullable=False),
        sa.Column("bytes_to_site", sa.BigInteger(), nullable=False),
        sa.Column("connected_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name=f"fk_{name}_site_id"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=f"fk_{name}_tenant_id"),
        sa.PrimaryKeyConstraint("site_id", *(one.name for one in more), "hour", "gateway", name=f"pk_{name}"),
    )
    op.create_index(f"ix_{name}_hour", name, ["hour"], unique=False)
    op.create_index(f"ix_{name}_tenant_id", name, ["tenant_id"], unique=False)


def _append_only() -> None:
    """Let the database itself refuse to change entries: against mistakes. Who means it can drop the trigger."""
    if _on_postgresql():
        op.execute(
            "CREATE FUNCTION audit_entries_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'audit entries are never changed'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_entries_append_only()"
        )
        return
    for event in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_entries_no_{event.lower()} BEFORE {event} ON audit_entries "
            "BEGIN SELECT RAISE(ABORT, 'audit entries are never changed'); END"
        )


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def downgrade() -> None:
    """Drop the tables."""
    if _on_postgresql():
        for table, column in _PREFIXES.items():
            op.drop_constraint(f"ex_{table}_{column}", table)
    op.drop_column("tunnels", "ike_version")
    op.drop_index("ix_routers_device_id_sha256", table_name="routers")
    for name in (
        "usage_cursors",
        "membership_usage",
        "site_usage",
        "site_problems",
        "tunnel_changes",
        "enrolment_tokens",
    ):
        op.drop_table(name)
    op.drop_table("audit_entries")
    if _on_postgresql():
        op.execute("DROP FUNCTION audit_entries_append_only()")
