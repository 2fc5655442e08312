"""The judge of cut disks: what it says of whole ones, and that it sees each kind of damage."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cut_router import BUNDLE, DOCUMENT, SETTINGS, SITE, Parts, trial_of_b

from firmware import bootstate, layout, slotblock, trees
from firmware.bootstate import Attempt, BootState, Why
from firmware.layout import ATTEMPT_SECTOR, BOOTSTATE, DATA, MIB, SECTOR_BYTES, STATE_BYTES, STATE_COPY_SECTORS, Slot
from lab.appliance.judge import Judge, Verdict
from lab.appliance.slot_on_disk import SlotOnDisk
from lab.power_cut.disk import Disk
from router_agent.settings import journal as settings_journal
from router_agent.settings.machine import SettingsState, Version
from router_agent.settings.machine import Stage as SettingsStage
from router_agent.update.machine import Stage

A = BootState(4, Slot.A, None, frozenset({Slot.A}))
B = BootState(6, Slot.B, None, frozenset(Slot))
Change = Callable[[Disk], None]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts.make(tmp_path_factory.mktemp("parts"))


def judged(path: Path, directory: Path, change: Change | None = None) -> Verdict:
    """The disk before, which promises what is on it, and after a change: the second verdict."""
    with Disk(path) as disk:
        judge = Judge(disk, directory / "judge")
        first = judge.judge(safe=True)
        if change is None:
            return first
        assert first.wrong == ()
        change(disk)
        return judge.judge(safe=False)


def flip(disk: Disk, offset: int) -> None:
    disk.write(offset, bytes([disk.read(offset, 1)[0] ^ 1]))


def slot_start(slot: Slot) -> int:
    return layout.offset_mib(layout.SLOTS[slot]) * MIB


def boot_sector(sector: int) -> int:
    return layout.offset_mib(BOOTSTATE) * MIB + sector * SECTOR_BYTES


def in_data(disk: Disk, what: bytes) -> int:
    """Where something stands in the data partition."""
    size = layout.size_mib(DATA, layout.DISK_MIN_MIB) * MIB
    start = layout.offset_mib(DATA) * MIB
    step = 1 << 24
    for at in range(start, start + size, step):
        found = disk.read(at, step + len(what)).find(what)
        if found >= 0:
            return at + found
    raise AssertionError(what)


@pytest.mark.parametrize(
    ("boot", "stage", "wanted"),
    [
        (A, Stage.IDLE, (Slot.A, Why.PRIMARY, Stage.IDLE, "", False)),
        (A, Stage.FETCHING, (Slot.A, Why.PRIMARY, Stage.FETCHING, "", False)),
        (A, Stage.INSTALLING, (Slot.A, Why.PRIMARY, Stage.ASSEMBLED, "", False)),
        (A, Stage.INSTALLED, (Slot.A, Why.PRIMARY, Stage.INSTALLED, "", False)),
        # The journal says so and the boot state does not yet.
        (A, Stage.TRIAL, (Slot.A, Why.PRIMARY, Stage.INSTALLED, "", False)),
        (trial_of_b(A), Stage.TRIAL, (Slot.B, Why.TRIAL, Stage.TRIAL, "", False)),
        # The boot state has a trial that the journal knows nothing of: it has its one start, and is over.
        (trial_of_b(A), Stage.IDLE, (Slot.B, Why.TRIAL, Stage.IDLE, "", True)),
        (B, Stage.TRIAL, (Slot.B, Why.PRIMARY, Stage.COMMITTED, "", False)),
        (B, Stage.COMMITTED, (Slot.B, Why.PRIMARY, Stage.COMMITTED, "", False)),
    ],
)
def test_a_whole_disk(
    parts: Parts, tmp_path: Path, boot: BootState, stage: Stage, wanted: tuple[Slot, Why, Stage, str, bool]
) -> None:
    verdict = judged(parts.disk(tmp_path / "disk", boot, parts.update(stage)), tmp_path)
    assert (verdict.slot, verdict.why, verdict.after, verdict.problem, verdict.tidies) == wanted
    assert verdict.wrong == ()
    assert not verdict.bricked
    assert (verdict.site, verdict.version, verdict.before) == (SITE, SETTINGS.number, stage)


def test_a_trial_that_had_its_start_is_over(parts: Parts, tmp_path: Path) -> None:
    def begun(disk: Disk) -> None:
        disk.write(boot_sector(ATTEMPT_SECTOR), bootstate.render_attempt(Attempt("t-1")))

    verdict = judged(parts.disk(tmp_path / "disk", trial_of_b(A), parts.update(Stage.TRIAL)), tmp_path, begun)
    assert (verdict.slot, verdict.why, verdict.after) == (Slot.A, Why.PRIMARY, Stage.RETURNED)
    assert verdict.problem == "agent.update-returned-unbootable"
    assert verdict.tidies
    assert verdict.wrong == ()


def test_a_slot_half_written_stays_out_of_the_way(parts: Parts, tmp_path: Path) -> None:
    half = parts.b[: len(parts.b) // 2]
    disk = parts.disk(tmp_path / "disk", A, parts.update(Stage.INSTALLING), b=half)
    verdict = judged(disk, tmp_path)
    assert (verdict.slot, verdict.after, verdict.wrong) == (Slot.A, Stage.ASSEMBLED, ())


def test_a_block_flipped_in_the_slot_that_starts(parts: Parts, tmp_path: Path) -> None:
    disk = parts.disk(tmp_path / "disk", A, parts.update(Stage.IDLE))
    verdict = judged(disk, tmp_path, lambda disk: flip(disk, slot_start(Slot.A) + 5 * 4096 + 17))
    assert verdict.bricked
    assert any("slot A may start and is not whole" in text for text in verdict.wrong)


@pytest.mark.parametrize("part", ["tree", "slot block", "squashfs"])
def test_any_part_of_a_slot(parts: Parts, tmp_path: Path, part: str) -> None:
    blocks = slotblock.data_blocks(parts.a)
    place = {"tree": blocks * trees.BLOCK_BYTES + 40, "slot block": slotblock.position(blocks) + 20, "squashfs": 42}
    disk = parts.disk(tmp_path / "disk", A, parts.update(Stage.IDLE))
    assert judged(disk, tmp_path, lambda disk: flip(disk, slot_start(Slot.A) + place[part])).bricked


def test_a_slot_called_good_that_is_not(parts: Parts, tmp_path: Path) -> None:
    """It is not started now, but would be if the other one failed."""
    disk = parts.disk(tmp_path / "disk", replace(A, good=frozenset(Slot)), parts.update(Stage.IDLE))
    verdict = judged(disk, tmp_path, lambda disk: flip(disk, slot_start(Slot.B) + 5 * 4096))
    assert (verdict.slot, verdict.bricked) == (Slot.A, True)
    assert any("slot B may start and is not whole" in text for text in verdict.wrong)


def test_a_release_called_installed_that_is_not_there(parts: Parts, tmp_path: Path) -> None:
    disk = parts.disk(tmp_path / "disk", A, parts.update(Stage.INSTALLED))
    verdict = judged(disk, tmp_path, lambda disk: flip(disk, slot_start(Slot.B) + 5 * 4096))
    assert any(text.startswith("installed, and slot B does not hold") for text in verdict.wrong)


def test_a_committed_release_that_does_not_run(parts: Parts, tmp_path: Path) -> None:
    disk = parts.disk(tmp_path / "disk", A, parts.update(Stage.COMMITTED))
    assert any(text.startswith("committed, and slot A runs") for text in judged(disk, tmp_path).wrong)


def test_both_copies_of_the_boot_state_torn(parts: Parts, tmp_path: Path) -> None:
    """Slot B is what counts, and the boot loader is blind: it takes A. With A's slot empty it finds B."""

    def torn(disk: Disk) -> None:
        for sector in STATE_COPY_SECTORS:
            disk.write(boot_sector(sector) + 80, bytes(STATE_BYTES - 80))

    disk = parts.disk(tmp_path / "disk", B, parts.update(Stage.COMMITTED))
    verdict = judged(disk, tmp_path, torn)
    assert verdict.starts == ((Slot.A, Why.BLIND),)
    assert any(text.startswith("committed, and slot A runs") for text in verdict.wrong)

    def torn_and_empty(disk: Disk) -> None:
        torn(disk)
        disk.write(slot_start(Slot.A), bytes(4096))

    disk = parts.disk(tmp_path / "disk", A, parts.update(Stage.IDLE), b=b"")
    verdict = judged(disk, tmp_path, torn_and_empty)
    assert verdict.slot is None
    assert verdict.bricked


def test_one_copy_torn_is_no_harm(parts: Parts, tmp_path: Path) -> None:
    def torn(disk: Disk) -> None:
        disk.write(boot_sector(STATE_COPY_SECTORS[1]) + 80, bytes(STATE_BYTES - 80))

    assert judged(parts.disk(tmp_path / "disk", A, parts.update(Stage.IDLE)), tmp_path, torn).wrong == ()


def test_settings_cut_in_half(parts: Parts, tmp_path: Path) -> None:
    def torn(disk: Disk) -> None:
        place = in_data(disk, b'{\n "format": 1,\n "current"')
        disk.write(place + 60, bytes(200))

    verdict = judged(parts.disk(tmp_path / "disk", A, parts.update(Stage.IDLE)), tmp_path, torn)
    assert not verdict.settings_kept
    assert not verdict.bricked


def test_settings_of_before(parts: Parts, tmp_path: Path) -> None:
    def older(disk: Disk) -> None:
        place = in_data(disk, b'"version": 3')
        disk.write(place, b'"version": 2')

    assert not judged(parts.disk(tmp_path / "disk", A, parts.update(Stage.IDLE)), tmp_path, older).settings_kept


def test_newer_settings_are_promised_from_then_on(parts: Parts, tmp_path: Path) -> None:
    with Disk(parts.disk(tmp_path / "disk", A, parts.update(Stage.IDLE))) as disk:
        judge = Judge(disk, tmp_path / "judge")
        judge.judge(safe=True)
        place = in_data(disk, b'"version": 3')
        disk.write(place, b'"version": 4')
        assert judge.judge(safe=False).settings_kept
        disk.write(place, b'"version": 3')
        assert judge.judge(safe=True).settings_kept
        disk.write(place, b'"version": 4')
        assert judge.judge(safe=True).settings_kept
        disk.write(place, b'"version": 3')
        assert not judge.judge(safe=True).settings_kept


@pytest.mark.parametrize("what", [b"-----BEGIN PRIVATE KEY", b'"site": "tokyo-1"', b'{"format": 1, "site"'])
def test_an_identity_lost(parts: Parts, tmp_path: Path, what: bytes) -> None:
    disk = parts.disk(tmp_path / "disk", A, parts.update(Stage.IDLE))
    verdict = judged(disk, tmp_path, lambda disk: disk.write(in_data(disk, what), bytes(len(what))))
    assert not verdict.site_kept
    assert verdict.bricked


def test_the_update_journal_torn(parts: Parts, tmp_path: Path) -> None:
    def torn(disk: Disk) -> None:
        disk.write(in_data(disk, b'"stage": "idle"'), bytes(8))

    verdict = judged(parts.disk(tmp_path / "disk", A, parts.update(Stage.IDLE)), tmp_path, torn)
    assert verdict.before is None
    assert any("journal" in text for text in verdict.wrong)


def test_what_an_update_counts_on(parts: Parts, tmp_path: Path) -> None:
    update = parts.update(Stage.ASSEMBLED)
    disk = parts.disk(tmp_path / "disk", A, update)
    verdict = judged(disk, tmp_path, lambda disk: disk.write(in_data(disk, DOCUMENT), b"W"))
    assert verdict.wrong == ("assembled, and the release's document is not there",)
    larger = replace(update, facts=replace(parts.facts, bundle_bytes=len(BUNDLE) + 1))
    verdict = judged(parts.disk(tmp_path / "disk", A, larger), tmp_path)
    assert verdict.wrong == ("assembled, and the bundle is not there whole",)
    assert not verdict.bricked


def test_a_data_partition_that_is_gone(parts: Parts, tmp_path: Path) -> None:
    start = layout.offset_mib(DATA) * MIB
    disk = parts.disk(tmp_path / "disk", A, parts.update(Stage.IDLE))
    assert judged(disk, tmp_path, lambda disk: disk.write(start, bytes(1 << 16))).bricked


def test_what_is_known_of_a_slot_is_what_a_fresh_look_finds(parts: Parts, tmp_path: Path) -> None:
    dice = random.Random(4)
    with Disk(parts.disk(tmp_path / "disk", A, parts.update(Stage.IDLE))) as disk:
        known = SlotOnDisk(disk, Slot.A)
        size = len(parts.a)
        for _ in range(30):
            place = slot_start(Slot.A) + dice.randrange(size)
            flip(disk, place)
            known.forget(disk.take_changed())
            assert known.look() == SlotOnDisk(disk, Slot.A).look()
            if dice.random() < 0.8:
                flip(disk, place)
        assert not known.look().whole


def test_an_interrupted_settings_trial_is_undone(parts: Parts, tmp_path: Path) -> None:
    tree_before = parts.state

    class Trying(Parts):
        def state(self, update: object) -> Path:
            tree = tree_before(update)  # type: ignore[arg-type]
            trying = SettingsState(SETTINGS, Version(4, {}), SettingsStage.TRYING, 60.0)
            settings_journal.Journal(tree / "lib/kyoten-agent").save(trying)
            return tree

    made = Trying(parts.directory, parts.a, parts.b, parts.identity)
    verdict = judged(made.disk(tmp_path / "disk", A, parts.update(Stage.IDLE)), tmp_path)
    assert verdict.version == SETTINGS.number
    assert verdict.settings_kept
