"""Cuts of a recording: where they are made, that they are judged in order, kept, and gone on with."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from cut_router import Parts, trial_of_b

from firmware import bootstate, layout
from firmware.bootstate import BootState, Why
from firmware.layout import BOOTSTATE, MIB, SECTOR_BYTES, STATE_COPY_SECTORS, Slot
from lab.appliance import cut_boot, cut_choice, cuts
from lab.appliance.cut_boot import Seen
from lab.appliance.cut_choice import Cut
from lab.appliance.data_on_disk import DataFound
from lab.appliance.judge import Verdict, document, parse
from lab.power_cut.write_log import Flag, WriteLog, written
from router_agent.update.machine import Stage

A = BootState(4, Slot.A, None, frozenset({Slot.A}))
NOTHING = Flag(0)
FLUSH: tuple[int, bytes | int, Flag] = (0, b"", Flag.FLUSH)


def boot_write(copy: int, state: BootState) -> tuple[int, bytes | int, Flag]:
    offset = layout.offset_mib(BOOTSTATE) * MIB + STATE_COPY_SECTORS[copy] * SECTOR_BYTES
    return offset, bootstate.render(state).ljust(4096, b"\0"), Flag.FUA


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The idle slot is written, tried and kept. The agent's journal says from the beginning that it is about to be
    tried: that is wrong until the slot is whole."""
    directory = tmp_path_factory.mktemp("recorded")
    parts = Parts.make(directory)
    parts.disk(directory / "start.img", A, parts.update(Stage.TRIAL), b=b"")
    start = layout.offset_mib(layout.SLOT_B) * MIB
    step = 16 * 4096
    entries = [(start + at, parts.b[at : at + step], NOTHING) for at in range(0, len(parts.b), step)]
    trial = trial_of_b(BootState(5, Slot.A, None, frozenset({Slot.A})))
    kept = BootState(6, Slot.B, None, frozenset(Slot))
    log = [*entries, FLUSH, boot_write(0, trial), FLUSH, boot_write(1, kept), FLUSH]
    (directory / "writes.log").write_bytes(written(log))
    return directory


def test_marks_are_found(recorded: Path) -> None:
    with WriteLog(recorded / "writes.log") as log:
        last = len(log.requests)
        assert cut_choice.marks(log) == (last - 3, last - 1)
        assert log.flushes == (last - 4, last - 2, last)


def test_a_journal_is_a_mark(tmp_path: Path) -> None:
    place = layout.offset_mib(layout.DATA) * MIB
    journal = bytes(4096) + cut_choice.JOURNALS[0].ljust(4096, b" ")
    other = (place - 4 * MIB, journal, NOTHING)
    (tmp_path / "log").write_bytes(written([(place, bytes(4096), NOTHING), (place + 4096, journal, NOTHING), other]))
    with WriteLog(tmp_path / "log") as log:
        assert cut_choice.marks(log) == (2,)


def test_cuts_are_everywhere_and_say_what_is_safe(recorded: Path) -> None:
    with WriteLog(recorded / "writes.log") as log:
        chosen = cut_choice.choose(log, 60, random.Random(1))
        last = len(log.requests)
    assert len(chosen) == 60
    assert chosen[0].position == 0
    assert [cut.position for cut in chosen] == sorted(cut.position for cut in chosen)
    at_flush = {cut.position for cut in chosen if cut.safe}
    assert {last - 4, last - 2, last} <= at_flush
    # Both sides of each mark.
    assert {last - 4, last - 3, last - 2, last - 1} <= {cut.position for cut in chosen}
    assert all(cut.flushed <= cut.position for cut in chosen)


def test_every_kind_is_booted_before_any_twice() -> None:
    groups = {"many": list(range(100)), "few": [200, 201], "one": [300]}
    chosen = cut_choice.spread(groups, 6, random.Random(1))
    assert {300, 200, 201} <= set(chosen)
    assert len(set(chosen)) == 6
    assert len(cut_choice.spread(groups, 1000, random.Random(1))) == 103


def test_a_recording_is_judged_and_gone_on_with(recorded: Path, tmp_path: Path) -> None:
    said: list[str] = []
    results = tmp_path / "cuts.jsonl"
    figures = cuts.measure(recorded, cuts=40, booted=0, jobs=1, say=said.append, results=results)
    assert figures["power_cuts"] == 40
    assert (figures["bricked"], figures["settings_lost"]) == (0, 0)
    early = [text for text in said if "slot B does not hold the release" in text]
    assert len(said) == len(early) == figures["power_cuts_wrong"]
    assert 0 < len(early) < 40
    assert not cuts.is_good(figures)
    assert figures["lying_disk_faults"]
    phases = figures["phases"]
    assert isinstance(phases, dict)
    assert set(phases) == {
        "trial, then installed on A as primary",
        "trial, then trial on B as trial",
        "trial, then committed on B as primary",
    }
    lines = results.read_text().splitlines()
    assert len(lines) == 41
    # Killed in the middle of a line.
    results.write_text("\n".join(lines[:20]) + '\n{"number": 3')
    again = cuts.measure(recorded, cuts=40, booted=0, jobs=1, say=said.append, results=results)
    assert {**again, "judge_s_per_cut": 0} == {**figures, "judge_s_per_cut": 0}
    assert results.read_text().splitlines() == lines
    other = cuts.measure(recorded, cuts=39, booted=0, jobs=1, say=said.append, results=results)
    assert other["power_cuts"] == 39
    assert len(results.read_text().splitlines()) == 40


VERDICT = Verdict(
    starts=((Slot.A, Why.PRIMARY),),
    slot=Slot.A,
    whole=True,
    site="tokyo-1",
    site_kept=True,
    version=3,
    settings_kept=True,
    before=Stage.TRIAL,
    after=Stage.RETURNED,
    problem="agent.update-returned-unbootable",
    tidies=True,
    mended=False,
    wrong=(),
)
CONSOLE = "kyoten: slot A (primary)\nvmlinuz: OK\nkyoten: slot A, 0.1.0 (primary)\n"
SAID = (
    "T WARNING x: update: returned, was trial: Problem(key='agent.update-returned-unbootable', params={'v': '1'})\n"
    "T INFO x: agent started: site tokyo-1, overlay 10.10.1.0/24\n"
    "T WARNING x: update: offered, was returned: None\n"
)


def test_what_a_machine_showed_is_read() -> None:
    seen = cut_boot.seen(CONSOLE, SAID, DataFound(usable=True, site="tokyo-1"), seconds=1.0)
    assert seen.starts == (("A", "primary", "0.1.0"),)
    assert (seen.recovered, seen.problem) == ("returned", "agent.update-returned-unbootable")
    quiet = "T INFO x: agent started: site tokyo-1, overlay 10.10.1.0/24\n"
    assert cut_boot.seen(CONSOLE, quiet, DataFound(usable=True), seconds=1.0).recovered == ""
    trial = cut_boot.seen("kyoten: slot B, 0.2.0 (trial t-1)\n", quiet, DataFound(usable=True), seconds=1.0)
    assert trial.starts == (("B", "trial", "0.2.0"),)


def test_a_verdict_is_kept_as_it_is() -> None:
    for verdict in (VERDICT, replace(VERDICT, slot=None, before=None, wrong=("something",))):
        assert parse(json.loads(json.dumps(document(verdict)))) == verdict


def test_each_difference_is_seen() -> None:
    key = "agent.update-returned-unbootable"
    same = Seen((("A", "primary", "0.1.0"),), "returned", key, "returned", "tokyo-1", 3, 1.0)
    assert cut_boot.differences(VERDICT, same) == []
    others = (
        Seen((("B", "primary", "0.1.0"),), "returned", key, "returned", "tokyo-1", 3, 1.0),
        Seen((("A", "fallback", "0.1.0"),), "returned", key, "returned", "tokyo-1", 3, 1.0),
        Seen(same.starts * 2, "returned", key, "returned", "tokyo-1", 3, 1.0),
        Seen(same.starts, "installed", key, "returned", "tokyo-1", 3, 1.0),
        Seen(same.starts, "", "", "returned", "tokyo-1", 3, 1.0),
        Seen(same.starts, "returned", "agent.other", "returned", "tokyo-1", 3, 1.0),
        Seen(same.starts, "returned", key, "trial", "tokyo-1", 3, 1.0),
        Seen(same.starts, "returned", key, "returned", "", 3, 1.0),
        Seen(same.starts, "returned", key, "returned", "tokyo-1", 2, 1.0),
    )
    for other in others:
        assert len(cut_boot.differences(VERDICT, other)) == 1


def test_a_cut_knows_whether_it_is_safe() -> None:
    assert Cut(1, 5, 5, 0.0).safe
    assert not Cut(1, 6, 5, 1.0).safe
