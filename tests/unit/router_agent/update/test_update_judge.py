"""The device decides: each reason to refuse or to wait, and the maintenance window."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from simulated_router import HARDWARE, MIB, Release, facts

from router_agent.report.firmware import FirmwareOffer
from router_agent.update import judge, window
from router_agent.update.judge import Circumstances, Device, Go, Refuse, Wait
from router_agent.update.window import Window

FACTS = facts(Release(5))
DEVICE = Device(HARDWARE, 4, 4096 * MIB, 0, 1024, True)
OFFER = FirmwareOffer("releases/generic-x86-64/1.5.json", 5)
HERE = Circumstances(minute=60)


def key(verdict: judge.Verdict) -> str:
    match verdict:
        case Wait(problem):
            return f"wait {problem.key.removeprefix('agent.update-')}"
        case Refuse(problem):
            return f"refuse {problem.key.removeprefix('agent.update-')}"
        case Go():
            return "go"


def fits(**changes: object) -> str:
    found = {"facts": FACTS, "device": DEVICE, "offer": OFFER, **changes}
    return key(judge.fits(found["facts"], found["device"], found["offer"]))  # type: ignore[arg-type]


def test_a_release_fits_or_never_will() -> None:
    assert fits() == "go"
    assert fits(device=replace(DEVICE, hardware="generic-arm64")) == "refuse wrong-hardware"
    assert fits(offer=replace(OFFER, counter=6)) == "refuse other-counter"
    assert fits(device=replace(DEVICE, counter=5)) == "refuse runs-already"
    assert fits(facts=replace(FACTS, minimum_from=4)) == "go"
    assert fits(facts=replace(FACTS, minimum_from=5)) == "refuse too-far"


def test_a_downgrade_needs_a_permit() -> None:
    newer = replace(DEVICE, counter=6)
    assert fits(device=newer) == "refuse downgrade"
    assert fits(device=newer, facts=replace(FACTS, permitted=True)) == "go"


def fetching(
    device: Device = DEVICE, offer: FirmwareOffer = OFFER, *, arrived: int = 0, full: bool = False, spent: int = 0,
    delta: int = 4 * MIB, **here: object,
) -> str:  # fmt: skip
    circumstances = replace(HERE, **here)  # type: ignore[arg-type]
    release = replace(FACTS, delta_bytes=delta)
    return key(
        judge.fetching(
            release, device, offer, circumstances, arrived_bytes=arrived, full_only=full, metered_bytes=spent
        )
    )


def test_the_disk_must_hold_payload_and_bundle_and_something_besides() -> None:
    needed = (4 + 400 + judge.RESERVE_MIB) * MIB
    assert fetching(replace(DEVICE, free_bytes=needed)) == "go"
    assert fetching(replace(DEVICE, free_bytes=needed - 1)) == "wait disk-full"
    assert fetching(replace(DEVICE, free_bytes=needed - 4 * MIB, have_bytes=4 * MIB)) == "go"
    assert fetching(replace(DEVICE, free_bytes=needed), full=True) == "wait disk-full"


def test_a_metered_line_is_spared() -> None:
    assert fetching(metered=True) == "go", "a delta goes without a budget"
    assert fetching(metered=True, full=True) == "wait consent-needed"
    assert fetching(metered=False, full=True) == "go"
    assert fetching(offer=replace(OFFER, consent=True), metered=True, full=True) == "go"
    assert fetching(metered=True, month_left_bytes=4 * MIB) == "go"
    assert fetching(metered=True, month_left_bytes=4 * MIB - 1) == "wait data-budget"
    assert fetching(metered=True, month_left_bytes=3 * MIB, arrived=1 * MIB) == "go"
    assert fetching(offer=replace(OFFER, budget_bytes=MIB), metered=True) == "wait data-budget"
    assert fetching(metered=True, month_left_bytes=200 * MIB, full=True) == "go", "within the budget"


def test_an_offers_budget_is_for_everything_that_the_release_costs() -> None:
    """A delta that was of no use, and then the whole image: both are on the bill."""
    offer = replace(OFFER, budget_bytes=FACTS.full_bytes + 4 * MIB)
    assert fetching(offer=offer, metered=True, full=True, spent=4 * MIB) == "go"
    assert fetching(offer=offer, metered=True, full=True, spent=4 * MIB + 1) == "wait data-budget"
    assert fetching(offer=offer, metered=True, full=True, spent=5 * MIB, arrived=MIB) == "go"
    assert fetching(offer=offer, metered=False, full=True, spent=1 << 40) == "go"


def test_a_large_delta_is_asked_for_where_nobody_set_a_budget() -> None:
    assert fetching(metered=True, delta=judge.UNASKED_MAX_BYTES) == "go"
    assert fetching(metered=True, delta=judge.UNASKED_MAX_BYTES + 1) == "wait consent-needed"
    assert fetching(metered=True, delta=judge.UNASKED_MAX_BYTES + 1, month_left_bytes=1 << 30) == "go"


def test_a_metered_line_has_a_polite_pace_unless_the_offer_names_one() -> None:
    assert judge.pace(OFFER, metered=True) == judge.POLITE_BYTES_S > 0
    assert judge.pace(OFFER, metered=False) == 0
    assert judge.pace(replace(OFFER, rate_bytes_s=9), metered=True) == 9


def test_a_delta_needs_memory() -> None:
    assert not judge.needs_full(FACTS, DEVICE)
    assert judge.needs_full(FACTS, replace(DEVICE, memory_mib=399))
    assert judge.needs_full(replace(FACTS, delta_bytes=None), DEVICE)


def trying(device: Device = DEVICE, offer: FirmwareOffer = OFFER, **here: object) -> str:
    return key(judge.trying(FACTS, device, offer, replace(HERE, **here)))  # type: ignore[arg-type]


def test_a_restart_waits_for_its_moment() -> None:
    assert trying() == "go"
    assert trying(replace(DEVICE, mains=False)) == "wait on-battery"
    assert trying(replace(DEVICE, mains=None)) == "go", "a machine that does not say"
    assert trying(offer=replace(OFFER, visit_open=True)) == "wait visit"
    assert trying(settings_trial=True) == "wait settings-trial"
    assert trying(certificate_trial=True) == "wait certificate-trial"
    assert trying(tunnel_down_s=10.0) == "wait no-tunnel"
    assert trying(tunnel_down_s=judge.TUNNEL_DOWN_S) == "go", "it may be what the release mends"
    assert trying(tunnel_down_s=judge.TUNNEL_DOWN_S, cloud_heard=False) == "wait no-tunnel"
    assert trying(devices_known=False) == "wait asking-devices"
    assert trying(devices_missed=True) == "wait devices-silent"
    assert trying(visitors=True) == "wait visit"
    assert key(judge.installing(FACTS, replace(DEVICE, mains=False))) == "wait on-battery"


def test_the_offers_window_comes_before_the_sites() -> None:
    assert trying(window="22:00-05:00", minute=60) == "go"
    assert trying(window="22:00-05:00", minute=12 * 60) == "wait window"
    assert trying(offer=replace(OFFER, window="11:00-13:00"), window="22:00-05:00", minute=12 * 60) == "go"
    assert trying(window="22:00-05:00", minute=None) == "wait window", "a clock that is not set"
    assert trying(minute=None) == "go", "no window"
    assert trying(offer=replace(OFFER, window="at night")) == "wait window-unknown"


@pytest.mark.parametrize(
    ("text", "open_at", "shut_at"),
    [("22:00-05:00", (22 * 60, 0, 299), (300, 12 * 60, 22 * 60 - 1)), ("01:30-02:00", (90, 119), (89, 120, 0))],
)
def test_a_window_has_its_begin_and_not_its_end(text: str, open_at: tuple[int], shut_at: tuple[int]) -> None:
    found = window.parse(text)
    assert all(found.open_at(minute) for minute in open_at)
    assert not any(found.open_at(minute) for minute in shut_at)


def test_windows_that_are_none() -> None:
    assert window.parse("") == window.ANY_TIME
    assert Window(60, 60).open_at(0)
    for text in ("24:00-05:00", "9:00-10:00", "22:00", "22:00-05:00\n", "٢٢:00-05:00"):
        with pytest.raises(ValueError):
            window.parse(text)


def test_the_window_is_in_the_sites_time() -> None:
    at = datetime(2026, 11, 22, 15, 30, tzinfo=UTC)
    assert window.minute_of_day(at, "Asia/Tokyo") == 30
    assert window.minute_of_day(at, "Mars/Olympus") == 15 * 60 + 30
    assert window.minute_of_day(datetime(1970, 1, 1, tzinfo=UTC), "Asia/Tokyo") is None
