"""A payload over a line that breaks, from a cloud that cheats: what is right is kept, and nothing is paid for twice."""

import random
from pathlib import Path

import pytest
from payload_cloud import Clock, PayloadCloud

from firmware import chunks
from firmware.release import File
from router_agent.errors import CloudRefusedError, CloudUnreachableError, StateError
from router_agent.update import fetch as fetching
from router_agent.update.fetch import PATIENCE_S, ChunkWrongError, TokenBucket
from router_agent.update.payload_journal import Payload
from router_agent.update.work import Progress

CHUNK = 4096
CONTENT = random.Random(2).randbytes(40 * CHUNK + 100)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cloud(clock: Clock) -> PayloadCloud:
    return PayloadCloud(CONTENT, clock)


@pytest.fixture
def file(tmp_path: Path) -> File:
    (tmp_path / "described").write_bytes(CONTENT)
    return chunks.describe(tmp_path / "described", suffix=".zst", chunk_bytes=CHUNK)


def fetch(
    file: File, cloud: PayloadCloud, tmp_path: Path, reports: list[Progress] | None = None, rate_bytes_s: float = 0
) -> Payload:
    return fetching.fetch(
        file,
        cloud,
        tmp_path,
        now=cloud.clock.now,
        sleep=cloud.clock.sleep,
        report=(reports if reports is not None else []).append,
        rate_bytes_s=rate_bytes_s,
        roll=lambda: 0.5,
    )


def content_of(tmp_path: Path, file: File) -> bytes:
    return (tmp_path / "payload" / file.name).read_bytes()


def test_a_payload_comes_whole_and_once(tmp_path: Path, file: File, cloud: PayloadCloud) -> None:
    reports: list[Progress] = []
    assert fetch(file, cloud, tmp_path, reports).is_complete
    assert content_of(tmp_path, file) == CONTENT
    assert cloud.sent == len(CONTENT)
    assert reports[0] == Progress(0, len(CONTENT), 0)
    assert reports[-1] == Progress(len(CONTENT), len(CONTENT), len(CONTENT))
    assert len(cloud.asked) == 3, "one round trip for 16 chunks"
    fetch(file, cloud, tmp_path)
    assert cloud.sent == len(CONTENT), "what is there was fetched again"


def test_a_line_that_breaks_everywhere_costs_no_byte(tmp_path: Path, file: File, cloud: PayloadCloud) -> None:
    rolls = random.Random(5)
    cloud.break_after = [rolls.randrange(3 * CHUNK) for _ in range(25)]
    fetch(file, cloud, tmp_path)
    assert content_of(tmp_path, file) == CONTENT
    assert cloud.sent == len(CONTENT)
    assert cloud.break_after == []


def test_a_restart_costs_the_chunk_under_way_at_most(tmp_path: Path, file: File, cloud: PayloadCloud) -> None:
    class KilledError(Exception):
        pass

    killed_at = 10 * CHUNK + 3000

    def kill(offset: int, piece: bytes) -> bytes:
        if offset + len(piece) > killed_at:
            raise KilledError
        return piece

    cloud.cheat = kill
    with pytest.raises(KilledError):
        fetch(file, cloud, tmp_path)
    cloud.cheat = lambda _offset, piece: piece
    fetch(file, cloud, tmp_path)
    assert content_of(tmp_path, file) == CONTENT
    assert cloud.sent <= len(CONTENT) + CHUNK + cloud.piece_bytes


@pytest.mark.parametrize("way", ["flipped", "another chunk", "zeros"])
def test_a_wrong_chunk_alone_is_fetched_again(tmp_path: Path, file: File, cloud: PayloadCloud, way: str) -> None:
    left = [2]

    def once(offset: int, piece: bytes) -> bytes:
        if offset == 7 * CHUNK and left[0]:
            left[0] -= 1
            if way == "flipped":
                return bytes((piece[0] ^ 1,)) + piece[1:]
            return CONTENT[: len(piece)] if way == "another chunk" else bytes(len(piece))
        return piece

    cloud.cheat = once
    fetch(file, cloud, tmp_path)
    assert content_of(tmp_path, file) == CONTENT
    assert cloud.sent == len(CONTENT) + 2 * CHUNK
    assert cloud.passed_over == 2, "another endpoint may have a better copy"


def test_a_chunk_that_is_always_wrong_is_named_and_the_others_stay(
    tmp_path: Path, file: File, cloud: PayloadCloud
) -> None:
    cloud.cheat = lambda offset, piece: bytes(len(piece)) if offset // CHUNK == 20 else piece
    with pytest.raises(ChunkWrongError) as wrong:
        fetch(file, cloud, tmp_path)
    assert wrong.value.params == {"file": file.name, "chunk": 20, "times": 3}
    assert cloud.sent <= len(CONTENT) + 2 * CHUNK
    cloud.cheat = lambda _offset, piece: piece
    before = cloud.sent
    fetch(file, cloud, tmp_path)
    assert content_of(tmp_path, file) == CONTENT
    assert cloud.sent - before <= 10 * CHUNK, "what was right came again"


def test_a_cloud_that_cheats_anyhow_never_gets_a_wrong_byte_in(tmp_path: Path, file: File, cloud: PayloadCloud) -> None:
    rolls = random.Random(9)
    for _ in range(20):
        cloud.cheat = lambda _offset, piece: rolls.choice((piece, piece, piece, piece[::-1], CONTENT[: len(piece)]))
        try:
            fetch(file, cloud, tmp_path)
        except ChunkWrongError:
            continue
        break
    payload = fetch(file, PayloadCloud(CONTENT, cloud.clock), tmp_path)
    assert payload.is_complete
    assert content_of(tmp_path, file) == CONTENT


def test_a_no_is_believed_the_third_time_and_somebody_else_is_asked_before(
    tmp_path: Path, file: File, cloud: PayloadCloud
) -> None:
    cloud.refuse = 2
    fetch(file, cloud, tmp_path)
    assert cloud.passed_over == 2
    cloud.refuse = 100
    (tmp_path / "payload" / file.name).unlink()
    with pytest.raises(CloudRefusedError):
        fetch(file, cloud, tmp_path)
    assert cloud.refuse == 97


def test_a_dead_line_is_tried_for_half_an_hour_ever_more_seldom(
    tmp_path: Path, file: File, cloud: PayloadCloud, clock: Clock
) -> None:
    cloud.dead = True
    with pytest.raises(CloudUnreachableError):
        fetch(file, cloud, tmp_path)
    assert PATIENCE_S < clock.now_s - 1000 < PATIENCE_S + 120
    assert max(clock.slept) > 10 * clock.slept[0]


def test_a_busy_cloud_is_left_alone_for_as_long_as_it_asks(
    tmp_path: Path, file: File, cloud: PayloadCloud, clock: Clock
) -> None:
    cloud.busy = [100.0]
    fetch(file, cloud, tmp_path)
    assert clock.slept == [100.0]


def test_a_polite_rate_holds(tmp_path: Path, file: File, cloud: PayloadCloud, clock: Clock) -> None:
    fetch(file, cloud, tmp_path, rate_bytes_s=10_000)
    took_s = clock.now_s - 1000
    assert len(CONTENT) / 10_000 - 2 < took_s < len(CONTENT) / 10_000 + 2


def test_the_bucket_lets_a_second_ahead_and_forgets_idle_hours() -> None:
    bucket = TokenBucket(1000)
    assert bucket.wait_s(1000, 5000.0) == 1.0
    assert bucket.wait_s(1000, 9000.0) == 0.0
    assert bucket.wait_s(500, 9000.0) == 0.5
    assert TokenBucket(0).wait_s(10**9, 0.0) == 0.0


def test_a_full_disk_is_told_before_a_byte_travels(
    tmp_path: Path, file: File, cloud: PayloadCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _offset: int, _length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(StateError) as told:
        fetch(file, cloud, tmp_path)
    assert told.value.key == "agent.update-no-space"
    assert cloud.asked == []
    assert list((tmp_path / "payload").iterdir()) == []


def test_what_is_on_the_disk_is_told_without_a_cloud(tmp_path: Path, file: File, cloud: PayloadCloud) -> None:
    assert fetching.have_bytes(tmp_path, file) == 0
    fetch(file, cloud, tmp_path)
    assert fetching.have_bytes(tmp_path, file) == len(CONTENT)
