"""Reads from the registry what is known of a site's connection, for `verdict`."""

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from cloudside.config import Config
from cloudside.registry import history, reports, sites
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.tables import Router, TunnelChange
from cloudside.vpn import verdict
from cloudside.vpn.verdict import Evidence, Heard, Trouble, TunnelView

#: How far back a loss is looked for, in days.
_LOOK_BACK = timedelta(days=30)


def silent_gateways(session: Session, config: Config, *, now: datetime) -> dict[str, int]:
    """Gateways that do not report, with seconds. Their names are no secret of a tenant: its tunnels have them."""
    seen = [(state.name, state.seen_at) for state in reports.gateways(session, OPERATOR)]
    return verdict.silent_gateways(seen, now=now, after_s=verdict.silent_after_s(config.gateway.resync_s))


def of_site(session: Session, caller: Caller, config: Config, site_id: str, *, now: datetime) -> Evidence:
    """Everything known of one site's connection. Raises InputError: unknown site."""
    site = sites.get(session, caller, site_id)
    tunnels = [
        TunnelView(row.gateway, row.up, row.since, row.peer, row.suite, row.ike_version)
        for row in reports.tunnels_of(session, caller, site.id)
    ]
    seen = [
        Trouble(row.key, row.params, row.seen_at, row.seen_by) for row in history.problems(session, caller, site.id)
    ]
    beat = reports.heartbeat(session, caller, site.id)
    heard = None
    if beat is not None:
        inside = beat.source.version == site.overlay.version and beat.source in site.overlay
        heard = Heard(beat.received_at, str(beat.source), inside, beat.report)
    silent = silent_gateways(session, config, now=now)
    losses = [row for row in history.changes(session, caller, site.id, since=now - _LOOK_BACK, most=50) if not row.up]
    return Evidence(
        site=site.id,
        enrolled=session.get(Router, site.id) is not None,
        tunnels=tunnels,
        silent_gateways=silent,
        seen=seen,
        heard=heard,
        last_loss=_loss(losses[-1]) if losses else None,
        reporting=any(state.name not in silent for state in reports.gateways(session, OPERATOR)),
    )


def _loss(row: TunnelChange) -> Trouble | None:
    if not row.cause:
        return None
    return Trouble(row.cause, {**row.params, "site": row.site_id}, row.at, f"gateway/{row.gateway}")
