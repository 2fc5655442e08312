"""How a site is and why, from what everybody last said of it. Pure.

Nobody's word is enough: a gateway that died says nothing, a router that is cut off cannot report through its tunnel,
and a router behind a carrier that blocks UDP is invisible to charon and well known to the agents' endpoint.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

#: A gateway reports at each resync; after this many of them without a word its tunnels are anybody's guess.
SILENT_AFTER_RESYNCS = 6
#: But not sooner than this, in seconds: a daemon that is restarted is no news.
SILENT_AFTER_S = 30.0
#: A heartbeat this fresh, in seconds, says that the router reaches us now: the mobile interval and some.
HEARD_LATELY_S = 300.0
#: Clocks that differ by more than this many seconds are wrong; certificates are backdated by an hour.
CLOCK_WRONG_S = 1800.0
#: A problem seen this many seconds before a loss belongs to it.
BEFORE_LOSS_S = 60.0


class State(StrEnum):
    """Of a site's connection. Unknown: who would know does not report."""

    UP = "up"
    DOWN = "down"
    NEVER = "never"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TunnelView:
    """What a gateway last said of a site's tunnel."""

    gateway: str
    up: bool
    since: datetime
    peer: str = ""
    suite: str = ""
    ike_version: int = 0


@dataclass(frozen=True, slots=True)
class Trouble:
    """A message key with its parameters; ``at``: when it was so last."""

    key: str
    params: Mapping[str, Any]
    at: datetime
    seen_by: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """A router's last heartbeat. ``inside``: it came through the tunnel."""

    at: datetime
    source: str
    inside: bool
    report: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of one site's connection. ``last_loss``: the cause that its history has, if it has one.
    ``reporting``: whether any gateway reports.
    """

    site: str
    enrolled: bool
    tunnels: Sequence[TunnelView]
    silent_gateways: Mapping[str, int]
    seen: Sequence[Trouble] = ()
    heard: Heard | None = None
    last_loss: Trouble | None = None
    reporting: bool = True


def silent_after_s(resync_s: float) -> float:
    """Seconds without a report after which a gateway is silent."""
    return max(SILENT_AFTER_S, SILENT_AFTER_RESYNCS * resync_s)


def silent_gateways(seen: Iterable[tuple[str, datetime]], *, now: datetime, after_s: float) -> dict[str, int]:
    """Gateways that do not report, with the seconds since they did. ``seen``: name and last report."""
    ages = {name: int((now - at).total_seconds()) for name, at in seen}
    return {name: age for name, age in ages.items() if age > after_s}


def standing(tunnels: Sequence[TunnelView], silent: Collection[str]) -> tuple[State, TunnelView | None]:
    """The state, and the tunnel that it is read from: the one that is up, else the one that changed last."""
    if not tunnels:
        return State.NEVER, None
    talking = [tunnel for tunnel in tunnels if tunnel.gateway not in silent]
    up = [tunnel for tunnel in talking if tunnel.up]
    if up:
        return State.UP, max(up, key=_since)
    if not talking or any(tunnel.up for tunnel in tunnels):
        return State.UNKNOWN, max(tunnels, key=lambda tunnel: (tunnel.up, tunnel.since))
    return State.DOWN, max(talking, key=_since)


def _since(tunnel: TunnelView) -> datetime:
    return tunnel.since


def why(evidence: Evidence, *, now: datetime) -> Trouble | None:
    """Why the site is not connected, as far as anybody can tell; None: it is."""
    state, tunnel = standing(evidence.tunnels, evidence.silent_gateways)
    site = evidence.site
    if state is State.UP:
        return None
    if state is State.UNKNOWN and tunnel is not None:
        seconds = evidence.silent_gateways.get(tunnel.gateway, 0)
        return Trouble("causes.gateway-silent", {"gateway": tunnel.gateway, "seconds": seconds, "site": site}, now)
    if not evidence.enrolled:
        return Trouble("causes.never-enrolled", {"site": site}, now)
    since = tunnel.since if tunnel is not None else datetime.min.replace(tzinfo=UTC)
    heard = evidence.heard
    lately = heard is not None and heard.at > since and (now - heard.at).total_seconds() <= HEARD_LATELY_S
    if heard is not None and lately and (wrong := clock_wrong(site, heard)) is not None:
        return wrong
    begins = since - timedelta(seconds=BEFORE_LOSS_S) if tunnel is not None else since
    recent = [trouble for trouble in evidence.seen if trouble.at >= begins]
    # What a gateway saw is about the tunnel; a router has other troubles too.
    if told := [trouble for trouble in recent if trouble.seen_by != "router"] or recent:
        return max(told, key=lambda trouble: trouble.at)
    if not evidence.reporting:  # nobody would have seen its packets: neither silence nor a blocked line can be told
        return Trouble("causes.no-gateway", {"site": site}, now)
    if heard is not None and lately:
        own = [one for one in reported(heard) if one.key.startswith("agent.")]
        if own:
            return own[0]
        if not heard.inside:
            params = {"site": site, "heard": f"{heard.at:%Y-%m-%d %H:%M:%S} UTC", "source": heard.source}
            return Trouble("causes.udp-blocked", params, heard.at)
    if evidence.last_loss is not None and tunnel is not None:
        return evidence.last_loss
    return Trouble("causes.silent", {"site": site}, now)


def last_problem(evidence: Evidence) -> Trouble | None:
    """The newest trouble that anybody kept, over or not."""
    known = [*evidence.seen, *(reported(evidence.heard) if evidence.heard is not None else ())]
    if evidence.last_loss is not None:
        known.append(evidence.last_loss)
    return max(known, key=lambda trouble: trouble.at, default=None)


def reported(heard: Heard) -> list[Trouble]:
    """What the router says troubles it."""
    found = heard.report.get("problems", [])
    return [Trouble(str(one["key"]), one.get("params", {}), heard.at, "router") for one in found if "key" in one]


def clock_wrong(site: str, heard: Heard) -> Trouble | None:
    """Whether the router's clock was wrong when it reported."""
    try:
        sent = datetime.fromisoformat(str(heard.report.get("sent_at", "")))
    except ValueError:
        return None
    sent = sent if sent.tzinfo is not None else sent.replace(tzinfo=UTC)
    off_s = (sent - heard.at).total_seconds()
    if abs(off_s) <= CLOCK_WRONG_S:
        return None
    params = {"site": site, "hours": round(off_s / 3600, 1), "router": f"{sent:%Y-%m-%d %H:%M} UTC"}
    return Trouble("causes.clock-wrong", params, heard.at)
