"""An update on a simulated router: what each bad release ends in, what holds an update up, what ends it."""

import json
from dataclasses import replace

import pytest
from simulated_router import HEALTH_S, METER, MIB, PLC, Release, SimulatedRouter, journal_of

from firmware.layout import Slot
from router_agent.errors import StateError
from router_agent.problems import Problem
from router_agent.update import preparation
from router_agent.update.machine import Stage
from router_agent.update.settings import UpdateSettings
from router_agent.update.work import Failed, Fault, Step

#: Long enough for a whole update with a trial that fails, in simulated seconds.
LONG_S = 900.0


def router(counter: int = 2, ill: str = "", **facts: object) -> SimulatedRouter:
    made = SimulatedRouter(**facts)  # type: ignore[arg-type]
    made.offer = made.publish(counter, ill)
    return made


def until(made: SimulatedRouter, stage: Stage) -> None:
    """Let time pass until the update is there."""
    for _ in range(600):
        made.tick(0.5)
        if made.driver is not None and made.now_state.stage is stage:
            return
    raise AssertionError(f"{stage} was never reached: {made.now_state}")


def waits_for(made: SimulatedRouter) -> str:
    assert made.driver is not None
    problem = made.driver.report().problem
    return "" if problem is None else problem.key.removeprefix("agent.update-")


@pytest.mark.parametrize(
    ("ill", "reason"),
    [
        ("kernel", "unbootable"),
        ("panic", "panic"),
        ("agent", "no-agent"),
        ("tunnel", "unhealthy"),
        ("device", "unhealthy"),
        ("unsettled", "unhealthy"),
        ("hang", "hung"),
        ("crash", "agent-restarts"),
    ],
)
def test_a_bad_release_is_undone_by_the_router_itself_and_told_why(ill: str, reason: str) -> None:
    made = router(ill=ill)
    made.run(LONG_S)
    assert made.now_state.stage is Stage.RETURNED
    assert made.now_state.problem is not None
    assert made.now_state.problem.key == f"agent.update-returned-{reason}"
    assert made.slot is Slot.A and made.slots[Slot.A] == Release(1)
    assert Slot.B not in made.state().good and made.state().trial is None
    boots = made.boots
    made.run(LONG_S)
    assert made.boots == boots, "it is not tried again"


def test_what_was_missing_is_in_the_report() -> None:
    made = router(ill="device")
    made.run(LONG_S)
    assert made.driver is not None
    problem = made.driver.report().problem
    assert problem is not None and problem.params["missing"] == PLC


def test_a_good_release_is_kept_and_the_old_one_stays_bootable() -> None:
    made = router()
    made.run(LONG_S)
    assert (made.now_state.stage, made.slot, made.state().primary) == (Stage.COMMITTED, Slot.B, Slot.B)
    assert made.state().good == {Slot.A, Slot.B}
    assert not made.fetched and not made.assembled, "the space is given back"
    made.offer = made.publish(3)
    made.run(LONG_S)
    assert (made.slot, made.slots[Slot.A]) == (Slot.A, Release(3)), "and back into the other slot"


def test_health_is_needed_for_its_whole_time() -> None:
    made = router()
    made.run(90)
    assert made.now_state.stage is Stage.TRIAL
    made.online = False
    made.run(40)
    made.online = True
    made.run(HEALTH_S - 10)
    assert made.now_state.stage is Stage.TRIAL, "the break began it anew"
    made.run(60)
    assert made.now_state.stage is Stage.COMMITTED


def test_a_device_that_was_silent_before_is_not_held_against_the_release_and_that_is_said() -> None:
    made = router(devices_dead=True)
    made.run(LONG_S)
    assert made.now_state.stage is Stage.COMMITTED
    assert made.now_state.problem == Problem("agent.update-devices-excused", {"devices": PLC})


def test_a_site_in_the_dark_is_waited_for_and_not_for_ever() -> None:
    """Where nothing answers before, nothing could be missed afterwards."""
    made = router(site_dark=True)
    made.run(3600)
    assert (made.now_state.stage, waits_for(made)) == (Stage.INSTALLED, "devices-silent")
    made.site_dark = False
    made.run(300)
    assert made.now_state.stage is Stage.COMMITTED and made.now_state.problem is None


def test_devices_that_are_never_there_keep_no_release_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "MISSED_MOST_S", 1800.0)
    made = router(site_dark=True)
    made.run(1500)
    assert (made.now_state.stage, waits_for(made)) == (Stage.INSTALLED, "devices-silent")
    made.run(LONG_S)
    assert made.now_state.stage is Stage.COMMITTED
    assert made.now_state.problem == Problem("agent.update-devices-excused", {"devices": f"{PLC}, {METER}"})


def test_somebody_who_is_logged_in_holds_the_restart() -> None:
    """Over the tunnel or at the serial line; the cloud knows of visits that were announced only."""
    made = router(visitors=True)
    made.run(300)
    assert (made.now_state.stage, waits_for(made)) == (Stage.INSTALLED, "visit")
    made.visitors = False
    made.run(300)
    assert made.now_state.stage is Stage.COMMITTED


def test_what_a_person_changes_about_health_counts_for_the_next_trial() -> None:
    made = router(settings=UpdateSettings(health_s=300, reach_s=100))
    made.run(300)
    trial = made.now_state.trial
    assert trial is not None and (trial.hold_s, trial.deadline_s) == (300, 700)
    assert made.now_state.stage is Stage.TRIAL
    made.run(200)
    assert made.now_state.stage is Stage.COMMITTED


@pytest.mark.parametrize(
    ("here", "reason"),
    [
        ({"settings": UpdateSettings(window="01:00-02:00")}, "window"),  # it is noon at the site
        ({"settings_trial": True}, "settings-trial"),
    ],
)
def test_a_ready_update_waits_for_its_moment(here: dict[str, object], reason: str) -> None:
    made = router(**here)  # type: ignore[arg-type]
    made.run(300)
    assert (made.now_state.stage, waits_for(made)) == (Stage.INSTALLED, reason)
    made.settings, made.settings_trial = UpdateSettings(health_s=60), False
    made.run(300)
    assert made.now_state.stage is Stage.COMMITTED


def test_a_visit_holds_the_restart_and_nothing_else() -> None:
    made = router()
    assert made.offer is not None
    made.offer = replace(made.offer, visit_open=True)
    made.run(300)
    assert (made.now_state.stage, waits_for(made)) == (Stage.INSTALLED, "visit")
    made.offer = replace(made.offer, visit_open=False)
    made.run(300)
    assert made.now_state.stage is Stage.COMMITTED


def test_a_metered_line_waits_for_budget_or_consent() -> None:
    made = router(metered=True, month_left_bytes=MIB)
    made.run(100)
    assert (made.now_state.stage, waits_for(made)) == (Stage.JUDGED, "data-budget")
    assert made.offer is not None
    made.offer = replace(made.offer, consent=True)
    made.run(300)
    assert made.now_state.stage is Stage.COMMITTED


def test_what_came_over_a_metered_line_is_counted_and_kept() -> None:
    """Only that, and in the journal: a delta that was of no use has cost as much as one that was."""
    made = router(metered=True, month_left_bytes=1 << 40)
    until(made, Stage.INSTALLED)
    assert made.now_state.metered_bytes == made.now_state.fetched_bytes == 50
    assert made.journal_text is not None and json.loads(made.journal_text)["metered_bytes"] == 50
    wired = router()
    until(wired, Stage.INSTALLED)
    assert (wired.now_state.metered_bytes, wired.now_state.fetched_bytes) == (0, 50)


def test_another_line_has_another_pace() -> None:
    made = router(month_left_bytes=1 << 40)
    until(made, Stage.FETCHING)
    made.tick(0.5)
    first = made.child
    assert first is not None and not first.killed
    made.metered = True
    made.tick()
    assert first.killed and waits_for(made) == ""
    made.run(300)
    assert made.now_state.stage is Stage.COMMITTED


def test_bytes_stop_when_the_line_becomes_dear() -> None:
    made = router()
    until(made, Stage.FETCHING)
    made.tick(0.5)
    assert made.child is not None
    made.metered, made.month_left_bytes = True, 0
    made.tick()
    assert made.child.killed and waits_for(made) == "data-budget"
    made.metered = False
    made.run(300)
    assert made.now_state.stage is Stage.COMMITTED


@pytest.mark.parametrize("stage", [Stage.JUDGED, Stage.FETCHING, Stage.INSTALLING, Stage.INSTALLED])
def test_a_withdrawn_offer_ends_what_is_under_way(stage: Stage) -> None:
    made = router(metered=stage is Stage.JUDGED, month_left_bytes=0)
    assert made.offer is not None
    made.offer = replace(made.offer, visit_open=True)
    until(made, stage)
    made.offer = None
    made.run(60)
    assert made.now_state.stage is Stage.IDLE
    assert made.child is None or made.child.killed or made.child.said
    boots = made.boots
    made.run(LONG_S)
    assert made.boots == boots


def test_another_release_takes_the_place_of_the_one_under_way() -> None:
    made = router()
    made.run(28)
    made.offer = made.publish(3)
    made.run(LONG_S)
    assert made.slots[made.slot] == Release(3)
    assert made.commits == [3]


def test_other_terms_do_not_begin_a_slot_anew() -> None:
    made = router()
    until(made, Stage.INSTALLING)
    made.tick(0.5)
    running, offer = made.child, made.offer
    assert running is not None and offer is not None and made.driver is not None
    for rate in range(1, 4):
        made.driver.heard(replace(offer, rate_bytes_s=1000 * rate), made.now)
    assert made.child is running and not running.killed
    made.offer = replace(offer, rate_bytes_s=3000)
    made.run(300)
    assert made.now_state.stage is Stage.COMMITTED


def test_another_rate_counts_for_the_bytes_under_way() -> None:
    made = router()
    until(made, Stage.FETCHING)
    made.tick(0.5)
    running, offer = made.child, made.offer
    assert running is not None and offer is not None and made.driver is not None
    made.driver.heard(replace(offer, visit_open=True), made.now)
    assert not running.killed
    made.driver.heard(replace(offer, rate_bytes_s=1000), made.now)
    assert running.killed
    made.run(300)
    assert made.now_state.stage is Stage.COMMITTED


def test_failures_of_the_line_are_tried_again_later_and_said() -> None:
    made = router()
    problem = Problem("agent.cloud-unreachable", {"endpoint": "x", "reason": "y"})
    made.steps[Step.FETCH] = [Failed(Fault.LATER, problem)] * 3
    made.run(60)
    assert made.driver is not None and made.driver.report().problem == problem
    made.run(LONG_S)
    assert made.now_state.stage is Stage.COMMITTED


def test_a_delta_that_does_not_do_is_replaced_by_the_whole_image() -> None:
    made = router()
    made.steps[Step.ASSEMBLE] = [Failed(Fault.FULL, Problem("agent.update-delta-failed", {}))]
    made.run(60)
    assert made.now_state.full_only
    made.run(LONG_S)
    assert made.now_state.stage is Stage.COMMITTED


def test_an_assembly_that_is_killed_again_and_again_is_given_up_for_the_whole_image() -> None:
    made = router()
    made.steps[Step.ASSEMBLE] = [Failed(Fault.LATER, Problem("agent.update-step-crashed", {}))] * 3
    made.run(300)
    assert made.now_state.full_only or made.now_state.stage is Stage.COMMITTED


@pytest.mark.parametrize("step", [Step.INSTALL, Step.VERIFY])
def test_a_slot_that_cannot_be_written_is_given_up_after_some_times(step: Step) -> None:
    made = router()
    damaged = Problem("agent.slot-damaged", {"path": "/dev/x", "reason": "root hash"})
    made.steps[step] = [Failed(Fault.LATER, damaged)] * 9
    made.run(LONG_S)
    assert made.now_state.stage is Stage.REFUSED
    assert made.now_state.problem == damaged
    assert made.slot is Slot.A and made.boots == 1


def test_a_release_that_is_refused_says_so_and_gives_the_space_back() -> None:
    made = router()
    assert made.offer is not None
    made.steps[Step.REFRESH] = [Failed(Fault.REFUSED, Problem("firmware.yanked", {"path": "x", "reason": "y"}))]
    made.run(60)
    assert made.now_state.stage is Stage.REFUSED and waits_for(made) == "firmware.yanked"


def test_without_a_journal_nothing_is_done_to_the_machine() -> None:
    made = router(disk_full=True)
    made.run(120)
    assert made.journal_text is None and made.boots == 1
    assert not made.fetched
    assert made.driver is not None
    assert [problem.key for problem in made.driver.problems()] == ["agent.state-unwritable"]
    made.disk_full = False
    made.run(LONG_S)
    assert made.now_state.stage is Stage.COMMITTED


def test_a_boot_state_that_cannot_be_read_holds_everything_up_and_is_said() -> None:
    made = router()
    made.run(8)
    assert made.driver is not None

    def broken() -> object:
        raise StateError("agent.boot-state-damaged", path="/dev/x")

    made.driver._boot.sight = broken  # type: ignore[method-assign, assignment]
    made.run(60)
    assert [problem.key for problem in made.driver.problems()] == ["agent.boot-state-damaged"]
    assert made.boots == 1


def test_an_old_offer_does_not_restart_a_router_that_has_not_heard_from_the_cloud() -> None:
    made = router()
    assert made.offer is not None
    made.offer = replace(made.offer, visit_open=True)
    until(made, Stage.INSTALLED)
    made.online = False
    made.power_cut()
    made.run(4000)
    assert (made.now_state.stage, made.boots) == (Stage.INSTALLED, 2)
    assert waits_for(made) == "visit"
    made.online, made.offer = True, replace(made.offer, visit_open=False)
    made.run(300)
    assert made.now_state.stage is Stage.COMMITTED


def test_a_fallback_of_the_boot_loader_is_said_and_mended_by_the_next_update() -> None:
    made = router()
    made.run(LONG_S)
    assert made.slot is Slot.B
    made.rotten.add(Slot.B)
    made.offer = None
    made.power_cut()
    made.run(60)
    assert made.slot is Slot.A and made.driver is not None
    assert [problem.key for problem in made.driver.problems()] == ["agent.update-other-slot"]
    made.offer = made.publish(3)
    made.run(LONG_S)
    assert (made.slot, made.state().primary, made.slots[Slot.B]) == (Slot.B, Slot.B, Release(3))


def test_a_restart_that_does_not_come_is_asked_for_again() -> None:
    made = router()
    asked: list[bool] = []
    made.run(8)
    assert made.driver is not None
    made.driver._restart._act = asked.append  # type: ignore[attr-defined]
    made.run(400)
    assert asked[:2] == [False, True], "the second time without asking anybody"
    assert journal_of(made).stage is Stage.TRIAL and waits_for(made) == "restarting"


def test_a_full_disk_at_the_return_does_not_make_the_bad_release_tried_again() -> None:
    made = router(ill="tunnel")
    until(made, Stage.TRIAL)
    made.disk_full = True
    made.run(LONG_S)
    assert made.slot is Slot.A and made.now_state.stage is Stage.RETURNED
    made.disk_full = False
    made.power_cut()
    made.offer = None
    made.run(LONG_S)
    assert (made.slot, made.tokens, made.now_state.stage) == (Slot.A, 1, Stage.RETURNED)
