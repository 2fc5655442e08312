"""Crashes leave few, small reports without secrets; each reaches the cloud once; a kill and a reset are told apart."""

import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from request_cloud import WAY, MemoryCloud, unreachable

from linux.errors import ProgramMissingError
from linux.runner import Finished
from router_agent.crash import kernel, reports
from router_agent.crash.marks import Mark, RunningMark
from router_agent.crash.sender import Sender
from router_agent.crash.store import KEPT, SEND_EVERY, Store
from router_agent.crash.watch import Child, Crashes
from router_agent.errors import CloudUnreachableError
from router_agent.logs.kernel import KernelLog
from router_agent.logs.redaction import Redaction
from router_agent.logs.units import Places
from router_agent.report.requests import CrashReport

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SECRET = "a-password-of-the-network"
CLEAN = Redaction((SECRET,))


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


class Journal:
    """A runner that has a journal of the boot before, or none."""

    def __init__(self, lines: list[str] | None = None) -> None:
        self.lines = lines

    def run(self, argv: list[str], **_: object) -> Finished:
        if self.lines is None:
            raise ProgramMissingError("journalctl")
        return Finished(0, "".join(f"{line}\n" for line in self.lines) if "--boot=-1" in argv else "", "")


def crashes(
    state: Path, clock: Clock, *, boot: str = "boot-1", pid: int = 100, journal: Journal | None = None
) -> Crashes:
    kmsg = state / "kmsg"
    kmsg.touch()
    log = KernelLog(journal or Journal(), kmsg=kmsg, journals=())  # type: ignore[arg-type]
    return Crashes(
        Places(state, state), Store(state), log, lambda: CLEAN, boot=boot, pid=pid, versions={"agent": "1"},
        news=lambda: None, clock=clock,
    )  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(kernel, "PSTORE", ())
    return Clock()


def due(state: Path, at: datetime = NOW) -> tuple[CrashReport, ...]:
    return Store(state).due(at)


def _broken(password: str) -> None:
    raise ValueError(f"cannot log in with {password}")


def fault(password: str = SECRET) -> Exception:
    try:
        _broken(password)
    except ValueError as error:
        return error
    raise AssertionError


def test_an_exception_is_told_with_its_place_and_without_its_secret(tmp_path: Path, clock: Clock) -> None:
    crashes(tmp_path, clock).exception(fault(), "tick")
    (one,) = due(tmp_path)
    assert (one.kind, one.process, one.summary) == ("exception", "tick", "ValueError: cannot log in with ***")
    assert "_broken" in one.text and SECRET not in json.dumps(one.document())


def test_the_same_fault_is_counted_and_spares_disk_and_line(tmp_path: Path, clock: Clock) -> None:
    watch = crashes(tmp_path, clock)
    store = watch._store
    watch.exception(fault(), "tick")
    path = next((tmp_path / "crashes").iterdir())
    written = path.stat().st_mtime_ns
    for _ in range(50):
        clock.now += timedelta(seconds=0.5)
        watch.exception(fault(), "tick")
    assert path.stat().st_mtime_ns == written, "a fault in every tick wears the flash out"
    (one,) = store.due(clock.now)
    assert one.count == 51
    store.sent(one, clock.now)
    watch.exception(fault(), "tick")
    assert store.due(clock.now) == (), "a fault in every tick eats the data budget"
    assert [one.count for one in store.due(clock.now + SEND_EVERY)] == [52]


def test_few_reports_are_kept_and_those_unsent_longest(tmp_path: Path, clock: Clock) -> None:
    store = Store(tmp_path)
    for number in range(KEPT + 10):
        report = CrashReport(f"{number:032x}", "child", "x", "y", NOW + timedelta(number), NOW + timedelta(number))
        store.add(report)
        if number < 5:
            store.sent(report, NOW)
    names = {path.stem for path in (tmp_path / "crashes").iterdir()}
    assert len(names) == KEPT
    assert f"{0:032x}" not in names and f"{KEPT + 9:032x}" in names


def test_a_kill_is_told_at_the_next_start_and_an_orderly_end_is_not(tmp_path: Path, clock: Clock) -> None:
    first = crashes(tmp_path, clock)
    first.start()
    (tmp_path / "agent.log").write_text(f"2026-11-22T11:59:59Z INFO x: last words, password={SECRET}\n")
    killed = crashes(tmp_path, clock, pid=200)
    killed.start()
    with (tmp_path / "agent.log").open("a") as stream:
        stream.write("2026-11-22T12:00:00Z INFO x: begun anew\n")
    killed.look_back()
    (one,) = due(tmp_path)
    assert (one.kind, one.process) == ("killed", "kyoten-agent") and "process 100" in one.summary
    assert "last words" in one.text and "begun anew" not in one.text and SECRET not in one.text
    killed.stop()
    third = crashes(tmp_path, clock, pid=300)
    third.start()
    third.look_back()
    assert len(due(tmp_path)) == 1


def test_a_reset_is_told_apart_and_brings_what_the_kernel_left(tmp_path: Path, clock: Clock) -> None:
    crashes(tmp_path, clock).start()
    journal = Journal([
        "1763812800.000001 host kernel: usb 1-1: new", "1763812801.000001 host kernel: Oops: 0000 [#1] SMP",
        "1763812801.000002 host kernel: RIP: 0010:x+0x1/0x2",
    ])  # fmt: skip
    after = crashes(tmp_path, clock, boot="boot-2", pid=200, journal=journal)
    after.start()
    after.look_back()
    found = {one.kind: one for one in due(tmp_path)}
    assert set(found) == {"reset", "kernel"}
    assert found["kernel"].summary == "Oops: 0000 [#1] SMP" and "RIP" in found["kernel"].text
    after.look_back()
    assert len(due(tmp_path)) == 2


def test_pstore_is_kept_and_emptied(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "pstore"
    place.mkdir()
    (place / "dmesg-ramoops-0").write_text("Panic#1\n<4>[   12.3] Kernel panic - not syncing: test\n")
    (place / "console-ramoops-0").write_text("not a record of its own")
    monkeypatch.setattr(kernel.leftovers, "__defaults__", ((place,),))
    crashes(tmp_path, clock).look_back()
    (one,) = due(tmp_path)
    assert one.summary == "Kernel panic - not syncing: test"
    assert [path.name for path in place.iterdir()] == ["console-ramoops-0"]


def test_a_kernels_fault_is_told_once_a_boot(tmp_path: Path, clock: Clock) -> None:
    watch = crashes(tmp_path, clock)
    (tmp_path / "kmsg").write_bytes(b"3,9,1000000,-;Out of memory: Killed process 7 (x)\n")
    watch.look_at_kernel()
    watch.look_at_kernel()
    assert [(one.kind, one.count) for one in due(tmp_path)] == [("kernel", 1)]


def test_what_is_no_fault_of_the_kernels_is_not_told() -> None:
    quiet = ["eth0: link up", "random: crng init done", "audit: rate limit"]
    assert reports.of_kernel(quiet, boot="b", redaction=CLEAN, versions={}, at=NOW) == ()


def test_a_child_that_ends_by_itself_is_told(tmp_path: Path, clock: Clock) -> None:
    watch = crashes(tmp_path, clock)
    child = subprocess.Popen(["sleep", "60"])
    (tmp_path / "charon.pid").write_text(str(child.pid))
    (tmp_path / "charon.log").write_text("2026-11-22T11:59:59 01[DMN] thread got signal 11\n")
    watch.look_at_children()
    assert due(tmp_path) == ()
    child.kill()
    while Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "Z":
        pass
    watch.look_at_children()  # nobody has reaped it yet
    child.wait()
    watch.look_at_children()
    (one,) = due(tmp_path)
    assert (one.kind, one.process) == ("child", "charon") and "signal 11" in one.text
    assert Child("x", tmp_path / "x.pid", tmp_path / "x.log").pid is None


def test_uncaught_exceptions_are_told_and_explain_the_end(tmp_path: Path, clock: Clock) -> None:
    watch = crashes(tmp_path, clock)
    watch.start()
    thread = threading.Thread(target=_broken, args=("x",), name="modem")
    thread.start()
    thread.join()
    assert [(one.kind, one.process) for one in due(tmp_path)] == [("exception", "modem")]
    error = fault("y")
    sys.excepthook(type(error), error, error.__traceback__)
    assert {one.process for one in due(tmp_path)} == {"modem", "kyoten-agent"}
    assert RunningMark(tmp_path).left_behind() is None, "it is told again as a kill"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"boot": 1}', b'{"boot":"b","pid":"x","started_at":"y"}', b"\xff"]
)
def test_a_damaged_mark_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "running.json").write_bytes(content)
    assert RunningMark(tmp_path).left_behind() is None
    RunningMark(tmp_path).set(Mark("b", 1, NOW))
    assert RunningMark(tmp_path).left_behind() == Mark("b", 1, NOW)


def test_a_damaged_report_is_dropped_and_a_full_disk_kills_nobody(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "crashes").mkdir()
    (tmp_path / "crashes" / "bad.json").write_text("{")
    assert due(tmp_path) == () and list((tmp_path / "crashes").iterdir()) == []
    (tmp_path / "crashes").rmdir()
    (tmp_path / "crashes").write_text("a file where the directory should be")
    crashes(tmp_path, clock).exception(fault(), "tick")


def test_reports_reach_the_cloud_once(tmp_path: Path, clock: Clock) -> None:
    watch, cloud = crashes(tmp_path, clock), MemoryCloud()
    watch.exception(fault(), "tick")
    sender = Sender(watch, watch._store, clock=clock)
    cloud.fails = unreachable
    with pytest.raises(CloudUnreachableError):
        sender.step(cloud, WAY)  # type: ignore[arg-type]
    cloud.fails = lambda _: None
    for _ in range(3):
        sender.step(cloud, WAY)  # type: ignore[arg-type]
    assert [(path, body["kind"]) for path, body in cloud.posts] == [("/agent/v1/crashes", "exception")]


def test_a_report_is_bounded() -> None:
    long = reports.of_end("child", "x", "y", ["z" * 1000] * 1000, once="1", redaction=CLEAN, versions={}, at=NOW)
    assert len(json.dumps(long.document())) < 20_000
