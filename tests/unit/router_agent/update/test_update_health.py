"""Committed only when health has held; gone back as soon as it cannot any more; and why a trial came back."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from router_agent.update import health, marks, returned
from router_agent.update.health import Health, Terms, Verdict, Vitals
from router_agent.update.machine import Trial
from router_agent.update.marks import Mark

TERMS = Terms(hold_s=600, deadline_s=health.deadline_s(600, 300))
PLC = "192.168.1.20"


def well(at: float) -> Vitals:
    return Vitals(True, at - 1, 30, True)


def watch(seen: Iterable[tuple[float, Vitals]], terms: Terms = TERMS) -> tuple[Verdict, float]:
    """The first verdict that decides, and when."""
    state, at = Health(), 0.0
    for at, vitals in seen:
        state = health.look(state, vitals, terms, up_s=at)
        verdict = health.verdict(state, terms, up_s=at)
        if verdict is not Verdict.HOLD:
            return verdict, at
    return Verdict.HOLD, at


def test_kept_after_ten_minutes_of_health_and_not_before() -> None:
    assert watch((float(at), well(at)) for at in range(40, 640)) == (Verdict.HOLD, 639)
    assert watch((float(at), well(at)) for at in range(40, 2000)) == (Verdict.COMMIT, 640)


@pytest.mark.parametrize(
    ("ill", "word"),
    [
        ({"tunnel_up": False}, health.TUNNEL),
        ({"heartbeat_at": None}, health.HEARTBEAT),
        ({"configured": False}, health.CONFIGURATION),
        ({"silent": frozenset({PLC})}, PLC),
    ],
)
def test_each_thing_that_is_missing_sends_it_back_when_time_runs_out(ill: dict[str, object], word: str) -> None:
    seen = [(float(at), replace(well(at), **ill)) for at in range(40, 2000)]  # type: ignore[arg-type]
    assert watch(seen) == (Verdict.RETURN, TERMS.deadline_s - TERMS.hold_s + 1)
    assert health.missing(seen[0][1], TERMS, up_s=40) == (word,)


def test_a_short_break_is_forgiven_and_a_long_one_begins_anew() -> None:
    def broken(first: int, last: int) -> list[tuple[float, Vitals]]:
        return [(float(at), replace(well(at), tunnel_up=not first <= at < last)) for at in range(40, 2000)]

    assert watch(broken(300, 320)) == (Verdict.COMMIT, 640)
    assert watch(broken(300, 340)) == (Verdict.COMMIT, 940)
    # One at an unlucky moment is forgiven; not a second one.
    assert watch(broken(630, 700)) == (Verdict.COMMIT, 1300)
    assert watch(broken(860, 1000))[0] is Verdict.COMMIT


def test_a_loop_that_stood_still_has_seen_nothing() -> None:
    seen = [(40.0, well(40)), (641.0, well(641))]
    assert watch(seen)[0] is Verdict.HOLD


def test_heartbeats_must_go_on() -> None:
    stale = [(float(at), replace(well(at), heartbeat_at=45.0)) for at in range(46, 2000)]
    assert watch(stale)[0] is Verdict.RETURN


def test_devices_that_were_silent_before_do_not_count() -> None:
    terms = replace(TERMS, excused=frozenset({PLC}))
    seen = [(float(at), replace(well(at), silent=frozenset({PLC}))) for at in range(40, 700)]
    assert watch(seen, terms) == (Verdict.COMMIT, 640)


TRIAL = Trial("t1", "B", "A", "1.1", 600, 1500, (), "boot-1")


@pytest.mark.parametrize(
    ("left", "reset", "key"),
    [
        ([], "", "unbootable"),
        ([], "panic", "panic"),
        ([], "watchdog", "hung"),
        ([marks.GUARD], "", "no-agent"),
        ([marks.GUARD, marks.DEADLINE], "watchdog", "no-agent"),
        ([marks.GUARD, marks.AGENT, marks.STILL], "", "hung"),
        ([marks.GUARD, marks.AGENT], "watchdog", "hung"),
        ([marks.GUARD, marks.AGENT], "panic", "panic"),
        ([marks.GUARD, marks.AGENT], "", "restarted"),
        ([marks.GUARD, marks.AGENT, marks.AGENT, marks.AGENT], "", "agent-restarts"),
        ([marks.GUARD, marks.AGENT, marks.RETURNING], "", "late"),
        ([marks.GUARD, marks.AGENT, marks.DEADLINE], "watchdog", "late"),
    ],
)
def test_why_a_trial_came_back(left: list[str], reset: str, key: str) -> None:
    problem = returned.why(TRIAL, [Mark(what, 1.0) for what in left], reset, "1.2")
    assert problem.key == f"agent.update-returned-{key}"
    assert problem.params["version"] == "1.2"


def test_what_was_missing_is_told() -> None:
    left = [
        Mark(marks.AGENT, 30),
        Mark(marks.MISSING, 40, {"missing": "tunnel"}),
        Mark(marks.RETURNING, 900, {"missing": "tunnel, heartbeat"}),
    ]
    problem = returned.why(TRIAL, left, "", "1.2")
    assert (problem.key, problem.params["missing"]) == ("agent.update-returned-unhealthy", "tunnel, heartbeat")
