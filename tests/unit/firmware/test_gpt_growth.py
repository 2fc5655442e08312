"""The data partition on a larger disk: what sfdisk made is read, what is written sfdisk takes, no cut loses it.

A disk is a file with holes; nothing is mounted.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware import gpt, layout
from firmware.gpt import OddError, Table, Write
from firmware.image import disk as image_disk
from linux.errors import ProgramFailedError
from router_agent.growth.disk import BootDisk
from router_agent.growth.grow import grow

MIB = layout.MIB
SMALL_MIB, LARGE_MIB, LARGER_MIB = layout.DISK_MIN_MIB, 8192, 8192 + 100


class FileDisk(BootDisk):
    """A file in the place of the disk, and a kernel that knows what it was told at its start or since."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, path, mark=path.with_suffix(".mark"))
        self.path = path
        self.writes: list[Write] = []
        self.file_system = self.seen = self.start().data_sectors
        self.fails: str = ""

    def start(self) -> Table:
        """What a kernel finds at its start."""
        return gpt.read_first(self.read(0, gpt.HEAD_SECTORS))

    def write(self, write: Write) -> None:
        if self.fails == "write":
            raise OSError("the disk is gone")
        self.writes.append(write)
        super().write(write)

    def seen_sectors(self) -> int:
        return self.seen

    def show(self, table: Table) -> None:
        self.seen = table.data_sectors

    def grow_file_system(self) -> None:
        if self.fails == "file system":
            raise ProgramFailedError("resize2fs", 1, "no")
        self.file_system = self.seen

    @property
    def marked(self) -> bool:
        return self.path.with_suffix(".mark").exists()


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk as it leaves the factory, without what is in its partitions."""
    path = tmp_path_factory.mktemp("factory") / "disk.img"
    with path.open("wb") as stream:
        stream.truncate(SMALL_MIB * MIB)
    subprocess.run(
        ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", path],
        input=image_disk.table(SMALL_MIB, "test").encode(),
        check=True,
    )
    return path


@pytest.fixture
def larger(factory: Path, tmp_path: Path) -> FileDisk:
    """The same, copied to a disk of 8 GiB."""
    path = tmp_path / "disk.img"
    subprocess.run(["cp", "--sparse=always", factory, path], check=True)
    enlarge(path, LARGE_MIB)
    return FileDisk(path)


def head_of(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(gpt.HEAD_SECTORS * gpt.SECTOR_BYTES)


def enlarge(path: Path, mib: int) -> None:
    with path.open("r+b") as stream:
        stream.truncate(mib * MIB)


def listed(path: Path, *, sound: bool = True) -> dict[str, object]:
    """What sfdisk reads, and whether it finds nothing wrong: a second copy that is not at the end is."""
    checked = subprocess.run(["sfdisk", "--verify", path], capture_output=True, text=True, check=False)
    assert ("No errors detected" in checked.stdout) is sound, checked
    shown = subprocess.run(["sfdisk", "--json", path], capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(shown.stdout)["partitiontable"]
    return found


def test_a_disk_of_its_own_size_has_nothing_to_gain(factory: Path) -> None:
    table = gpt.read_first(head_of(factory))
    assert table.data_start == layout.offset_mib(layout.DATA) * MIB // gpt.SECTOR_BYTES
    assert table.data_sectors == layout.size_mib(layout.DATA, SMALL_MIB) * MIB // gpt.SECTOR_BYTES
    assert gpt.grown(table, SMALL_MIB * MIB // gpt.SECTOR_BYTES) is None


def test_the_data_partition_reaches_to_the_end_and_nothing_else_moves(larger: FileDisk) -> None:
    before = listed(larger.path, sound=False)
    made = grow(larger)
    after = listed(larger.path)
    assert made.after == larger.seen == larger.file_system
    assert made.after * gpt.SECTOR_BYTES == layout.size_mib(layout.DATA, LARGE_MIB) * MIB
    old, new = before.pop("partitions"), after.pop("partitions")
    assert isinstance(old, list)
    assert isinstance(new, list)
    assert new[:-1] == old[:-1]
    assert {**new[-1], "size": 0} == {**old[-1], "size": 0}
    assert after["id"] == before["id"]
    assert not larger.marked


def test_it_grows_again_on_a_still_larger_disk_and_then_rests(larger: FileDisk) -> None:
    grow(larger)
    first = larger.start().header.entries_at
    enlarge(larger.path, LARGER_MIB)
    grow(larger)
    listed(larger.path)
    assert larger.start().header.entries_at != first
    assert larger.seen * gpt.SECTOR_BYTES == layout.size_mib(layout.DATA, LARGER_MIB) * MIB
    larger.writes.clear()
    assert grow(larger).before == larger.seen
    assert larger.writes == []


@pytest.mark.parametrize("mib", [1, 15])
def test_a_little_is_left(factory: Path, mib: int) -> None:
    table = gpt.read_first(head_of(factory))
    assert gpt.grown(table, (SMALL_MIB + mib) * MIB // gpt.SECTOR_BYTES) is None


def test_what_the_units_look_takes_for_a_gain_is_one(factory: Path) -> None:
    script = Path(__file__).parents[3] / "images/router/root/usr/lib/kyoten/data-can-grow"
    sectors = int(re.findall(r"-ge (\d+) \]", script.read_text())[0])
    table = gpt.read_first(head_of(factory))
    assert gpt.grown(table, table.data_end + 1 + sectors) is not None
    # And it does not look at a disk that has its own size.
    assert SMALL_MIB * MIB // gpt.SECTOR_BYTES - (table.data_end + 1) < sectors


def cuts(writes: list[Write]) -> Iterator[list[Write]]:
    """What may be on the disk: all before, and of the one under way any one sector, or all but one."""
    for number, write in enumerate(writes):
        sectors = [
            Write(write.sector + place, write.content[place * 512 : (place + 1) * 512])
            for place in range(len(write.content) // 512)
        ]
        yield writes[:number]
        for sector in sectors if len(sectors) > 1 else ():
            yield [*writes[:number], sector]
            yield [*writes[:number], *(other for other in sectors if other is not sector)]
    yield writes


def test_no_power_cut_loses_the_table_and_the_next_start_finishes(larger: FileDisk) -> None:
    begun = larger.read(0, gpt.HEAD_SECTORS)
    grow(larger)
    writes, wanted, tried = list(larger.writes), larger.seen, 0
    # At the new end there was nothing before.
    nothing = bytes((gpt.ENTRIES_SECTORS + 1) * gpt.SECTOR_BYTES)
    for done in cuts(writes):
        BootDisk.write(larger, Write(0, begun))
        BootDisk.write(larger, Write(writes[0].sector, nothing))
        for write in done:
            BootDisk.write(larger, write)
        # A start: the kernel finds all partitions where they were; the second copy that it is pointed to is whole.
        found = larger.start()
        second = larger.read(found.header.other, 1)
        place = gpt.read_header(second, found.header.other).entries_at
        gpt.check_second(found, second, larger.read(place, gpt.ENTRIES_SECTORS))
        larger.seen = found.data_sectors
        assert grow(larger).after == wanted == larger.file_system
        tried += 1
    listed(larger.path)
    assert tried > 100


@pytest.mark.parametrize("fails", ["write", "file system"])
def test_what_fails_is_marked_and_finished_later(larger: FileDisk, fails: str) -> None:
    larger.fails = fails
    with pytest.raises((OSError, ProgramFailedError)):
        grow(larger)
    assert larger.marked
    larger.fails = ""
    assert grow(larger).after == larger.file_system
    assert not larger.marked


def test_a_damaged_copy_is_left_alone(larger: FileDisk) -> None:
    table = larger.start()
    for sector in (1, 2, table.header.other, table.header.other - 1):
        kept = larger.read(sector, 1)
        BootDisk.write(larger, Write(sector, kept[:40] + bytes([kept[40] ^ 1]) + kept[41:]))
        with pytest.raises(OddError):
            grow(larger)
        BootDisk.write(larger, Write(sector, kept))
    assert larger.writes == []
    assert not larger.marked


@pytest.mark.parametrize(
    "command",
    [
        ["--delete", "{disk}", "6"],
        ["--part-label", "{disk}", "7", "other"],
        ["--part-type", "{disk}", "7", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"],
    ],
)
def test_a_disk_that_is_not_ours_is_left_alone(larger: FileDisk, command: list[str]) -> None:
    argv = [word.format(disk=larger.path) for word in command]
    subprocess.run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", *argv], check=True)
    with pytest.raises(OddError):
        grow(larger)
    assert larger.writes == []


def test_a_partition_behind_the_data_is_odd(larger: FileDisk) -> None:
    start = larger.start().data_end + 1 + 4096
    subprocess.run(
        ["sfdisk", "--quiet", "--append", "--no-reread", "--no-tell-kernel", larger.path],
        input=f"start={start}, size=2048\n".encode(),
        check=True,
    )
    with pytest.raises(OddError, match="partition 8"):
        grow(larger)


def test_a_disk_that_was_cut_short_is_odd(larger: FileDisk) -> None:
    enlarge(larger.path, SMALL_MIB - 1)
    with pytest.raises(OddError, match="nowhere"):
        grow(larger)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, gpt.HEAD_SECTORS * 512 - 1), st.integers(1, 255), st.binary(max_size=2000))
def test_any_bytes_are_a_table_or_odd(factory: Path, place: int, change: int, other: bytes) -> None:
    head = bytearray(head_of(factory))
    head[place] ^= change
    for given_bytes in (bytes(head), other, bytes(head[:512]) + other.ljust(len(head), b"\0")):
        try:
            gpt.read_first(given_bytes)
        except OddError:
            continue
