"""The stages of an update: what each start makes of what it finds, what an offer changes, what the journal keeps."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_router import Release, facts

from router_agent.errors import StateError
from router_agent.problems import Problem
from router_agent.report.firmware import FirmwareOffer
from router_agent.update import journal, machine
from router_agent.update.journal import Journal
from router_agent.update.machine import BootSight, Event, Stage, Trial, UpdateState

WHY = Problem("agent.update-returned-hung", {"version": "1.2"})
OFFER = FirmwareOffer("releases/generic-x86-64/1.2.json", 2, rollout="r1")
TRIAL = Trial("t1", "B", "A", "1.1", 600, 1500, ("192.168.1.9",), "boot-1")
FACTS = facts(Release(2))


def state(stage: Stage, **changes: object) -> UpdateState:
    values: dict[str, object] = {"stage": stage, "offer": OFFER, "facts": FACTS, **changes}
    if stage is Stage.TRIAL:
        values = {"trial": TRIAL, "tries": 1, **values}
    return UpdateState(**values)  # type: ignore[arg-type]


def sight(**changes: object) -> BootSight:
    values = {"running": "A", "primary": "A", "trial": "", "trial_id": "", "attempted": False, "boot_id": "boot-2"}
    return BootSight(**{**values, **changes})  # type: ignore[arg-type]


def recovered(before: UpdateState, seen: BootSight, counter: int = 1) -> UpdateState:
    return machine.recover(before, seen, WHY, running_counter=counter, at=100.0)


SET_UP: Mapping[str, object] = {"trial": "B", "trial_id": "t1"}


@pytest.mark.parametrize(
    ("before", "seen", "counter", "expected"),
    [
        (state(Stage.OFFERED), sight(), 1, Stage.OFFERED),
        (state(Stage.JUDGED), sight(), 1, Stage.JUDGED),
        (state(Stage.FETCHING), sight(), 1, Stage.FETCHING),
        (state(Stage.ASSEMBLED), sight(), 1, Stage.ASSEMBLED),
        (state(Stage.INSTALLING), sight(), 1, Stage.ASSEMBLED),
        (state(Stage.INSTALLED), sight(), 1, Stage.INSTALLED),
        # The boot loader fell back to the slot that was ready.
        (state(Stage.INSTALLED), sight(running="B"), 2, Stage.IDLE),
        # On trial.
        (state(Stage.TRIAL), sight(running="B", attempted=True, **SET_UP), 2, Stage.TRIAL),
        # Committed, and the record was lost.
        (state(Stage.TRIAL), sight(running="B", primary="B"), 2, Stage.COMMITTED),
        # The trial is no more and its slot runs: back.
        (state(Stage.TRIAL), sight(running="B"), 2, Stage.RETURNED),
        # Set up, the machine has not restarted yet.
        (state(Stage.TRIAL), sight(boot_id="boot-1", **SET_UP), 1, Stage.TRIAL),
        # It had its boot.
        (state(Stage.TRIAL), sight(attempted=True, **SET_UP), 1, Stage.RETURNED),
        # The power failed between the journal and the boot state.
        (state(Stage.TRIAL), sight(), 1, Stage.INSTALLED),
        (state(Stage.TRIAL, tries=3), sight(), 1, Stage.RETURNED),
        (state(Stage.COMMITTED), sight(running="B", primary="B"), 2, Stage.COMMITTED),
        (state(Stage.RETURNED, problem=WHY), sight(), 1, Stage.RETURNED),
    ],
)
def test_a_start_goes_on_from_what_it_finds(
    before: UpdateState, seen: BootSight, counter: int, expected: Stage
) -> None:
    after = recovered(before, seen, counter)
    assert after.stage is expected
    if expected is Stage.RETURNED:
        assert after.problem == WHY, "told why"
    if expected is Stage.INSTALLED and before.stage is Stage.TRIAL:
        assert after.trial is None


def test_a_trial_that_nobody_knows_is_left_over() -> None:
    seen = sight(attempted=True, **SET_UP)
    assert machine.leftover(state(Stage.RETURNED), seen)
    assert machine.leftover(UpdateState(), seen)
    assert machine.leftover(state(Stage.TRIAL), replace(seen, trial_id="t0"))
    assert not machine.leftover(state(Stage.TRIAL), seen)
    assert not machine.leftover(UpdateState(), sight())


@pytest.mark.parametrize("stage", [Stage.IDLE, Stage.COMMITTED, Stage.RETURNED, Stage.REFUSED])
def test_another_release_is_taken_up_from_rest(stage: Stage) -> None:
    before = state(stage, offer=None if stage is Stage.IDLE else OFFER)
    other = replace(OFFER, release="releases/generic-x86-64/1.3.json", counter=3)
    after = machine.offer(before, other, running_counter=1, at=5.0)
    assert (after.stage, after.offer, after.facts, after.entered_at) == (Stage.OFFERED, other, None, 5.0)


@pytest.mark.parametrize("stage", [Stage.RETURNED, Stage.REFUSED, Stage.COMMITTED, Stage.TRIAL, Stage.FETCHING])
def test_the_same_offer_again_changes_nothing(stage: Stage) -> None:
    before = state(stage)
    assert machine.offer(before, OFFER, running_counter=1, at=5.0) is before


def test_a_refused_release_is_looked_at_again_on_other_terms_and_a_returned_one_only_in_another_rollout() -> None:
    permitted = replace(OFFER, permit="{}")
    assert machine.offer(state(Stage.REFUSED), permitted, running_counter=1, at=0).stage is Stage.OFFERED
    returned = state(Stage.RETURNED)
    assert machine.offer(returned, permitted, running_counter=1, at=0) is returned
    again = replace(OFFER, rollout="r2")
    assert machine.offer(returned, again, running_counter=1, at=0).stage is Stage.OFFERED


def test_other_terms_are_taken_over_on_the_way() -> None:
    after = machine.offer(state(Stage.FETCHING), replace(OFFER, consent=True), running_counter=1, at=9.0)
    assert after.stage is Stage.FETCHING and after.offer is not None and after.offer.consent


def test_what_runs_already_ends_what_was_under_way() -> None:
    older = replace(OFFER, release="releases/generic-x86-64/1.1.json", counter=1)
    assert machine.offer(state(Stage.FETCHING), older, running_counter=1, at=0).stage is Stage.IDLE
    idle = UpdateState()
    assert machine.offer(idle, older, running_counter=1, at=0) is idle


def test_a_trial_is_neither_withdrawn_nor_replaced() -> None:
    before = state(Stage.TRIAL)
    assert machine.withdraw(before, at=0) is before
    assert machine.offer(before, replace(OFFER, counter=9, rollout="x"), running_counter=1, at=0) is before


def test_an_impossible_step_is_a_bug() -> None:
    with pytest.raises(KeyError):
        machine.move(state(Stage.JUDGED), Event.COMMIT, at=0)
    reachable = {after for (_, _), after in machine.TRANSITIONS.items()}
    assert reachable == set(Stage), "a stage that nothing leads to"


@pytest.mark.parametrize("stage", list(Stage))
def test_the_journal_gives_back_what_it_was_given(tmp_path: Path, stage: Stage) -> None:
    kept = state(stage, problem=WHY, entered_at=12.5, full_only=True, fetched_bytes=7, arrived_bytes=5)
    Journal(tmp_path).save(kept)
    assert Journal(tmp_path).load() == kept
    top = json.loads((tmp_path / "update" / journal.NAME).read_text())
    guarded = ("t1", "B", 1500 + journal.GUARD_SLACK_S) if stage is Stage.TRIAL else ("", "", 0.0)
    assert (top["trial_id"], top["target"], top["deadline_s"]) == guarded


def test_a_newer_agents_additions_are_ignored(tmp_path: Path) -> None:
    document = journal.document(state(Stage.TRIAL))
    document["tomorrow"] = {"a": 1}
    document["trial"]["later"] = 1  # type: ignore[index]
    assert journal.parse(json.loads(json.dumps(document))) == state(Stage.TRIAL)
    assert Journal(tmp_path).load() == UpdateState(), "a new router"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b"null", b'{"format": 2}', b'{"format": 1}', b"[" * 100_000],
)
def test_a_damaged_journal_is_our_error_and_no_other(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "update").mkdir()
    (tmp_path / "update" / journal.NAME).write_bytes(content)
    with pytest.raises(StateError):
        Journal(tmp_path).load()


@pytest.mark.parametrize(
    "wrong",
    [{"stage": "flying"}, {"offer": None}, {"facts": None}, {"trial": None}, {"failures": -1}, {"entered_at": "x"}],
)
def test_a_journal_that_does_not_hold_together_is_damaged(wrong: dict[str, object]) -> None:
    document = json.loads(json.dumps({**journal.document(state(Stage.TRIAL)), **wrong}))
    with pytest.raises((ValueError, TypeError, KeyError)):
        journal.parse(document)


def test_a_full_disk_keeps_the_journal_whole(tmp_path: Path) -> None:
    (tmp_path / "update").write_text("in the way")
    with pytest.raises(StateError) as caught:
        Journal(tmp_path).save(state(Stage.OFFERED))
    assert caught.value.key == "agent.state-unwritable"
