"""The log of a disk's writes, and the disk as a power cut leaves it."""

import random
from pathlib import Path

import pytest

from lab.power_cut.disk import BLOCK_BYTES, Disk, copy_part
from lab.power_cut.write_log import Flag, LogError, WriteLog, written

NOTHING = Flag(0)
BLOCKS = 8

Entry = tuple[int, bytes | int, Flag]


def block(letter: str, count: int = 1) -> bytes:
    return letter.encode() * BLOCK_BYTES * count


def log_of(directory: Path, *entries: Entry, cut_bytes: int = 0) -> WriteLog:
    path = directory / "log"
    content = written(entries)
    path.write_bytes(content[: len(content) - cut_bytes] if cut_bytes else content + bytes(4096))
    return WriteLog(path)


def disk_of(directory: Path, content: bytes = b"") -> Disk:
    path = directory / "image"
    path.write_bytes(content.ljust(BLOCKS * BLOCK_BYTES, b"\0"))
    return Disk(path)


def letters(disk: Disk) -> str:
    """The first of each block."""
    return "".join(chr(disk.read(at * BLOCK_BYTES, 1)[0] or ord("-")) for at in range(BLOCKS))


def test_a_log_is_read_back(tmp_path: Path) -> None:
    entries: tuple[Entry, ...] = (
        (512, b"a" * 1024, NOTHING),
        (0, b"", Flag.FLUSH),
        (4096, 4096, Flag.DISCARD),
        (8192, b"b" * 512, Flag.FUA),
    )
    with log_of(tmp_path, *entries) as log:
        found = [(request.offset, request.size, request.flags, log.data(request)) for request in log.requests]
        assert found == [
            (512, 1024, NOTHING, b"a" * 1024),
            (0, 0, Flag.FLUSH, b""),
            (4096, 4096, Flag.DISCARD, bytes(4096)),
            (8192, 512, Flag.FUA, b"b" * 512),
        ]
        assert log.flushes == (2,)
        assert log.head(log.requests[0], 1000, 100) == b"a" * 24


def test_a_log_that_was_cut_ends_before_its_torn_entry(tmp_path: Path) -> None:
    entry: Entry = (0, b"a" * 512, NOTHING)
    assert len(log_of(tmp_path, entry, entry, cut_bytes=100).requests) == 1


@pytest.mark.parametrize("content", [b"", b"x" * 4096, bytes(4096)])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(LogError):
        WriteLog(path)


def test_a_disk_is_what_was_written(tmp_path: Path) -> None:
    log = log_of(tmp_path, (BLOCK_BYTES - 512, b"n" * 1024, NOTHING), (8192, 4096, Flag.DISCARD))
    with disk_of(tmp_path, bytes(BLOCK_BYTES) + block("o", 2)) as disk:
        disk.apply(log, 0, 2)
        wanted = bytes(BLOCK_BYTES - 512) + b"n" * 1024 + b"o" * (BLOCK_BYTES - 512) + bytes(BLOCK_BYTES)
        assert disk.read(0, 3 * BLOCK_BYTES) == wanted
        assert disk.take_changed() == {0, 1, 2}
        assert disk.take_changed() == set()
        disk.save(tmp_path / "part", BLOCK_BYTES, BLOCK_BYTES)
        assert (tmp_path / "part").read_bytes() == wanted[BLOCK_BYTES : 2 * BLOCK_BYTES]


def test_a_copy_has_the_same_bytes_and_the_same_holes(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(40 << 20)
        file.write(block("x"))
    with Disk.copy_of(sparse, tmp_path / "copy") as copied:
        assert copied.read(40 << 20, BLOCK_BYTES) == block("x")
    assert (tmp_path / "copy").stat().st_size == 64 << 20
    assert (tmp_path / "copy").stat().st_blocks <= sparse.stat().st_blocks
    copy_part(sparse, tmp_path / "part", (40 << 20) + 512, 8192)
    assert (tmp_path / "part").read_bytes() == (b"x" * (BLOCK_BYTES - 512)).ljust(8192, b"\0")


def test_unflushed_blocks_are_there_or_not_each_by_itself_and_gone_again(tmp_path: Path) -> None:
    log = log_of(tmp_path, (0, block("x", 4), NOTHING), (0, block("y"), NOTHING))
    seen = set()
    with disk_of(tmp_path, block("o", 2)) as disk:
        for seed in range(200):
            with disk.cut(log, 0, 2, random.Random(seed), 0.5):
                seen.add(letters(disk)[:4])
            assert letters(disk) == "oo------"
        assert disk.take_changed() == {0, 1, 2, 3}
    assert {"oo--", "xxxx", "yxxx", "yo--", "xox-"} <= seen
    assert len(seen) == 3 * 2 * 2 * 2


def test_all_none_and_forced_ones(tmp_path: Path) -> None:
    log = log_of(tmp_path, (0, block("f"), Flag.FUA), (BLOCK_BYTES, block("p"), NOTHING))
    with disk_of(tmp_path) as disk:
        for share, wanted in ((0.0, "f-"), (1.0, "fp")):
            with disk.cut(log, 0, 2, random.Random(1), share):
                assert letters(disk)[:2] == wanted
