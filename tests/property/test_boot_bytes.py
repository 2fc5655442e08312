"""Any bytes are a boot state, or they are damaged; what GRUB makes of any bytes is always something to boot."""

from hypothesis import given
from hypothesis import strategies as st

from firmware import bootstate, slotblock
from firmware.bootstate import Attempt, BootState, DamagedError, Trial, Why
from firmware.layout import STATE_BYTES, Slot
from firmware.slotblock import SlotDamagedError

slots = st.sampled_from(Slot)
ids = st.from_regex(r"\A[0-9A-Za-z-]{1,40}\Z")


@st.composite
def states(draw: st.DrawFn) -> BootState:
    primary = draw(slots)
    trial = draw(st.none() | st.builds(Trial, st.just(primary.other), ids, st.integers(1, bootstate.TRIAL_MAX_S)))
    return BootState(draw(st.integers(0, bootstate.SEQ_MAX)), primary, trial, draw(st.frozensets(slots)))


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """A whole block, one that was changed in places, lines that look like one, or noise."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.binary(max_size=STATE_BYTES + 1))
    if kind == 1:
        lines = draw(st.lists(st.text("=#x.0AB_\n\\", max_size=30), max_size=20))
        return ("# GRUB Environment Block\n" + "\n".join(lines)).encode()[:STATE_BYTES].ljust(STATE_BYTES, b"#")
    whole = bytearray(bootstate.render(draw(states())) if kind == 2 else bootstate.render_attempt(Attempt("x", 2)))
    for place, value in draw(st.dictionaries(st.integers(0, STATE_BYTES - 1), st.integers(0, 255), max_size=3)).items():
        whole[place] = value
    return bytes(whole)


@given(states())
def test_every_state_comes_back(state: BootState) -> None:
    assert bootstate.parse(bootstate.render(state)) == state


@given(blocks())
def test_any_bytes_are_a_state_or_damaged(data: bytes) -> None:
    for read in (bootstate.parse, bootstate.parse_attempt):
        try:
            read(data)
        except DamagedError:
            continue


@given(blocks(), blocks(), blocks())
def test_something_boots_whatever_lies_there(first: bytes, second: bytes, attempt: bytes) -> None:
    found = bootstate.choose([first, second], attempt)
    assert {slot for slot, _why in found.order} == set(Slot)
    assert (found.order[0][1] is Why.TRIAL) == (found.trial is not None)
    if found.trial is not None:
        assert found.note == Attempt(found.trial.id, 0)
        # Whoever cuts the power now: the next start is not the trial again.
        again = bootstate.choose([first, second], bootstate.render_attempt(found.note))
        assert again.order[0] == (found.trial.slot.other, Why.PRIMARY)


@given(states(), states(), st.integers(0, STATE_BYTES))
def test_a_write_that_is_cut_leaves_the_old_state_or_the_new_one(old: BootState, new: BootState, cut: int) -> None:
    """Even where a sector could tear: the other copy is whole."""
    before = [bootstate.render(old), bytes(STATE_BYTES)]
    torn = bootstate.render(new)[:cut] + before[1][cut:]
    assert bootstate.newest([before[0], torn])[1] in (old, new)


@given(st.binary(max_size=60) | st.binary(min_size=4096, max_size=4096))
def test_any_bytes_are_a_slot_block_or_damaged(data: bytes) -> None:
    for read in (slotblock.parse, slotblock.data_blocks):
        try:
            read(data)
        except SlotDamagedError:
            continue
