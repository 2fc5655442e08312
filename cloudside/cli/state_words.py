"""How a site is, as values for programs and in words for people. Pure.

What routers report is read leniently: an older agent leaves parts out, and what is absent was not reported.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cloudside.cli.output import in_words
from cloudside.messages import catalogue, text

if TYPE_CHECKING:
    from cloudside.registry.tables import SiteFirmware
    from cloudside.vpn.verdict import Heard, Trouble, TunnelView

_MIB = 1024 * 1024
#: LAN devices that are named one by one.
_MOST_DEVICES = 20


def trouble(one: "Trouble | None") -> dict[str, Any] | None:
    """A trouble with its text."""
    if one is None:
        return None
    params = dict(one.params)
    return {"key": one.key, "params": params, "at": one.at, "seen_by": one.seen_by, "text": text(one.key, params)}


def problem(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a router or rollout said stands in the way, with its text; a key of a newer agent is its own text."""
    if not found:
        return None
    key, params = str(found.get("key", "")), dict(found.get("params") or {})
    return {"key": key, "params": params, "text": text(key, params)}


def firmware(row: "SiteFirmware | None") -> dict[str, Any] | None:
    """What runs on a router and how far its update is; None: it never said."""
    if row is None:
        return None
    return {
        "hardware": row.hardware,
        "version": row.version,
        "counter": row.counter,
        "slot": row.slot,
        "stage": row.stage,
        "release": row.release or None,
        "since": row.since,
        "problem": problem(row.problem),
    }


def module(one: Mapping[str, Any]) -> dict[str, Any]:
    """A module for people: its stage and its problem in words."""
    stood = one.get("problem")
    return {**one, "stage": _stage("module", one["stage"]), "problem": None if stood is None else stood["text"]}


def _stage(of: str, stage: str) -> str:
    """A stage as routers say it, ``of``: "module", or "stage" of an update; a newer agent's is its own text."""
    key = f"firmware.{of}-{stage}"
    return text(key) if key in catalogue("en") else stage


def tunnel(view: "TunnelView | None", heard: "Heard | None") -> dict[str, Any]:
    """IKE's details. ``behind_nat``: the router's own address of its line is not the one we see; None: not known."""
    own = _section(heard, "uplink").get("address")
    peer = view.peer if view is not None else ""
    return {
        "gateway": None if view is None else view.gateway,
        "peer": peer or None,
        "behind_nat": own != peer if own and peer else None,
        "ike_version": None if view is None else view.ike_version or None,
        "suite": None if view is None else view.suite or None,
    }


def router(heard: "Heard | None") -> dict[str, Any]:
    """What the router reported last."""
    uplink, modem = _section(heard, "uplink"), _section(heard, "modem")
    report: Mapping[str, Any] = heard.report if heard is not None else {}
    lines = report.get("uplinks")
    uplinks = [one for one in lines if isinstance(one, dict)] if isinstance(lines, list) else None
    used = next((one for one in uplinks or () if one.get("in_use")), {})
    devices = report.get("lan_devices")
    return {
        "heartbeat": None if heard is None else heard.at,
        "heartbeat_through": None if heard is None else "tunnel" if heard.inside else "internet",
        "uplink": uplink.get("kind"),
        "uplinks": uplinks,
        "rtt_ms": used.get("rtt_ms"),
        "signal_dbm": modem.get("signal_dbm"),
        "technology": modem.get("technology") or None,
        "operator": modem.get("operator") or None,
        "roaming": modem.get("roaming"),
        "modem": modem.get("state"),
        "data_used_bytes": modem.get("data_used_bytes"),
        "data_budget_bytes": modem.get("data_budget_bytes") or None,
        "versions": report.get("versions"),
        "lan_devices": devices if isinstance(devices, list) else None,
    }


def site_in_words(document: Mapping[str, Any], *, now: datetime) -> dict[str, Any]:
    """A site for people, what matters first. What no router said is "not reported"."""
    said = document["heartbeat"] is not None

    def reported(value: Any) -> str:
        return in_words(value) if value is not None else text("cli.not-reported") if said else "-"

    state = text(f"cli.tunnel-{document['state']}")
    since = document["since"]
    why, last = document["why"], document["last_problem"]
    days = document["certificate_days"]
    ends = document["certificate_until"]
    return {
        "site": document["site"],
        "tenant": document["tenant"],
        "state": state if since is None else f"{state}, {text('cli.since')} {since:%Y-%m-%d %H:%M:%S} UTC",
        **({"why": why["text"]} if why is not None else {}),
        "last_problem": None if last is None else f"{last['at']:%Y-%m-%d %H:%M:%S} UTC: {last['text']}",
        "uplink": reported(document["uplink"]),
        "uplinks": _uplinks(document["uplinks"], reported),
        "rtt": reported(None if document["rtt_ms"] is None else f"{document['rtt_ms']:.0f} ms"),
        "signal": reported(None if document["signal_dbm"] is None else f"{document['signal_dbm']} dBm"),
        "operator": _operator(document, reported),
        "data_used": reported(_data(document)),
        "gateway": document["gateway"],
        "peer": _peer(document),
        "ike": _ike(document),
        "heartbeat": _heartbeat(document, now),
        "versions": reported(document["versions"]),
        "firmware": reported(_firmware(document["firmware"])),
        "modules": _modules(document["modules"]),
        "lan_devices": _devices(document["lan_devices"], reported),
        "certificate_until": None if ends is None else _certificate(ends, days),
        "phase": document["phase"],
        "revoked": document["revoked"],
        "overlay": document["overlay"],
        "lan": document["lan"],
        "router_address": document["router_address"],
        "timezone": document["timezone"],
        "mail_hourly_limit": document["mail_hourly_limit"],
        "enrolled": document["enrolled"],
        "host_key": document["host_key"],
        "devices": document["devices"],
        "settings": document["settings"],
    }  # fmt: skip


def span(seconds: float) -> str:
    """A length of time: ``3 d 4 h``, ``2 h 5 min``, ``42 s``."""
    whole = round(seconds)
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (left, "s")]
    shown = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(shown[:2]) or "0 s"


def _certificate(ends: datetime, days: int) -> str:
    key = "cli.certificate-days" if days >= 0 else "cli.certificate-over"
    return text(key, {"until": f"{ends:%Y-%m-%d}", "days": abs(days)})


def _section(heard: "Heard | None", name: str) -> Mapping[str, Any]:
    found = heard.report.get(name) if heard is not None else None
    return found if isinstance(found, dict) else {}


def _uplinks(lines: "list[dict[str, Any]] | None", reported: Any) -> str:
    if lines is None:
        return str(reported(None))
    shown = []
    for line in lines:
        healthy = line.get("healthy")
        health = text("cli.uplink-unprobed" if healthy is None else "cli.uplink-good" if healthy else "cli.uplink-bad")
        parts = [f"{line.get('kind', '?')} {line.get('interface', '')} {line.get('address', '')}".strip(), health]
        if line.get("in_use"):
            parts.append(text("cli.uplink-in-use"))
        if line.get("rtt_ms") is not None:
            parts.append(f"{line['rtt_ms']:.0f} ms")
        shown.append(", ".join(parts))
    return in_words(shown)


def _operator(document: Mapping[str, Any], reported: Any) -> str:
    name = document["operator"]
    if name is None:
        return str(reported(None))
    parts = [name, document["technology"]]
    parts.append(text("cli.roaming") if document["roaming"] else None)
    return in_words(", ".join(str(part) for part in parts if part))


def _firmware(found: Mapping[str, Any] | None) -> str | None:
    if found is None:
        return None
    shown = f"{found['version']} ({found['hardware']}), {text('firmware.slot', {'slot': found['slot'] or '-'})}"
    lines = [f"{shown}: {_stage('stage', found['stage'])}" if found["release"] else shown]
    if found["problem"] is not None:
        lines.append(found["problem"]["text"])
    return in_words(lines)


def _modules(found: "list[Mapping[str, Any]]") -> str:
    shown = []
    for one in map(module, found):
        said = f"{one['module']} {one['version']}: {one['stage']}"
        shown.append(f"{said}; {one['problem']}" if one["problem"] else said)
    return in_words(shown)


def _data(document: Mapping[str, Any]) -> str | None:
    used, budget = document["data_used_bytes"], document["data_budget_bytes"]
    if used is None:
        return None
    shown = f"{used / _MIB:.1f} MiB"
    return f"{shown} / {budget / _MIB:.0f} MiB ({100 * used / budget:.0f} %)" if budget else shown


def _peer(document: Mapping[str, Any]) -> str | None:
    if document["peer"] is None:
        return None
    nat = document["behind_nat"]
    return str(document["peer"]) if nat is None else f"{document['peer']} ({text('cli.nat' if nat else 'cli.no-nat')})"


def _ike(document: Mapping[str, Any]) -> str | None:
    version = document["ike_version"]
    parts = [f"IKEv{version}" if version else None, document["suite"]]
    return ", ".join(str(part) for part in parts if part) or None


def _heartbeat(document: Mapping[str, Any], now: datetime) -> str | None:
    at = document["heartbeat"]
    if at is None:
        return None
    params = {"ago": span(max(0.0, (now - at).total_seconds())), "at": f"{at:%Y-%m-%d %H:%M:%S}"}
    return text(f"cli.heard-through-{document['heartbeat_through']}", params)


def _devices(found: "list[Any] | None", reported: Any) -> str:
    if found is None:
        return str(reported(None))
    shown = []
    for one in found[:_MOST_DEVICES]:
        seen = one.get("seen_s")
        parts = [one.get("address"), one.get("name"), one.get("mac"), one.get("source")]
        parts.append(None if seen is None else text("cli.seen-ago", {"ago": span(seen)}))
        shown.append(" ".join(str(part) for part in parts if part))
    if len(found) > _MOST_DEVICES:
        shown.append(text("cli.and-more", {"count": len(found) - _MOST_DEVICES}))
    return in_words(shown)
