"""The log of a disk's writes, and the disk as a power cut leaves it."""

import random
from pathlib import Path

import pytest

from lab.mail_proof.disk import BLOCK_BYTES, Disk, apply, apply_some
from lab.mail_proof.write_log import Flag, LogError, Request, read, written

NOTHING = Flag(0)


def block(letter: str, count: int = 1) -> bytes:
    return letter.encode() * BLOCK_BYTES * count


def contents(disk: Disk, path: Path, size: int = 8 * BLOCK_BYTES, first: int = 0) -> bytes:
    disk.save(path, first, size)
    return path.read_bytes()


def test_a_log_is_read_back(tmp_path: Path) -> None:
    requests = (
        Request(512, 1024, NOTHING, b"a" * 1024),
        Request(0, 0, Flag.FLUSH, b""),
        Request(4096, 4096, Flag.DISCARD, b""),
        Request(8192, 512, Flag.FUA, b"b" * 512),
    )
    path = tmp_path / "log"
    path.write_bytes(written(requests) + bytes(4096))
    assert read(path) == requests
    assert [request.flush for request in requests] == [False, True, False, False]


def test_a_log_that_was_cut_ends_before_its_torn_entry(tmp_path: Path) -> None:
    whole = Request(0, 512, NOTHING, b"a" * 512)
    path = tmp_path / "log"
    path.write_bytes(written((whole, whole))[:-100])
    assert read(path) == (whole,)


@pytest.mark.parametrize("content", [b"", b"x" * 4096, bytes(4096)])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(LogError):
        read(path)


def test_a_disk_is_what_was_written(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(BLOCK_BYTES) + block("o", 2))
    disk = Disk.of(image)
    before = disk.copy()
    apply(disk, [Request(BLOCK_BYTES - 512, 1024, NOTHING, b"n" * 1024), Request(8192, 4096, Flag.DISCARD, b"")])
    assert contents(before, tmp_path / "before", 3 * BLOCK_BYTES) == image.read_bytes()
    wanted = bytes(BLOCK_BYTES - 512) + b"n" * 1024 + b"o" * (BLOCK_BYTES - 512) + bytes(BLOCK_BYTES)
    assert contents(disk, tmp_path / "after", 3 * BLOCK_BYTES) == wanted
    assert contents(disk, tmp_path / "part", BLOCK_BYTES, first=BLOCK_BYTES) == wanted[BLOCK_BYTES : 2 * BLOCK_BYTES]


def test_unflushed_blocks_are_there_or_not_each_by_itself(tmp_path: Path) -> None:
    requests = [Request(0, 4 * BLOCK_BYTES, NOTHING, block("x", 4)), Request(0, BLOCK_BYTES, NOTHING, block("y"))]
    seen = set()
    for seed in range(200):
        disk = Disk()
        apply_some(disk, requests, random.Random(seed), 0.5)
        found = contents(disk, tmp_path / "image", 4 * BLOCK_BYTES)
        seen.add("".join(chr(found[at * BLOCK_BYTES] or ord("-")) for at in range(4)))
    assert {"----", "xxxx", "yxxx", "y---", "x--x"} <= seen
    assert len(seen) == 3 * 2 * 2 * 2


def test_all_none_and_forced_ones(tmp_path: Path) -> None:
    forced = Request(0, BLOCK_BYTES, Flag.FUA, block("f"))
    plain = Request(BLOCK_BYTES, BLOCK_BYTES, NOTHING, block("p"))
    for share, wanted in ((0.0, block("f") + bytes(BLOCK_BYTES)), (1.0, block("f") + block("p"))):
        disk = Disk()
        apply_some(disk, [forced, plain], random.Random(1), share)
        assert contents(disk, tmp_path / "image", 2 * BLOCK_BYTES) == wanted
