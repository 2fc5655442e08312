"""The way from a site to the cloud, looked at link by link, until one does not hold. Pure.

What a link needs comes in as facts: from the registry always, from the gateway's machine only where this program runs
there. A link that nobody looked at is said to be so, and does not stop the walk.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from cloudside.vpn import verdict
from cloudside.vpn.verdict import Evidence, State


class Outcome(StrEnum):
    """Of one link. Skipped: it could not be looked at from here."""

    OK = "ok"
    STOP = "stop"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Step:
    """One link: its name, and a message that says how it is and, where it stops, what to do."""

    name: str
    outcome: Outcome
    key: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A site's newest certificate that is not revoked."""

    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class GatewayFacts:
    """What a gateway last reported. ``charon``, ``current`` None: it did not say."""

    name: str
    silent_s: int | None
    charon: bool | None
    current: bool | None


@dataclass(frozen=True, slots=True)
class Live:
    """What was found on the gateway's own machine. None: it could not be looked at.

    ``devices``: name, overlay address, whether it answered.
    """

    charon: str | None
    ike_suite: str | None
    child_suite: str | None
    route: bool
    admitted: bool
    ping_ms: float | None
    devices: Sequence[tuple[str, str, bool]] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the walk goes by. ``here``: the gateway that this machine is, if ``live`` was looked at."""

    site: str
    phase: str
    revoked_at: datetime | None
    router_address: str
    certificate: Certificate | None
    gateways: Sequence[GatewayFacts]
    evidence: Evidence
    live: Live | None
    here: str


def walk(facts: Facts, *, now: datetime) -> list[Step]:
    """The links in their order, up to the first that stops."""
    steps = []
    for step in _links(facts, now):
        steps.append(step)
        if step.outcome is Outcome.STOP:
            break
    return steps


def _links(facts: Facts, now: datetime) -> Iterator[Step]:
    yield _registry(facts)
    yield _certificate(facts, now)
    gateway = _gateway_of(facts)
    yield _daemon(facts, gateway)
    yield _charon(facts, gateway)
    yield _attempts(facts, now)
    yield from _tunnel(facts)
    yield from _forwarding(facts)
    yield _heartbeat(facts, now)
    yield from _devices(facts)


def _ok(name: str, key: str, **params: Any) -> Step:
    return Step(name, Outcome.OK, f"diagnose.{key}", params)


def _stop(name: str, key: str, **params: Any) -> Step:
    return Step(name, Outcome.STOP, f"diagnose.{key}", params)


def _registry(facts: Facts) -> Step:
    if facts.revoked_at is not None:
        return _stop("registry", "revoked", site=facts.site, since=f"{facts.revoked_at:%Y-%m-%d %H:%M}")
    if facts.phase == "retired":
        return _stop("registry", "retired", site=facts.site)
    if not facts.evidence.enrolled:
        return Step("registry", Outcome.STOP, "causes.never-enrolled", {"site": facts.site})
    return _ok("registry", "in-service", site=facts.site, phase=facts.phase)


def _certificate(facts: Facts, now: datetime) -> Step:
    found = facts.certificate
    if found is None:
        return _stop("certificate", "no-certificate", site=facts.site)
    if found.not_after <= now:
        return _stop("certificate", "certificate-over", site=facts.site, until=f"{found.not_after:%Y-%m-%d}")
    if found.not_before > now:
        return _stop("certificate", "certificate-early", site=facts.site, begins=f"{found.not_before:%Y-%m-%d %H:%M}")
    days = (found.not_after - now).days
    return _ok("certificate", "certificate-good", until=f"{found.not_after:%Y-%m-%d}", days=days)


def _gateway_of(facts: Facts) -> GatewayFacts | None:
    """The gateway that has the site, or had it last; else one that reports."""
    _, tunnel = verdict.standing(facts.evidence.tunnels, facts.evidence.silent_gateways)
    by_name = {one.name: one for one in facts.gateways}
    if tunnel is not None and tunnel.gateway in by_name:
        return by_name[tunnel.gateway]
    talking = [one for one in facts.gateways if one.silent_s is None]
    return next(iter(talking or facts.gateways), None)


def _daemon(facts: Facts, gateway: GatewayFacts | None) -> Step:
    if gateway is None:
        return _stop("gateway", "no-gateway")
    if gateway.silent_s is not None:
        return _stop("gateway", "gateway-silent", gateway=gateway.name, seconds=gateway.silent_s)
    if gateway.current is False:
        return _stop("gateway", "gateway-behind", gateway=gateway.name)
    return _ok("gateway", "gateway-reports", gateway=gateway.name)


def _charon(facts: Facts, gateway: GatewayFacts | None) -> Step:
    name = gateway.name if gateway is not None else facts.here
    if facts.live is not None and facts.live.charon is None:
        return _stop("charon", "charon-dead", gateway=facts.here)
    if facts.live is not None:
        return _ok("charon", "charon-answers", gateway=facts.here, version=facts.live.charon)
    if gateway is not None and gateway.charon is False:
        return _stop("charon", "charon-dead", gateway=name)
    return _ok("charon", "charon-reported", gateway=name)


def _attempts(facts: Facts, now: datetime) -> Step:
    state, tunnel = verdict.standing(facts.evidence.tunnels, facts.evidence.silent_gateways)
    if state is State.UP and tunnel is not None:
        return _ok("ike", "ike-arrives", peer=tunnel.peer, gateway=tunnel.gateway)
    if facts.live is not None and facts.live.child_suite is not None:
        return _ok("ike", "ike-arrives", peer="-", gateway=facts.here)
    found = verdict.why(facts.evidence, now=now)
    if found is None:
        return _stop("ike", "ike-unknown", site=facts.site)
    return Step("ike", Outcome.STOP, found.key, {"site": facts.site, **found.params})


def _tunnel(facts: Facts) -> Iterator[Step]:
    live = facts.live
    _, tunnel = verdict.standing(facts.evidence.tunnels, facts.evidence.silent_gateways)
    if live is None:
        gateway = tunnel.gateway if tunnel is not None else "-"
        yield Step(
            "ike-sa", Outcome.OK, "diagnose.sa-reported", {"gateway": gateway, "suite": tunnel.suite if tunnel else "-"}
        )
        return
    if live.ike_suite is None:
        yield _stop("ike-sa", "no-ike-sa", site=facts.site, gateway=facts.here)
    else:
        yield _ok("ike-sa", "ike-sa-up", suite=live.ike_suite)
    if live.child_suite is None:
        yield _stop("child-sa", "no-child-sa", site=facts.site)
    else:
        yield _ok("child-sa", "child-sa-up", suite=live.child_suite)


def _forwarding(facts: Facts) -> Iterator[Step]:
    live = facts.live
    if live is None:
        gateway = _gateway_of(facts)
        elsewhere = {"gateway": gateway.name if gateway is not None else "-", "site": facts.site}
        for name in ("route", "rules", "ping"):
            yield Step(name, Outcome.SKIPPED, "diagnose.not-here", elsewhere)
        return
    yield _ok("route", "route-there") if live.route else _stop("route", "no-route", gateway=facts.here)
    yield _ok("rules", "admitted") if live.admitted else _stop("rules", "not-admitted", gateway=facts.here)
    if live.ping_ms is None:
        yield _stop("ping", "no-ping", site=facts.site, address=facts.router_address)
    else:
        yield _ok("ping", "ping", address=facts.router_address, ms=round(live.ping_ms, 1))


def _heartbeat(facts: Facts, now: datetime) -> Step:
    heard = facts.evidence.heard
    if heard is None:
        return _stop("heartbeat", "no-heartbeat", site=facts.site)
    age_s = max(0, int((now - heard.at).total_seconds()))
    if age_s > verdict.HEARD_LATELY_S:
        return _stop("heartbeat", "heartbeat-old", site=facts.site, seconds=age_s)
    return _ok("heartbeat", "heartbeat", seconds=age_s)


def _devices(facts: Facts) -> Iterator[Step]:
    if facts.live is None:
        gateway = _gateway_of(facts)
        elsewhere = {"gateway": gateway.name if gateway is not None else "-", "site": facts.site}
        yield Step("devices", Outcome.SKIPPED, "diagnose.not-here", elsewhere)
        return
    if not facts.live.devices:
        yield _ok("devices", "no-devices", site=facts.site)
    for name, address, answered in facts.live.devices:
        params = {"site": facts.site, "device": name, "address": address}
        yield _ok("devices", "device-answers", **params) if answered else _stop("devices", "device-silent", **params)
