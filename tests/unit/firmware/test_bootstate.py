"""The boot state: what is written is read back, what is damaged is not believed, and what GRUB makes of it."""

from dataclasses import replace

import pytest

from firmware import bootstate
from firmware.bootstate import Attempt, BootState, DamagedError, Trial, Why
from firmware.layout import SECTOR_BYTES, STATE_BYTES, Slot

TRIAL = Trial(Slot.B, "0123456789abcdef", 900)
FRESH = BootState(1, Slot.A, None, frozenset({Slot.A}))
BLANK = bytes(STATE_BYTES)


def both(state: BootState) -> list[bytes]:
    return [bootstate.render(state), bootstate.render(replace(state, seq=state.seq - 1, trial=None))]


def noted(trial_id: str = "", tries: int = 0) -> bytes:
    return bootstate.render_attempt(Attempt(trial_id, tries))


@pytest.mark.parametrize(
    "state",
    [
        FRESH,
        FRESH.with_trial(TRIAL),
        BootState(bootstate.SEQ_MAX, Slot.B, Trial(Slot.A, "x" * 40, bootstate.TRIAL_MAX_S), frozenset(Slot)),
    ],
)
def test_a_copy_comes_back_and_stands_in_one_sector(state: BootState) -> None:
    made = bootstate.render(state)
    assert bootstate.parse(made) == state
    assert len(made) == STATE_BYTES
    assert set(made[SECTOR_BYTES:]) == set(b"#")


def test_every_flipped_bit_in_what_is_said_is_noticed() -> None:
    state = FRESH.with_trial(TRIAL)
    made = bootstate.render(state)
    for bit in range(8 * made.rindex(b"\n")):
        torn = bytearray(made)
        torn[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedError):
            bootstate.parse(bytes(torn))


def test_of_two_copies_the_newer_whole_one_counts() -> None:
    old, new = bootstate.render(FRESH), bootstate.render(replace(FRESH.with_trial(TRIAL), seq=2))
    assert bootstate.newest([old, new])[0] == 1
    assert bootstate.newest([new, old]) == (0, bootstate.parse(new))
    assert bootstate.newest([old, new[:60].ljust(STATE_BYTES, b"\0")])[0] == 0
    assert bootstate.newest([BLANK, old])[0] == 1
    with pytest.raises(DamagedError):
        bootstate.newest([BLANK, BLANK])


def test_a_trial_is_begun_once() -> None:
    copies = both(replace(FRESH, seq=4).with_trial(TRIAL))
    first = bootstate.choose(copies, noted())
    assert first.order == ((Slot.B, Why.TRIAL), (Slot.A, Why.PRIMARY), (Slot.B, Why.FALLBACK))
    assert (first.trial, first.note) == (TRIAL, Attempt(TRIAL.id, 0))
    again = bootstate.choose(copies, noted(TRIAL.id))
    assert again.order == ((Slot.A, Why.PRIMARY), (Slot.B, Why.FALLBACK))
    assert (again.trial, again.note) == (None, Attempt(TRIAL.id, 1))


def test_a_damaged_note_means_that_the_trial_was_begun() -> None:
    found = bootstate.choose(both(replace(FRESH, seq=4).with_trial(TRIAL)), BLANK)
    assert found.order[0] == (Slot.A, Why.PRIMARY)
    assert found.note is None


def test_a_primary_that_does_not_come_up_gives_way_once_to_a_good_slot() -> None:
    both_good = both(BootState(9, Slot.A, None, frozenset(Slot)))
    attempt, whys = Attempt(), []
    for _start in range(5):
        found = bootstate.choose(both_good, bootstate.render_attempt(attempt))
        whys.append(found.order[0])
        attempt = found.note or attempt
    primary = (Slot.A, Why.PRIMARY)
    assert whys == [primary, primary, primary, (Slot.B, Why.FALLBACK), primary]
    other_not_good = bootstate.choose(both(replace(FRESH, seq=9)), noted(tries=3))
    assert (other_not_good.order[0], other_not_good.note) == (primary, None)


def test_without_any_state_something_boots() -> None:
    found = bootstate.choose([BLANK, b""], b"")
    assert found.order == ((Slot.A, Why.BLIND), (Slot.B, Why.BLIND))


def test_what_follows_from_what() -> None:
    tried = FRESH.with_trial(TRIAL)
    assert tried.committed(Slot.B) == BootState(1, Slot.B, None, frozenset(Slot))
    assert tried.abandoned() == FRESH
    assert tried.marked(Slot.B, good=False) == FRESH
    assert tried.marked(Slot.B, good=True).trial == TRIAL
    fallen = BootState(1, Slot.A, None, frozenset(Slot)).marked(Slot.A, good=False)
    assert (fallen.primary, fallen.good) == (Slot.B, {Slot.B}), "its content is about to go"
    for wrong in (Trial(Slot.A, "x", 9), Trial(Slot.B, "a b", 9), Trial(Slot.B, "", 9), Trial(Slot.B, "x", 0)):
        with pytest.raises(ValueError, match="trial"):
            FRESH.with_trial(wrong)
    with pytest.raises(ValueError, match="sequence"):
        bootstate.render(replace(FRESH, seq=-1))
