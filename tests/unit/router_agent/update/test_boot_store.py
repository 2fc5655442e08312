"""The boot state on a device: the copy that counts is never touched, and what cannot be read is told."""

from pathlib import Path

import pytest

from firmware import bootstate
from firmware.bootstate import Attempt, BootState, Trial
from firmware.layout import ATTEMPT_SECTOR, MIB, SECTOR_BYTES, STATE_BYTES, STATE_COPY_SECTORS, Slot
from router_agent.errors import StateError
from router_agent.update import handler
from router_agent.update.bootstore import BootStore
from router_agent.update.slots import parse


@pytest.fixture
def partition(tmp_path: Path) -> Path:
    """As it leaves the factory."""
    path = tmp_path / "bootstate"
    path.write_bytes(bytes(MIB))
    state = bootstate.render(BootState(1, Slot.A, None, frozenset({Slot.A})))
    for sector in STATE_COPY_SECTORS:
        put(path, sector, state)
    put(path, ATTEMPT_SECTOR, bootstate.render_attempt(Attempt()))
    return path


def put(path: Path, sector: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(sector * SECTOR_BYTES)
        file.write(data)


def get(path: Path, sector: int) -> bytes:
    return path.read_bytes()[sector * SECTOR_BYTES :][:STATE_BYTES]


def test_each_change_leaves_the_copy_that_counted(partition: Path) -> None:
    store = BootStore(partition)
    changes = [
        lambda: store.begin_trial(Slot.B, "first", 900),
        store.abandon,
        lambda: store.begin_trial(Slot.B, "second", 900.5),
        lambda: store.commit(Slot.B),
        lambda: store.mark(Slot.A, good=False),
    ]
    for change in changes:
        before = [get(partition, sector) for sector in STATE_COPY_SECTORS]
        counted, old = bootstate.newest(before)
        change()
        after = [get(partition, sector) for sector in STATE_COPY_SECTORS]
        assert after[counted] == before[counted]
        assert bootstate.newest(after) == (1 - counted, store.read())
        assert store.read().seq == old.seq + 1
    assert store.read() == BootState(6, Slot.B, None, frozenset({Slot.B}))


def test_what_changes_nothing_writes_nothing(partition: Path) -> None:
    before = partition.read_bytes()
    store = BootStore(partition)
    store.mark(Slot.A, good=True)
    store.abandon()
    store.booted_ok(Slot.A)
    assert partition.read_bytes() == before


def test_a_trial_needs_a_note_that_grub_can_write(partition: Path) -> None:
    put(partition, ATTEMPT_SECTOR, bytes(STATE_BYTES))
    store = BootStore(partition)
    assert store.attempted() is None
    store.begin_trial(Slot.B, "first", 900)
    assert store.attempted() == ""
    copies = [get(partition, sector) for sector in STATE_COPY_SECTORS]
    assert bootstate.choose(copies, get(partition, ATTEMPT_SECTOR)).trial == Trial(Slot.B, "first", 900)


def test_a_trial_that_grub_would_not_begin_is_refused(partition: Path) -> None:
    put(partition, ATTEMPT_SECTOR, bootstate.render_attempt(Attempt("before", 1)))
    store = BootStore(partition)
    before = store.read()
    for slot, name, seconds in ((Slot.B, "before", 9), (Slot.A, "new", 9), (Slot.B, "a b", 9), (Slot.B, "new", 0)):
        with pytest.raises(ValueError, match="trial"):
            store.begin_trial(slot, name, seconds)
    assert store.read() == before


def test_one_damaged_copy_is_written_next(partition: Path) -> None:
    put(partition, STATE_COPY_SECTORS[0], b"\xff" * STATE_BYTES)
    store = BootStore(partition)
    store.commit(Slot.B)
    assert store.read().primary is Slot.B
    assert bootstate.parse(get(partition, STATE_COPY_SECTORS[0])) == store.read()
    assert bootstate.parse(get(partition, STATE_COPY_SECTORS[1])).primary is Slot.A


def test_a_lost_state_is_told_and_made_anew_by_a_good_start(partition: Path) -> None:
    partition.write_bytes(bytes(MIB))
    store = BootStore(partition)
    for wants in (store.read, store.abandon, lambda: store.commit(Slot.A), lambda: store.begin_trial(Slot.B, "x", 9)):
        with pytest.raises(StateError, match="boot-state-damaged"):
            wants()
    store.booted_ok(Slot.B)
    assert store.read() == BootState(2, Slot.B, None, frozenset({Slot.B}))
    assert store.attempted() == ""


def test_a_good_start_ends_the_counting_and_forgets_no_trial(partition: Path) -> None:
    put(partition, ATTEMPT_SECTOR, bootstate.render_attempt(Attempt("before", 3)))
    store = BootStore(partition)
    store.booted_ok(Slot.A)
    assert bootstate.parse_attempt(get(partition, ATTEMPT_SECTOR)) == Attempt("before", 0)
    store.begin_trial(Slot.B, "new", 9)
    put(partition, ATTEMPT_SECTOR, b"\xff" * STATE_BYTES)
    store.booted_ok(Slot.A)
    assert store.attempted() == "new", "its note was lost: it counts as begun"


def test_a_machine_without_the_partition_is_told(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="boot-state-unreadable"):
        BootStore(tmp_path / "none").read()
    with pytest.raises(StateError, match="boot-state-unwritable"):
        BootStore(tmp_path / "none").commit(Slot.A)
    (tmp_path / "short").write_bytes(b"")
    with pytest.raises(StateError, match="boot-state-damaged"):
        BootStore(tmp_path / "short").read()


def test_rauc_never_makes_a_primary(partition: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The questions of one installation, as RAUC 1.8 asks them."""
    booted = parse("quiet kyoten.slot=A kyoten.why=primary")

    def ask(*words: str) -> str:
        assert handler.main(words, device=partition, booted=lambda: booted) == handler.EXIT_OK
        return capsys.readouterr().out.strip()

    assert (ask("get-primary"), ask("get-current")) == ("A", "A")
    assert (ask("get-state", "A"), ask("get-state", "B")) == ("good", "bad")
    assert ask("set-state", "B", "bad") == ""
    assert ask("set-primary", "B") == ""
    state = BootStore(partition).read()
    assert (state.primary, state.good) == (Slot.A, {Slot.A})
    assert state.trial is not None
    assert state.trial.slot is Slot.B
    assert (ask("get-primary"), ask("get-state", "B")) == ("B", "good")
    ask("set-state", "B", "good")
    assert BootStore(partition).read().primary is Slot.A


def test_rauc_hears_of_what_does_not_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["get-primary"], ["set-state", "B", "bad"]):
        assert handler.main(words, device=tmp_path / "none", booted=lambda: None) == handler.EXIT_FAILED
    partition = tmp_path / "partition"
    partition.write_bytes(bytes(MIB))
    BootStore(partition).booted_ok(Slot.A)
    for words in (["get-state", "C"], ["set-state", "A", "fine"], ["format-disk"], []):
        assert handler.main(words, device=partition, booted=lambda: None) == handler.EXIT_USAGE
    assert capsys.readouterr().out == ""
