"""Children as processes, RAUC on a bus of its own, marks on the disk, devices on the LAN: the edges of an update."""

import json
import sys
import time
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from router_agent.link.echo import Answer, LineProbe, Target
from router_agent.problems import Problem
from router_agent.update import install, marks, work
from router_agent.update.child import ChildProcess, ChildProcesses
from router_agent.update.essential import ASK_S, SILENT_S, EssentialDevices
from router_agent.update.install import InstallError, Programs
from router_agent.update.restart import AGAIN_S, Restart
from router_agent.update.work import CRASHED, Done, Event, Failed, Fault, Progress, Step

#: Far more than any of these takes, on a machine that is busy with something else.
PATIENCE_S = 60.0


def child(tmp_path: Path, source: str, request: dict[str, object] | None = None) -> ChildProcess:
    return ChildProcess([sys.executable, "-c", source], request or {}, tmp_path / "step.log")


def heard(running: ChildProcess) -> list[Event]:
    """All that it says, up to its end."""
    found: list[Event] = []
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found += running.events()
        if found and isinstance(found[-1], Done | Failed):
            assert running.events() == (), "and nothing after its end"
            return found
        time.sleep(0.01)
    raise AssertionError(found)


def test_a_child_is_told_and_tells(tmp_path: Path) -> None:
    source = """
import json, sys
told = json.load(sys.stdin)
print("not ours")
print(json.dumps({"event": "progress", "done": 1, "total": 2, "travelled": 1}), flush=True)
print(json.dumps({"event": "done", "result": {"said": told["word"]}}))
sys.stderr.write("a complaint")
"""
    assert heard(child(tmp_path, source, {"word": "hello"})) == [Progress(1, 2, 1), Done({"said": "hello"})]
    assert "a complaint" in (tmp_path / "step.log").read_text()


@pytest.mark.parametrize("source", ["raise SystemExit(1)", "print('{')", "import os; os.kill(os.getpid(), 9)", ""])
def test_a_child_that_says_nothing_has_crashed(tmp_path: Path, source: str) -> None:
    assert heard(child(tmp_path, source)) == [CRASHED]


def test_a_childs_failure_is_told_as_it_is(tmp_path: Path) -> None:
    failed = Failed(Fault.LOST, Problem("agent.update-payload-lost", {"file": "a", "chunks": 3}))
    assert heard(child(tmp_path, f"print({work.render(failed)!r})")) == [failed]


def test_a_child_that_is_killed_takes_along_what_it_has_started(tmp_path: Path) -> None:
    source = f"""
import subprocess, sys, time
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(tmp_path / "inner")!r}, "w").write(f"{{inner.pid}} ")
time.sleep(600)
"""
    running = child(tmp_path, source)
    deadline = time.monotonic() + PATIENCE_S
    while not (tmp_path / "inner").exists() or " " not in (tmp_path / "inner").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    inner = int((tmp_path / "inner").read_text())
    running.kill()
    assert running.events() == ()
    while _lives(inner):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


def test_a_real_step_on_a_machine_that_is_no_appliance_says_so(tmp_path: Path) -> None:
    workshop = ChildProcesses(tmp_path, ("--state", str(tmp_path), "--runtime", str(tmp_path / "run")))
    assert heard(workshop.start(Step.REFRESH, {"release": "x"})) == [
        Failed(Fault.REFUSED, Problem("agent.update-no-appliance"))
    ]


@pytest.mark.parametrize(
    "event",
    [Progress(1, 2, 3), Done(), Done({"a": [1]}), Failed(Fault.FULL, Problem("agent.x", {"a": 1, "b": "c", "d": 1.5}))],
)
def test_lines_say_what_they_were_made_from(event: Event) -> None:
    assert work.parse(work.render(event)) == event


@pytest.mark.parametrize("line", ["", "{", "[]", "1", '{"event": "x"}', '{"event": "done"}', "[" * 9999, b"\xff"])
def test_other_lines_are_none(line: str | bytes) -> None:
    assert work.parse(line) is None


def test_marks_are_read_back_whole_and_of_their_trial_only(tmp_path: Path) -> None:
    (tmp_path / "update").mkdir()
    marks.leave(tmp_path, "t0", marks.AGENT, at=1)
    marks.leave(tmp_path, "t1", marks.GUARD, at=15.04)
    path = tmp_path / "update" / marks.NAME
    path.write_bytes(path.read_bytes() + b'{"trial_id": "t1", "wha')  # torn by a power cut
    marks.leave(tmp_path, "t1", marks.MISSING, at=30, missing="tunnel")
    found = marks.read(tmp_path, "t1")
    assert [(mark.what, mark.at, dict(mark.params)) for mark in found] == [
        ("guard", 15.0, {}),
        ("missing", 30.0, {"missing": "tunnel"}),
    ]
    marks.clear(tmp_path)
    assert marks.read(tmp_path, "t1") == ()


def test_marks_do_not_fill_the_disk(tmp_path: Path) -> None:
    (tmp_path / "update").mkdir()
    for _ in range(3):
        marks.leave(tmp_path, "t1", marks.MISSING, at=1, missing="x" * (marks.LOG_MAX_BYTES // 2))
    assert (tmp_path / "update" / marks.NAME).stat().st_size <= marks.LOG_MAX_BYTES


def test_a_bundle_that_is_none_is_refused_by_rauc_and_nothing_is_left_running(tmp_path: Path) -> None:
    """The real RAUC and a real bus. What it says of real bundles needs dm-verity: tests in virtual machines."""
    bundle, device, configuration = tmp_path / "x.raucb", tmp_path / "slot", tmp_path / "system.conf"
    bundle.write_bytes(b"no bundle" * 1000)
    device.write_bytes(bytes(4096))
    handler = tmp_path / "handler"
    handler.write_text("#!/bin/sh\ncase $1 in get-primary) echo A;; get-state) echo good;; esac\n")
    handler.chmod(0o755)
    configuration.write_text(
        f"[system]\ncompatible=x\nbootloader=custom\nactivate-installed=false\nstatusfile={tmp_path}/status\n"
        f"bundle-formats=-plain\n[handlers]\nbootloader-custom-backend={handler}\n"
        f"[slot.rootfs.0]\ndevice={device}\ntype=raw\nbootname=A\n"
        f"[slot.rootfs.1]\ndevice={device}2\ntype=raw\nbootname=B\n"
    )
    rauc = tmp_path / "rauc"
    rauc.write_text(
        '#!/bin/sh\nif [ "$2" = service ]; then exec rauc "$1" service --override-boot-slot=A; fi\nexec rauc "$@"\n'
    )
    rauc.chmod(0o755)
    told: list[float] = []
    before = _processes("rauc-bus.conf", "system.conf")
    with pytest.raises(InstallError) as caught:
        programs = Programs(rauc=str(rauc), configuration=configuration)
        install.install(bundle, tmp_path / "run", report=told.append, programs=programs)
    assert caught.value.key == "agent.update-install-failed"
    assert "D-Bus" not in str(caught.value.params["reason"]), "RAUC's own reason, not that it was not reached"
    assert told and told[-1] == 100.0
    assert _processes("rauc-bus.conf", "system.conf") == before
    assert device.read_bytes() == bytes(4096)


def _processes(*words: str) -> int:
    found = 0
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += any(word in place.read_bytes().decode(errors="replace") for word in words)
        except OSError:
            continue
    return found


def test_without_a_bus_or_rauc_the_reason_is_told(tmp_path: Path) -> None:
    for programs in (Programs(bus="no-such-bus"), Programs(rauc="no-such-rauc")):
        with pytest.raises(InstallError) as caught:
            install.install(tmp_path / "x", tmp_path / "run", report=lambda _done: None, programs=programs)
        assert "no-such" in str(caught.value.params["reason"])


def test_raucs_complaint_is_its_last_error() -> None:
    assert install.complaint(["installing", "LastError: no space", "Installing `x` failed"]) == "no space"
    assert install.complaint(["", "gone wrong", ""]) == "gone wrong"
    assert install.complaint([]) == "no reason given"


class QuietLan(LineProbe):
    """A LAN where these answer; what was asked of whom is kept."""

    def __init__(self, answering: Sequence[str]) -> None:
        super().__init__("lan0")
        self.answering = set(answering)
        self.asked: list[tuple[str, bool]] = []
        self.waiting: list[Answer] = []

    def ask(self, target: Target, *, now: float, connect: bool) -> None:
        self.asked.append((str(target.address), connect))
        if str(target.address) in self.answering:
            self.waiting.append(Answer(target.address, 0.001))

    def answers(self, now: float, *, wait_s: float) -> list[Answer]:
        found, self.waiting = self.waiting, []
        return found

    def close(self) -> None:
        self.waiting.clear()


PLC, METER, SENSOR = (f"192.168.1.{number}" for number in (20, 30, 40))


def test_essential_devices_are_asked_and_any_answer_counts() -> None:
    lan = QuietLan([PLC])
    heard_of = {IPv4Address(METER): 1.0, IPv4Address(SENSOR): 900.0}
    devices = EssentialDevices("lan0", probe=lan, heard=lambda _interface: heard_of)
    devices.configure([IPv4Address(one) for one in (PLC, METER, SENSOR)])
    assert not devices.known(0.0)
    for now in range(30):
        devices.step(float(now))
    assert devices.known(29.0)
    assert devices.silent(29.0) == {SENSOR}, "an echo, an ARP answer, and one that is only remembered"
    assert (SENSOR, True) in lan.asked, "who does not answer an echo is tried by TCP"
    lan.answering.clear()
    heard_of.clear()
    for now in range(30, 200):
        devices.step(float(now))
    assert devices.silent(29.0 + SILENT_S / 2) == {SENSOR}
    assert devices.silent(29.0 + SILENT_S + 2 * ASK_S) == {PLC, METER, SENSOR}


def test_nobody_is_asked_while_nobody_wants_to_know() -> None:
    lan = QuietLan([PLC])
    devices = EssentialDevices("lan0", probe=lan, heard=lambda _interface: {})
    devices.configure([IPv4Address(PLC)])
    devices.step(0.0)
    devices.rest()
    asked = len(lan.asked)
    assert not devices.known(100.0)
    devices.configure([])
    devices.step(100.0)
    assert len(lan.asked) == asked and devices.silent(200.0) == frozenset()


def test_a_restart_is_asked_for_harder_when_it_does_not_come() -> None:
    asked: list[bool] = []
    restart = Restart(asked.append)
    restart.step(0.0)
    assert not restart.wanted and asked == []
    restart.ask(1.0)
    restart.step(1.0 + AGAIN_S / 2)
    assert restart.wanted and asked == [False]
    restart.step(1.0 + AGAIN_S)
    assert asked == [False, True]


def test_a_mark_is_one_line_of_json(tmp_path: Path) -> None:
    (tmp_path / "update").mkdir()
    marks.leave(tmp_path, "t1", marks.GUARD, at=1)
    line = (tmp_path / "update" / marks.NAME).read_text()
    assert json.loads(line)["what"] == "guard" and line.endswith("\n")
    assert (tmp_path / "update" / marks.NAME).stat().st_mode & 0o777 == 0o600
