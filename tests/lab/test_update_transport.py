"""A payload over 384/64 kbit/s with losses, drops and new addresses, kills at random moments, a full disk.

Time is compressed: the payload is small and so are its chunks, by the same factor.
"""

import random
import subprocess
import time
import zlib
from collections.abc import Iterator

import pytest

from lab.bad_line import BadLine
from lab.network import wait_until

#: A hundredth of a full image, in chunks a sixteenth of the real ones.
SIZE_BYTES = 900_000
CHUNK_BYTES = 16 * 1024
#: One connection's beginning, which comes with every drop: TLS's certificates.
HANDSHAKE_BYTES = 4000


@pytest.fixture
def line(request: pytest.FixtureRequest) -> Iterator[BadLine]:
    made = BadLine(
        f"l{zlib.crc32(request.node.name.encode())}", random.Random(1).randbytes(SIZE_BYTES), chunk_bytes=CHUNK_BYTES
    )
    try:
        yield made
    finally:
        made.close()


def finish(line: BadLine, timeout_s: float) -> None:
    wait_until("the payload", lambda: "finished" in (line.said() or [{}])[-1], timeout_s=timeout_s)
    assert line.fetched() == line.content


def progress(line: BadLine, to_bytes: float, timeout_s: float = 90) -> None:
    wait_until(f"{to_bytes:.0f} bytes", lambda: line.done_bytes() > to_bytes, timeout_s=timeout_s)


def test_drops_with_new_addresses_cost_hardly_a_byte(line: BadLine) -> None:
    line.shape()
    line.start(silence_s=3)
    drops = 0
    for part in (0.2, 0.45, 0.7):
        progress(line, part * SIZE_BYTES)
        line.drop()
        time.sleep(1)
        line.new_address()
        drops += 1
    finish(line, 90)
    assert sum("at_s" in one for one in line.said()) > 5
    # Besides handshakes: TLS's and HTTP's own part, and packets that came twice because their answer was lost.
    assert line.came_bytes() - (drops + 1) * HANDSHAKE_BYTES < 1.02 * SIZE_BYTES


def test_a_fetcher_that_is_killed_anywhere_goes_on_and_pays_a_chunk_at_most(line: BadLine) -> None:
    rolls = random.Random(2)
    line.shape(down_kbit=4000, up_kbit=1000)
    kills = 8
    for number in range(kills):
        before = line.done_bytes()
        fetcher = line.start(silence_s=3)
        if rolls.random() < 0.3:
            time.sleep(rolls.uniform(0, 1.0))
        else:
            progress(line, min(before + 10_000, SIZE_BYTES - 1), 60)
            time.sleep(rolls.uniform(0, 0.1))
        fetcher.kill()
        assert line.done_bytes() >= before - CHUNK_BYTES, f"kill {number} lost what was on the disk"
    line.start(silence_s=3)
    finish(line, 60)
    # A chunk and what lay in the socket.
    most = SIZE_BYTES * 1.02 + (kills + 1) * HANDSHAKE_BYTES + kills * (CHUNK_BYTES + 128 * 1024)
    assert line.came_bytes() < most


def test_a_line_that_is_not_there_at_first_and_a_cloud_that_restarts(line: BadLine) -> None:
    line.shape(down_kbit=2000, up_kbit=500)
    line.drop()
    line.start(silence_s=2)
    time.sleep(2)
    line.new_address()
    progress(line, 100_000)
    server = line.cloud.processes["server"]
    server.kill()
    line.serve()
    finish(line, 90)


def test_a_polite_rate_is_what_the_line_carries(line: BadLine) -> None:
    line.start(rate_bytes_s=100_000, receive_buffer_bytes=32_000)
    began = time.monotonic()
    progress(line, 0)
    at, came = time.monotonic(), line.came_bytes()
    finish(line, 60)
    # Never faster than asked for; how slow, on a busy machine, is not for this test.
    assert (line.came_bytes() - came) / (time.monotonic() - at) < 115_000
    assert time.monotonic() - began > 6


def test_a_disk_without_room_is_told_and_left_empty(line: BadLine) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", line.state], check=True)
    try:
        fetcher = line.start()
        wait_until("the end", lambda: not fetcher.running, timeout_s=60)
        (last,) = line.said()
        assert last["failed"] == "agent.update-no-space"
        assert list((line.state / "payload").iterdir()) == []
        assert line.came_bytes() == 0, "bytes were paid for that have no place"
    finally:
        subprocess.run(["umount", line.state], check=True)
