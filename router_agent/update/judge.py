"""May this router take this release, and may it do so now? Pure. The device decides; the cloud can only wish.

Three looks, each before an act: `fetching` before bytes travel, `installing` before the idle slot is written, `trying`
before the restart. A refusal is for good (until another offer), a wait is looked at again at the next tick.
"""

from dataclasses import dataclass

from firmware.release import UNASKED_MAX_BYTES
from router_agent.errors import Parameter
from router_agent.problems import Problem
from router_agent.report.firmware import FirmwareOffer
from router_agent.update import window
from router_agent.update.machine import ReleaseFacts

MIB = 1 << 20

#: What stays free on the data partition for logs, journals and settings, in MiB.
RESERVE_MIB = 32

#: Pace over a metered line where the cloud names none, in bytes a second: half of the slowest line's 384 kbit/s, which
#: the site's devices share. 0 would be none.
POLITE_BYTES_S = 24_000

#: A tunnel that is down this long while the cloud hears the router past it may be what the release mends. Seconds.
TUNNEL_DOWN_S = 3600.0


@dataclass(frozen=True, slots=True)
class Device:
    """What runs here. ``free_bytes``: of the data partition. ``have_bytes``: what an update takes of it already.

    ``mains`` None: the machine does not say.
    """

    hardware: str
    counter: int
    free_bytes: int
    have_bytes: int
    memory_mib: int
    mains: bool | None = None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What goes on at the site. ``month_left_bytes``: of the mobile line's data budget, None: there is none.

    ``minute``: of the site's day, None: the clock is not set. ``tunnel_down_s`` 0: it is up. ``cloud_heard``: an answer
    came lately, whichever way. ``devices_known``: the LAN's essential devices have been asked long enough.
    ``devices_missed``: none of them answers, and that not for long. ``visitors``: somebody is logged in on the router.
    """

    metered: bool = False
    month_left_bytes: int | None = None
    minute: int | None = None
    window: str = ""
    settings_trial: bool = False
    certificate_trial: bool = False
    tunnel_down_s: float = 0.0
    cloud_heard: bool = True
    devices_known: bool = True
    devices_missed: bool = False
    visitors: bool = False


@dataclass(frozen=True, slots=True)
class Go:
    """Go on."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now, for this reason."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class Refuse:
    """Never, for this reason."""

    problem: Problem


Verdict = Go | Wait | Refuse


def fits(facts: ReleaseFacts, device: Device, offer: FirmwareOffer) -> Verdict:
    """Is it for this device at all? Never a wait."""
    if device.hardware not in facts.hardware:
        return _refuse("agent.update-wrong-hardware", facts, hardware=device.hardware, wanted=", ".join(facts.hardware))
    if facts.counter != offer.counter:
        return _refuse("agent.update-other-counter", facts, counter=facts.counter, offered=offer.counter)
    if facts.counter == device.counter:
        return _refuse("agent.update-runs-already", facts)
    if facts.counter < device.counter and not facts.permitted:
        return _refuse("agent.update-downgrade", facts, counter=facts.counter, running=device.counter)
    if device.counter < facts.minimum_from and not facts.permitted:
        return _refuse("agent.update-too-far", facts, running=device.counter, minimum=facts.minimum_from)
    return Go()


def fetching(
    facts: ReleaseFacts,
    device: Device,
    offer: FirmwareOffer,
    now: Circumstances,
    *,
    arrived_bytes: int,
    full_only: bool,
    metered_bytes: int = 0,
) -> Verdict:
    """Before and while bytes travel. ``arrived_bytes``: what has come already and need not come again.

    ``full_only``: the whole image travels, whatever deltas there are. ``metered_bytes``: what this release has cost on
    metered lines so far, deltas that were of no use as well; the offer's budget is for all of it.
    """
    cost = facts.full_bytes if full_only or facts.delta_bytes is None else facts.delta_bytes
    # What travels and the bundle made of it lie beside each other for a while.
    needed = max(cost + facts.bundle_bytes, facts.disk_mib * MIB) - device.have_bytes + RESERVE_MIB * MIB
    if device.free_bytes < needed:
        return _wait("agent.update-disk-full", facts, needed_mib=_mib(needed), free_mib=_mib(device.free_bytes))
    if not now.metered or offer.consent:
        return Go()
    remaining = max(0, cost - arrived_bytes)
    budget = None if offer.budget_bytes is None else max(0, offer.budget_bytes - metered_bytes)
    limits = [limit for limit in (budget, now.month_left_bytes) if limit is not None]
    if limits and remaining > min(limits):
        return _wait("agent.update-data-budget", facts, needed_mib=_mib(remaining), left_mib=min(limits) // MIB)
    if not limits and (cost == facts.full_bytes or cost > UNASKED_MAX_BYTES):
        return _wait("agent.update-consent-needed", facts, needed_mib=_mib(remaining))
    return Go()


def installing(facts: ReleaseFacts, device: Device) -> Verdict:
    """Before the idle slot is written. A radio line is good enough for that: everything is here."""
    if facts.mains_power and device.mains is False:
        return _wait("agent.update-on-battery", facts)
    return Go()


def trying(facts: ReleaseFacts, device: Device, offer: FirmwareOffer, now: Circumstances) -> Verdict:
    """Before the restart. What passes by itself and soon is named last."""
    if facts.mains_power and device.mains is False:
        return _wait("agent.update-on-battery", facts)
    if offer.visit_open or now.visitors:
        return _wait("agent.update-visit", facts)
    wanted = offer.window or now.window
    try:
        allowed = window.parse(wanted)
    except ValueError:
        return _wait("agent.update-window-unknown", facts, window=wanted[:40])
    if allowed != window.ANY_TIME and (now.minute is None or not allowed.open_at(now.minute)):
        return _wait("agent.update-window", facts, window=wanted)
    if now.settings_trial:
        return _wait("agent.update-settings-trial", facts)
    if now.certificate_trial:
        return _wait("agent.update-certificate-trial", facts)
    if not now.cloud_heard or 0 < now.tunnel_down_s < TUNNEL_DOWN_S:
        # A trial that begins without a tunnel proves nothing when it ends without one.
        return _wait("agent.update-no-tunnel", facts)
    if not now.devices_known:
        return _wait("agent.update-asking-devices", facts)
    if now.devices_missed:
        # At night, or in a power cut on site: a trial would prove nothing of the LAN.
        return _wait("agent.update-devices-silent", facts)
    return Go()


def pace(offer: FirmwareOffer, *, metered: bool) -> int:
    """Bytes a second at which a payload may come, 0: as fast as it can."""
    return offer.rate_bytes_s or (POLITE_BYTES_S if metered else 0)


def needs_full(facts: ReleaseFacts, device: Device) -> bool:
    """Whether only the whole image will do: no delta applies, or there is not the memory to put one together."""
    return facts.delta_bytes is None or facts.delta_memory_mib > device.memory_mib


def _refuse(key: str, facts: ReleaseFacts, **params: Parameter) -> Refuse:
    return Refuse(Problem(key, {"version": facts.version, **params}))


def _wait(key: str, facts: ReleaseFacts, **params: Parameter) -> Wait:
    return Wait(Problem(key, {"version": facts.version, **params}))


def _mib(size: int) -> int:
    return -(-size // MIB)
