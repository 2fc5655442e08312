"""How the fleet is, as rows: what was stated beside what was last heard. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cloudside.messages import text

if TYPE_CHECKING:
    from cloudside.registry.tables import GatewayState, Heartbeat, Settings, Site, Tunnel

#: The router reports through the tunnel; one that is down longer than this is named as a problem.
_MINUTE_S = 60


def site_row(
    site: "Site",
    tunnels: "Sequence[Tunnel]",
    heartbeat: "Heartbeat | None",
    settings: "Settings | None",
    *,
    now: datetime,
    silent: Collection[str] = (),
) -> dict[str, Any]:
    """One site. ``tunnel`` is up, down, never or unknown: then the gateway that would know does not report.

    ``problems`` are in words, each with its key for programs.
    """
    from cloudside.vpn.verdict import TunnelView, standing

    views = [TunnelView(one.gateway, one.up, one.since, one.peer, one.suite, one.ike_version) for one in tunnels]
    state, last = standing(views, silent)
    document: Mapping[str, Any] = heartbeat.report if heartbeat is not None else {}
    problems = [problem_row(one) for one in document.get("problems", [])]
    if settings is not None and settings.state == "reverted":
        why = problem_row(settings.problem or {"key": "agent.settings-reverted", "params": {}})
        params = {"site": site.id, "version": settings.version, "problem": why["text"]}
        problems.append(problem_row({"key": "fleet.settings-reverted", "params": params}))
    return {
        "site": site.id,
        "tenant": site.tenant_id,
        "phase": site.phase,
        "revoked": site.revoked_at,
        "tunnel": state.value,
        "since": None if last is None else last.since,
        "gateway": None if last is None else last.gateway,
        "peer": None if last is None else last.peer,
        "uplink": document.get("uplink", {}).get("kind"),
        "heartbeat": None if heartbeat is None else heartbeat.received_at,
        "heartbeat_age_s": None if heartbeat is None else max(0, round((now - heartbeat.received_at).total_seconds())),
        "settings": None if settings is None else settings.version,
        "settings_state": None if settings is None else settings.state,
        "problems": problems,
    }


def site_in_words(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a table."""
    tunnel = text(f"cli.tunnel-{row['tunnel']}")
    return {
        "site": row["site"],
        "tenant": row["tenant"],
        "phase": text("cli.revoked") if row["revoked"] else row["phase"],
        "tunnel": f"{tunnel}\n{row['since']:%m-%d %H:%M:%S}" if row["since"] else tunnel,
        "uplink": row["uplink"],
        "heartbeat": age(row["heartbeat_age_s"]),
        "settings": f"{row['settings']} {row['settings_state']}" if row["settings"] else None,
        "problems": len(row["problems"]) or None,
    }


def gateway_row(gateway: "GatewayState", *, now: datetime, silent: Mapping[str, int], tunnels: int) -> dict[str, Any]:
    """One gateway. ``current``: its kernel has the rule set that the registry wants; None: it does not report."""
    wanted = gateway.report.get("wanted_rule_set")
    return {
        "gateway": gateway.name,
        "seen": gateway.seen_at,
        "seen_age_s": max(0, round((now - gateway.seen_at).total_seconds())),
        "silent": gateway.name in silent,
        "tunnels": tunnels,
        "rule_set": gateway.rule_set,
        "current": None if gateway.name in silent or not wanted else wanted == gateway.rule_set,
        "charon": gateway.report.get("charon"),
        "dataplane": gateway.dataplane,
        "problems": [problem_row(one) for one in gateway.report.get("problems", [])],
    }


def gateway_in_words(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a table."""
    return {
        "gateway": row["gateway"],
        "seen": f"{age(row['seen_age_s'])}\n{text('cli.gateway-silent')}" if row["silent"] else age(row["seen_age_s"]),
        "tunnels": row["tunnels"],
        "rule_set": _rule_set(row),
        "dataplane": row["dataplane"],
        "problems": len(row["problems"]) or None,
    }


def _rule_set(row: Mapping[str, Any]) -> str:
    known = {True: "cli.rules-current", False: "cli.rules-behind"}.get(row["current"], "cli.rules-unknown")
    return f"{row['rule_set'][:12]} {text(known)}"


def problems_in_words(rows: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    """A line for each problem of these rows, led by whose it is: a sentence has no room in a table of 80 columns.

    ``name`` is the column that names the row.
    """
    return [f"{row[name]}: {problem['text']}" for row in rows for problem in row["problems"]]


def age(seconds: int | None) -> str | None:
    """Seconds in words: 45 s, 12 min, 5 h, 3 d."""
    if seconds is None:
        return None
    for unit, length in (("d", 86_400), ("h", 3600), ("min", _MINUTE_S)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def problem_row(reported: Mapping[str, Any]) -> dict[str, Any]:
    """A problem with its text."""
    key, params = reported["key"], reported.get("params", {})
    return {"key": key, "params": params, "text": text(key, params)}
