"""What a person at the router sees, and what the agent does on a machine that is none of our images."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from simulated_router import Release, SimulatedRouter

from firmware.bootstate import BootState, Why, render
from firmware.layout import STATE_BYTES, Slot
from linux.runner import Finished, Runner
from router_agent import cli, status
from router_agent.options import Options
from router_agent.problems import Problem
from router_agent.report.documents import Answer
from router_agent.report.firmware import FirmwareReport, ModuleReport
from router_agent.settings.keys import parse
from router_agent.update import appliance, words
from router_agent.update.appliance import LinuxMachine
from router_agent.update.bootstore import BootStore
from router_agent.update.ports import Running
from router_agent.update.slots import Booted
from router_agent.updating import ALIVE, Updating

RUNNING = Running("generic-x86-64", "2026.1", 7, "A")


class Recorded:
    """A runner that keeps what it was asked."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, ...]] = []

    def run(self, argv: object, *, stdin: str = "", timeout_s: float = 10.0, check: bool = True) -> Finished:
        self.ran.append(tuple(argv))  # type: ignore[arg-type]
        return Finished(0, "", "")


def updating(tmp_path: Path) -> Updating:
    options = Options(state=tmp_path / "state", runtime=tmp_path)
    runner: Runner = Recorded()
    made = Updating(options, "tokyo-1", runner, agent="0.2.0", modems=lambda _table: None, now=0.0)
    made.configure(parse({"lan.essential": ["192.168.1.20"]}))
    return made


def scene() -> object:
    return SimulatedRouter().scene(True, Release(1))


def test_another_machines_firmware_is_left_alone(tmp_path: Path) -> None:
    made = updating(tmp_path)
    made.start(0.0)
    made.heard(Answer(30.0, None, (), repository=3), 1.0)
    assert made.step(1.0, scene(), 0.5) is False  # type: ignore[arg-type]
    made.gone_round(1.0)
    assert (made.firmware(), made.modules(), made.problems(), made.on_trial) == (None, (), (), False)
    assert not (tmp_path / ALIVE).exists()
    made.stop()


def test_on_the_appliance_the_guard_is_shown_that_the_loop_goes_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appliance, "running", lambda: (RUNNING, Booted(Slot.A, Why.PRIMARY, None)))
    made = updating(tmp_path)
    made.start(0.0)
    report = made.firmware()
    assert report is not None and (report.version, report.counter, report.slot) == ("2026.1", 7, "A")
    assert [problem.key for problem in made.problems()] == ["agent.boot-state-unreadable"], "no such partition here"
    made.gone_round(5.0)
    first = (tmp_path / ALIVE).stat().st_mtime_ns
    made.gone_round(5.5)
    assert (tmp_path / ALIVE).stat().st_mtime_ns == first
    made.gone_round(10.0)
    assert (tmp_path / ALIVE).stat().st_mtime_ns > first
    made.stop()


def test_the_machine_restarts_as_it_is_told_and_the_second_time_without_asking(tmp_path: Path) -> None:
    runner = Recorded()
    machine = LinuxMachine(RUNNING, tmp_path, runner, Path("/usr/lib/kyoten/reboot"))
    machine.reboot(False)
    machine.reboot(True)
    LinuxMachine(RUNNING, tmp_path, runner, None).reboot(False)
    assert runner.ran == [
        ("/usr/lib/kyoten/reboot",),
        ("systemctl", "reboot", "--force", "--force"),
        ("systemctl", "reboot", "--no-block"),
    ]


def test_what_an_update_takes_of_the_disk_is_counted(tmp_path: Path) -> None:
    machine = LinuxMachine(RUNNING, tmp_path, Recorded(), None)
    before = machine.device()
    assert (before.hardware, before.counter) == ("generic-x86-64", 7) and before.free_bytes > 0
    (tmp_path / "update" / "payload").mkdir()
    (tmp_path / "update" / "payload" / "x.zst").write_bytes(b"x" * (1 << 20))
    assert machine.device().have_bytes >= before.have_bytes + (1 << 20)
    machine.clear_payload()
    assert machine.device().have_bytes == before.have_bytes


def test_a_release_file_says_what_runs(tmp_path: Path) -> None:
    path = tmp_path / "release.json"
    path.write_text('{"hardware": "generic-x86-64", "version": "1", "counter": 3, "created": 1767225600}')
    assert appliance.built_at(path) == datetime(2026, 1, 1, tzinfo=UTC)
    path.write_text('{"hardware": 1}')
    with pytest.raises(ValueError):
        appliance.built_at(path)


def told(report: FirmwareReport, *modules: ModuleReport) -> str:
    document = {"firmware": report.document(), "modules": [one.document() for one in modules]}
    return "\n".join(words.status_lines(json.loads(json.dumps(document)), running=True))


def test_the_status_names_release_stage_progress_and_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    waiting = Problem("agent.update-window", {"version": "2026.2", "window": "22:00-05:00"})
    report = FirmwareReport(
        "generic-x86-64", "2026.1", 7, "A", "fetching", "releases/generic-x86-64/2026.2.json", "r1", 41.5, 3 << 20, 9.0
    )
    said = told(
        report, ModuleReport("modems", "1.2", "returned", Problem("agent.module-returned", {"module": "modems"}))
    )
    for word in (
        "2026.1",
        "counter 7",
        "slot A",
        "fetching",
        "2026.2.json",
        "41.5 %",
        "3.0 MiB",
        "modems 1.2: returned",
    ):
        assert word in said, said
    assert "agent.update-window" in told(FirmwareReport("x", "1", 1, "A", "installed", problem=waiting))


def test_the_command_tells_what_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["update", "status", "--runtime", str(tmp_path)]) == cli.EXIT_CONFIGURATION
    assert cli.main(["update", "check", "--state", str(tmp_path), "--runtime", str(tmp_path)]) == cli.EXIT_CONFIGURATION
    assert "Kyoten image" in capsys.readouterr().err
    status.write(tmp_path, {"firmware": None, "modules": []})
    assert cli.main(["update", "status", "--runtime", str(tmp_path), "--json"]) == cli.EXIT_UNAVAILABLE
    assert json.loads(capsys.readouterr().out) == {"running": False, "firmware": None, "modules": []}


def test_what_is_published_is_listed_with_what_was_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    found = {
        "hardware": "generic-x86-64", "version": "2026.1", "counter": 7, "slot": "A", "yanked": "it hurts",
        "releases": [{"version": "2026.2", "counter": 8, "yanked": None}],
        "modules": [{"name": "modems", "version": "1.2", "yanked": "wrong"}],
    }  # fmt: skip
    said = "\n".join(words.check_lines(found))
    for word in ("2026.2 (counter 8)", "it hurts", "modems 1.2", "wrong"):
        assert word in said
    assert "No release" in "\n".join(words.check_lines({**found, "releases": []}))


@pytest.mark.parametrize("archived", [False, True])
def test_a_panic_is_known_though_its_record_is_taken_away(tmp_path: Path, archived: bool) -> None:
    """By whoever reports crashes, before the update asks; systemd may have moved the record at the boot."""
    places = (tmp_path / "pstore", tmp_path / "archive")
    record = places[archived] / ("1795000000" if archived else "") / "dmesg-erst-7302"
    record.parent.mkdir(parents=True)
    record.write_text("Panic#1\n")
    boot = appliance.LinuxBoot(Booted(Slot.A, Why.PRIMARY, None), BootStore(tmp_path / "state"), records=places)
    record.unlink()
    assert boot.reset_cause() == "panic"
    after = appliance.LinuxBoot(Booted(Slot.A, Why.PRIMARY, None), BootStore(tmp_path / "state"), records=places)
    assert after.reset_cause() == ""


def test_a_boot_state_is_seen_as_the_machine_sees_it(tmp_path: Path) -> None:
    """The real store on a file, through the adapter that the driver gets."""
    assert len(render(BootState(1, Slot.A, None, frozenset({Slot.A})))) == STATE_BYTES
    path = tmp_path / "state"
    path.write_bytes(bytes(64 * 1024))
    store = BootStore(path)
    store.booted_ok(Slot.A)
    boot = appliance.LinuxBoot(Booted(Slot.A, Why.PRIMARY, None), store)
    assert (boot.sight().primary, boot.sight().trial, boot.sight().attempted) == ("A", "", False)
    boot.spoil("B")
    boot.begin_trial("B", "t1", 1500.0)
    seen = boot.sight()
    assert (seen.running, seen.trial, seen.trial_id, seen.attempted) == ("A", "B", "t1", False)
    assert len(seen.boot_id) == 36
    boot.abandon()
    assert boot.sight().trial == ""
    boot.begin_trial("B", "t2", 1500.0)
    boot.commit("B")
    assert (boot.sight().primary, boot.sight().trial) == ("B", "")
