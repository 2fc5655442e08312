"""Which lines a range and a unit have, what fits, what is struck out; new lines as they come."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from router_agent.logs import units
from router_agent.logs.kernel import KernelLog
from router_agent.logs.pack import Logs, Range
from router_agent.logs.redaction import STRUCK, Redaction
from router_agent.logs.tails import Tails
from router_agent.logs.units import UNITS, Places

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SECRET = "hunter2hunter2"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    state, runtime = tmp_path / "state", tmp_path / "run"
    (state / "update").mkdir(parents=True)
    runtime.mkdir()
    (state / "agent.log.1").write_text("2026-11-22T08:00:00Z INFO router_agent.daemon: old\n")
    (state / "agent.log").write_text(
        "2026-11-22T09:00:00Z INFO router_agent.daemon: begun\n"
        "2026-11-22T09:30:00Z INFO router_agent.modem.modem: dialling\n"
        "2026-11-22T10:00:00Z INFO router_agent.update.driver: offered\n"
        f"2026-11-22T10:30:00Z INFO router_agent.daemon: password={SECRET}\n"
    )
    (state / "kept").mkdir()
    (state / "kept" / "ike.log").write_text("2026-11-22T09:15:00 01[IKE] up\n  and more of it\n")
    (state / "kept" / "modem.log").write_text("2026-11-22T11:59:00 rcvd [LCP ConfReq]\n")
    (state / "update" / "step.log").write_text("2026-11-22T10:10:00Z fetching\n")
    return Places(state, runtime)


def logs(places: Places, *, kernel: list[str] | None = None, secrets: tuple[str, ...] = ()) -> Logs:
    def read() -> list[str]:
        if kernel is None:
            raise PermissionError(1, "Operation not permitted")
        return kernel

    return Logs("tokyo-1", places, read, lambda: Redaction(secrets))


def packed(places: Places, wanted: Range, limit: int = 100_000, **more: object) -> list[str]:
    target = places.state / "a.gz"
    logs(places, **more).pack(target, wanted, limit, now=NOW)  # type: ignore[arg-type]
    return gzip.decompress(target.read_bytes()).decode().splitlines()


def bodies(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("#")]


def test_units_are_merged_by_time_and_none_is_there_twice(places: Places) -> None:
    lines = bodies(packed(places, Range((), None, None, 0), kernel=["2026-11-22T09:20:00 usb 1-1: new"]))
    stamped = [line for line in lines if "ConfReq" not in line]
    assert [line.split("|")[0] for line in stamped] == [
        "agent", "agent", "ike", "ike", "kernel", "agent", "agent", "update", "agent",
    ]  # fmt: skip
    assert sum("dialling" in line for line in lines) == 1
    assert stamped[3].endswith("  and more of it"), "a line without a time belongs to the one before it"


def test_a_unit_has_its_own_lines_only(places: Places) -> None:
    assert [line.split(": ")[-1] for line in bodies(packed(places, Range(("modem",), None, None, 0)))] == [
        "dialling", "modem| 2026-11-22T11:59:00 rcvd [LCP ConfReq]",
    ]  # fmt: skip
    assert len(bodies(packed(places, Range(("update",), None, None, 0)))) == 2
    assert bodies(packed(places, Range(("weather",), None, None, 0))) == []


def test_a_range_is_in_utc_and_may_come_with_another_zone(places: Places) -> None:
    since = datetime.fromisoformat("2026-11-22T18:00:00+09:00")
    until = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
    lines = packed(places, Range(("agent",), since, until, 0))
    assert [line.split(": ")[-1] for line in bodies(lines)] == ["begun", "dialling"]
    assert lines[0] == "# site tokyo-1; 2026-11-22T09:00:00Z to 2026-11-22T09:30:00Z; 2 lines of agent"


def test_the_newest_lines_count_and_what_is_left_out_is_said(places: Places) -> None:
    lines = packed(places, Range(("agent",), None, None, 2))
    assert [line.split(": ")[-1] for line in bodies(lines)] == ["offered", f"password={STRUCK}"]
    assert not any("left out" in line for line in lines), "what nobody asked for is not missing"
    dense = [f"2026-11-22T11:{n // 60:02}:{n % 60:02} {n * 7919:032x}" for n in range(3000)]
    found = packed(places, Range(("kernel",), None, None, 0), limit=20_000, kernel=dense)
    assert found[-1].endswith(dense[-1]) and len(bodies(found)) < 3000
    assert f"# {3000 - len(bodies(found))} older lines are left out" in found[1]
    assert (places.state / "a.gz").stat().st_size <= 20_000


def test_a_log_that_cannot_be_read_is_said(places: Places) -> None:
    assert "# kernel: cannot be read here: Operation not permitted" in packed(places, Range(("kernel",), None, None, 0))


def test_two_packs_of_one_range_are_the_same_bytes(places: Places) -> None:
    first, second = (
        logs(places).pack(places.state / name, Range(("ike",), None, None, 0), 9_999, now=NOW) for name in ("a", "b")
    )
    assert first == second


@pytest.mark.parametrize(
    ("line", "gone"),
    [
        ("AT+CPIN=\"1234\"", "1234"),
        ("rcvd password=hunter2 ok", "hunter2"),
        ('{"password": "hunter2", "user": "x"}', "hunter2"),
        ("Authorization: KyotenDevice " + "ab" * 32, "ab" * 32),
        ("token: s3cr3t", "s3cr3t"),
        ("key is " + "0f" * 32, "0f" * 32),
        ("-----BEGIN PRIVATE KEY-----MIGH", "MIGH"),
        (f"the network wants {SECRET} now", SECRET),
    ],
)  # fmt: skip
def test_what_is_secret_is_struck_out(line: str, gone: str) -> None:
    shown = Redaction((SECRET, "1234")).line(line)
    assert gone not in shown and STRUCK in shown


def test_what_is_not_secret_stays() -> None:
    for line in ("2026-11-22T10:00:00Z INFO x: pinned 4 keys", "spin=3 rpm", "sha256 " + "ab" * 16, "port 1234 open"):
        assert Redaction(("1234",)).line(line) == line
    key = "-----BEGIN EC PRIVATE KEY-----\nMIGH\n-----END EC PRIVATE KEY-----"
    assert "MIGH" not in Redaction().text(f"before\n{key}\nafter") and "after" in Redaction().text(f"{key}\nafter")


def test_new_lines_come_once_also_when_a_log_is_turned_over(places: Places) -> None:
    tails = Tails(("agent", "ike"), places, lambda: Redaction((SECRET,)))
    assert tails.new() == []
    log = places.state / "agent.log"
    with log.open("a") as stream:
        stream.write("2026-11-22T11:00:00Z INFO x: one\n2026-11-22T11:00:01Z INFO x: tw")
    assert tails.new() == ["agent| 2026-11-22T11:00:00Z INFO x: one\n"]
    with log.open("a") as stream:
        stream.write(f"o {SECRET}\n")
    log.rename(places.state / "agent.log.1")
    log.write_text("2026-11-22T11:00:02Z INFO x: three\n")
    (places.runtime / "charon.log").write_text("2026-11-22T11:00:01 01[IKE] anew\n")  # begun anew in its place
    assert tails.new() == [
        f"agent| 2026-11-22T11:00:01Z INFO x: two {STRUCK}\n",
        "ike| 2026-11-22T11:00:01 01[IKE] anew\n",
        "agent| 2026-11-22T11:00:02Z INFO x: three\n",
    ]
    tails.close()


def test_the_kernels_records_get_their_time(tmp_path: Path) -> None:
    kmsg = tmp_path / "kmsg"
    kmsg.write_bytes(b"6,1,1000000,-;usb 1-1: new\n")
    (line,) = KernelLog(None, kmsg=kmsg, journals=()).lines()  # type: ignore[arg-type]
    assert line.endswith(" usb 1-1: new") and datetime.fromisoformat(line[:19])
    with pytest.raises(FileNotFoundError):
        KernelLog(None, kmsg=tmp_path / "none", journals=()).lines()  # type: ignore[arg-type]


def test_units_are_those_that_the_cloud_names() -> None:
    from cloudside.registry import log_pulls

    assert UNITS == log_pulls.UNITS
    assert units.wanted(()) == UNITS
