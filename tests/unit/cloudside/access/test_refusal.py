"""May remote work start now? Every reason, and that the first one that matters is given."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cloudside.access.refusal import LastReport, ReportedProblem, SiteState, TunnelState, check, check_line
from cloudside.errors import KyotenError, RefusedError, UnavailableError
from cloudside.messages import catalogue

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
REPORT = LastReport(NOW, "wired", ())
GOOD = SiteState("tokyo-1", "operation", None, TunnelState(True, NOW), REPORT)
MOBILE = replace(GOOD, report=replace(REPORT, uplink="mobile"))


@pytest.mark.parametrize("phase", ["planned", "construction", "commissioning", "operation"])
def test_the_wired_line_carries_work_in_every_phase(phase: str) -> None:
    check(replace(GOOD, phase=phase))


@pytest.mark.parametrize("phase", ["construction", "commissioning"])
def test_the_mobile_line_carries_work_while_building(phase: str) -> None:
    check(replace(MOBILE, phase=phase))


@pytest.mark.parametrize("phase", ["planned", "operation", "retired", "something new"])
@pytest.mark.parametrize("may", [check, check_line])
def test_the_mobile_line_is_refused_otherwise_with_the_reason(phase: str, may: object) -> None:
    assert callable(may)
    with pytest.raises(RefusedError) as refused:
        may(replace(MOBILE, phase=phase))
    assert (refused.value.key, refused.value.params["phase"]) == ("access.mobile-line", phase)


@pytest.mark.parametrize(
    ("state", "kind", "key"),
    [
        (replace(GOOD, revoked_at=NOW), RefusedError, "access.revoked"),
        (replace(GOOD, report=None), UnavailableError, "access.never-reported"),
        (replace(GOOD, tunnel=TunnelState(False, None)), UnavailableError, "access.tunnel-never-up"),
        (replace(GOOD, tunnel=TunnelState(False, NOW)), UnavailableError, "access.tunnel-down"),
        (replace(MOBILE, tunnel=TunnelState(False, NOW)), UnavailableError, "access.tunnel-down"),
    ],
)
def test_every_other_reason(state: SiteState, kind: type[KyotenError], key: str) -> None:
    with pytest.raises(kind) as refused:
        check(state)
    assert refused.value.key == key


def test_a_tunnel_that_is_down_is_told_with_the_routers_last_complaint() -> None:
    problem = ReportedProblem("access.never-reported", {"site": "words from a catalogue"})
    with pytest.raises(UnavailableError) as refused:
        check(replace(GOOD, tunnel=TunnelState(False, NOW), report=replace(REPORT, problems=(problem,))))
    assert refused.value.key == "access.tunnel-down-problem"
    assert "words from a catalogue" in str(refused.value.params["problem"])
    assert refused.value.params["since"] == "2026-11-21 09:00:00 UTC"


def test_a_log_can_be_pulled_while_the_tunnel_is_down() -> None:
    check_line(replace(GOOD, tunnel=TunnelState(False, NOW), report=None))


def test_nobody_pulls_a_log_from_a_revoked_site() -> None:
    with pytest.raises(RefusedError):
        check_line(replace(GOOD, revoked_at=NOW))


def test_every_reason_has_its_text() -> None:
    for key in ("access.mobile-line", "access.revoked", "access.tunnel-down-problem", "access.no-pinned-key"):
        assert key in catalogue("en") and key in catalogue("ja")
