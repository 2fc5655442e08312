"""A log goes on where the line broke off: after a lost answer, a restart, on another line; and only while wanted."""

import gzip
import json
import random
import string
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from request_cloud import WAY, MemoryCloud, unreachable

from router_agent.errors import CloudRefusedError, CloudUnreachableError
from router_agent.logs import pulls as module
from router_agent.logs.pack import Logs
from router_agent.logs.pulls import Pulls
from router_agent.logs.redaction import Redaction
from router_agent.logs.tails import Tails
from router_agent.logs.units import Places
from router_agent.report.requests import LogPull

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PULL = LogPull("a" * 32, ("agent",), None, None, 0, False, 0, 1_000_000, 100_000, 10_000)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def state(tmp_path: Path) -> Path:
    dice = random.Random(1)
    lines = [
        f"2026-11-22T{8 + n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}Z INFO x: "
        + "".join(dice.choices(string.ascii_letters + string.digits, k=100))
        for n in range(4000)
    ]
    (tmp_path / "agent.log").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


@pytest.fixture
def made(state: Path) -> Callable[[], Pulls]:
    clock = Clock()

    def make() -> Pulls:
        places = Places(state, state)
        logs = Logs("tokyo-1", places, list, Redaction)
        made = Pulls(
            state / "logs", logs, lambda units: Tails(units, places, Redaction), clock=lambda: NOW, monotonic=clock
        )
        made.test_clock = clock  # type: ignore[attr-defined]
        return made

    return make


def step(pulls: Pulls, cloud: MemoryCloud) -> float | None:
    return pulls.step(cloud, WAY)  # type: ignore[arg-type]


def pass_time(pulls: Pulls, seconds: float) -> None:
    pulls.test_clock.now += seconds  # type: ignore[attr-defined]


def finish(pulls: Pulls, cloud: MemoryCloud, *, most: int = 60) -> int:
    for number in range(most):
        wait_s = step(pulls, cloud)
        if wait_s is None:
            return number + 1
        pass_time(pulls, wait_s)
    raise AssertionError("it does not end")


def test_a_log_comes_in_pieces_and_leaves_nothing_behind(state: Path, made: Callable[[], Pulls]) -> None:
    pulls, cloud = made(), MemoryCloud()
    assert pulls.want((PULL,), mobile=False)
    assert finish(pulls, cloud) >= 3
    text = gzip.decompress(cloud.pulls[PULL.id]).decode()
    assert text.count("\n") == 4001 and text.startswith("# site tokyo-1")
    assert list((state / "logs").iterdir()) == []
    assert step(pulls, cloud) is None, "a pull that is over is served again"


def test_a_broken_line_and_a_lost_answer_cost_no_piece_twice(made: Callable[[], Pulls]) -> None:
    pulls, cloud = made(), MemoryCloud()
    pulls.want((PULL,), mobile=False)
    step(pulls, cloud)
    cloud.fails = unreachable
    for _ in range(3):
        with pytest.raises(CloudUnreachableError):
            step(pulls, cloud)
    cloud.fails = lambda _: None
    cloud.lose_answers = 1
    with pytest.raises(CloudUnreachableError):
        step(pulls, cloud)
    finish(pulls, cloud)
    size = len(cloud.pulls[PULL.id])
    assert gzip.decompress(cloud.pulls[PULL.id]).count(b"\n") == 4001
    # The piece whose answer was lost travels again, and no other.
    assert cloud.travelled - size <= module.PIECE_BYTES


def test_after_a_restart_it_goes_on_where_the_cloud_says(state: Path, made: Callable[[], Pulls]) -> None:
    first, cloud = made(), MemoryCloud()
    first.want((PULL,), mobile=False)
    step(first, cloud)
    received = len(cloud.pulls[PULL.id])
    assert received > 0
    with (state / "agent.log").open("a") as stream:  # the log goes on meanwhile: what was packed stays as it is
        stream.write("2026-11-22T11:59:00Z INFO x: later\n")
    second = made()
    second.want((replace(PULL, received=received),), mobile=False)
    finish(second, cloud)
    assert cloud.travelled == len(cloud.pulls[PULL.id]), "what was there travelled again"
    assert b"later" not in gzip.decompress(cloud.pulls[PULL.id])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_pack_that_is_damaged_is_made_anew(state: Path, made: Callable[[], Pulls], damage: str) -> None:
    first, cloud = made(), MemoryCloud()
    first.want((PULL,), mobile=False)
    step(first, cloud)
    path = state / "logs" / f"{PULL.id}.gz"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(
            content[:-9] if damage == "truncated" else content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        )
    with (state / "agent.log").open("a") as stream:
        stream.write("2026-11-22T11:59:00Z INFO x: later\n")
    second = made()
    second.want((replace(PULL, received=len(cloud.pulls[PULL.id])),), mobile=False)
    finish(second, cloud)
    assert gzip.decompress(cloud.pulls[PULL.id]).count(b"\n") == 4002


def test_on_a_mobile_line_it_is_small_and_slow(made: Callable[[], Pulls]) -> None:
    pulls, cloud = made(), MemoryCloud()
    pulls.want((PULL,), mobile=True)
    wait_s = step(pulls, cloud)
    assert wait_s == pytest.approx(module.MOBILE_PIECE_BYTES / 10_000)
    assert step(pulls, cloud) is not None and len(cloud.pulls[PULL.id]) == module.MOBILE_PIECE_BYTES, "too fast"
    pass_time(pulls, wait_s)
    finish(pulls, cloud)
    assert len(cloud.pulls[PULL.id]) <= PULL.mobile_max_bytes
    assert b"older lines are left out" in gzip.decompress(cloud.pulls[PULL.id])


def test_what_was_packed_on_a_wire_waits_for_it(made: Callable[[], Pulls]) -> None:
    pulls, cloud = made(), MemoryCloud()
    pulls.want((PULL,), mobile=False)
    step(pulls, cloud)
    before = len(cloud.pulls[PULL.id])
    pulls.want((PULL,), mobile=True)
    for _ in range(3):
        pass_time(pulls, step(pulls, cloud) or 0)
    assert len(cloud.pulls[PULL.id]) == before
    (told,) = cloud.posts
    assert told[0].endswith("/state") and told[1]["problem"]["key"] == "agent.log-waits-for-line"
    pulls.want((PULL,), mobile=False)
    finish(pulls, cloud)


def test_what_is_not_wanted_any_more_is_dropped(state: Path, made: Callable[[], Pulls]) -> None:
    pulls, cloud = made(), MemoryCloud()
    pulls.want((PULL,), mobile=False)
    step(pulls, cloud)
    assert pulls.want((), mobile=False), "there is something to clear away"
    assert step(pulls, cloud) is None
    assert list((state / "logs").iterdir()) == []
    assert not pulls.want((), mobile=False)


def test_a_refusal_ends_it(made: Callable[[], Pulls]) -> None:
    pulls, cloud = made(), MemoryCloud()

    def refuse(_: str) -> None:
        raise CloudRefusedError("agent.cloud-refused", endpoint="x", status=422)

    cloud.fails = refuse
    pulls.want((PULL,), mobile=False)
    assert step(pulls, cloud) is None
    cloud.fails = lambda _: None
    assert step(pulls, cloud) is None and not cloud.pulls


def test_a_full_disk_is_told_and_tried_again(state: Path, made: Callable[[], Pulls]) -> None:
    (state / "logs").write_text("a file where the directory should be")
    pulls, cloud = made(), MemoryCloud()
    pulls.want((PULL,), mobile=False)
    wait_s = step(pulls, cloud)
    assert wait_s is not None and cloud.posts[0][1]["problem"]["key"] == "agent.log-not-packed"
    (state / "logs").unlink()
    pass_time(pulls, wait_s)
    finish(pulls, cloud)


def test_a_log_is_followed_while_it_is_wanted(state: Path, made: Callable[[], Pulls]) -> None:
    pulls, cloud = made(), MemoryCloud()
    pull = replace(PULL, follow=True, lines=3)
    pulls.want((pull,), mobile=False)
    pass_time(pulls, step(pulls, cloud) or 0)
    members = [bytes(cloud.pulls[pull.id])]
    assert gzip.decompress(members[0]).count(b"\n") == 4, "a head and the newest three lines"
    pass_time(pulls, step(pulls, cloud) or 0)
    assert bytes(cloud.pulls[pull.id]) == members[0], "a piece without a line"
    with (state / "agent.log").open("a") as stream:
        stream.write("2026-11-22T12:00:01Z INFO x: fresh\n")
    cloud.lose_answers = 1
    with pytest.raises(CloudUnreachableError):
        step(pulls, cloud)
    pass_time(pulls, step(pulls, cloud) or 0)
    assert gzip.decompress(cloud.pulls[pull.id][len(members[0]) :]) == b"agent| 2026-11-22T12:00:01Z INFO x: fresh\n"
    cloud.unwanted.add(pull.id)
    with (state / "agent.log").open("a") as stream:
        stream.write("2026-11-22T12:00:02Z INFO x: last\n")
    assert step(pulls, cloud) is None


def test_a_followed_log_ends_at_its_limit(state: Path, made: Callable[[], Pulls]) -> None:
    pulls, cloud = made(), MemoryCloud()
    pulls.want((replace(PULL, follow=True, max_bytes=10),), mobile=False)
    assert step(pulls, cloud) is None
    assert cloud.posts[0][1] == {
        "state": "failed",
        "problem": {"key": "agent.log-follow-limit", "params": {"size": 0, "most": 10}},
    }


def test_a_followed_log_goes_on_after_a_restart(state: Path, made: Callable[[], Pulls]) -> None:
    first, cloud = made(), MemoryCloud()
    pull = replace(PULL, follow=True)
    first.want((pull,), mobile=False)
    step(first, cloud)
    size = len(cloud.pulls[pull.id])
    told = json.loads((state / "logs" / f"{pull.id}.json").read_text())
    assert datetime.fromisoformat(told["followed"]) == NOW
    with (state / "agent.log").open("a") as stream:
        stream.write("2026-11-22T12:00:00Z INFO x: between\n")
    second = made()
    second.want((replace(pull, received=size),), mobile=False)
    step(second, cloud)
    assert b"between" in gzip.decompress(cloud.pulls[pull.id][size:])
