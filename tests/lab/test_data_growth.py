"""The data partition of a real block device grows under a mounted file system that somebody writes to."""

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from firmware import layout
from firmware.gpt import Table
from firmware.image import disk as image_disk
from router_agent.growth.disk import BootDisk
from router_agent.growth.grow import grow

SMALL_MIB, LARGE_MIB = layout.DISK_MIN_MIB, 4096
MIB = layout.MIB


def run(*argv: str | Path, stdin: str = "") -> str:
    done = subprocess.run([str(word) for word in argv], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout.strip()


@contextmanager
def loop(path: Path, directory: Path) -> Iterator[tuple[Path, Path]]:
    """The disk as a block device with its partitions: as the kernel finds it at a start."""
    device = Path(run("losetup", "--find", "--show", path))
    node = directory / f"{device.name}p{layout.DATA.number}"
    try:
        run("partx", "--add", device)
        numbers = (Path("/sys/class/block") / node.name / "dev").read_text().strip().split(":")
        # Not every machine of tests has a devtmpfs.
        os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(*(int(number) for number in numbers)))
        yield device, node
    finally:
        node.unlink(missing_ok=True)
        subprocess.run(["partx", "--delete", device], check=False, capture_output=True)
        run("losetup", "--detach", device)


@contextmanager
def mounted(node: Path, place: Path) -> Iterator[Path]:
    run("mount", "-t", "ext4", node, place)
    try:
        yield place
    finally:
        run("umount", place)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk as it leaves the factory, on a larger one."""
    path = tmp_path / "disk.img"
    with path.open("wb") as stream:
        stream.truncate(SMALL_MIB * MIB)
    run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", path, stdin=image_disk.table(SMALL_MIB, "test"))
    run(
        "mke2fs", "-q", "-t", "ext4", "-O", "^metadata_csum_seed", "-E",
        f"offset={layout.offset_mib(layout.DATA) * MIB},lazy_itable_init=1", path,
        f"{layout.size_mib(layout.DATA, SMALL_MIB)}M",
    )  # fmt: skip
    with path.open("r+b") as stream:
        stream.truncate(LARGE_MIB * MIB)
    return path


class LabDisk(BootDisk):
    """The test machine may not resize a mounted file system (CAP_SYS_RESOURCE): that is shown in QEMU."""

    grown = 0

    def grow_file_system(self) -> None:
        self.grown += 1


def test_the_kernel_sees_the_partition_grow_under_a_mounted_file_system(disk: Path, tmp_path: Path) -> None:
    place = tmp_path / "var"
    place.mkdir()
    wanted = layout.size_mib(layout.DATA, LARGE_MIB)
    with loop(disk, tmp_path) as (device, node):
        with mounted(node, place) as var, (var / "kept").open("w") as stream:
            stream.write("before\n")
            lab = LabDisk(device, node, mark=var / "growing")
            made = grow(lab)
            stream.write("after\n")
            assert (made.after * 512, lab.grown) == (wanted * MIB, 1)
            assert int((Path("/sys/class/block") / node.name / "size").read_text()) == made.after
            assert not (var / "growing").exists()
        run("e2fsck", "-f", "-p", node)
        assert f"{wanted * MIB // 4096} (4k) blocks" in run("resize2fs", node) + run("resize2fs", node)
    # The next start reads the table anew.
    with loop(disk, tmp_path) as (device, node), mounted(node, place) as var:
        assert (var / "kept").read_text() == "before\nafter\n"
        assert grow(LabDisk(device, node, mark=var / "growing")).before == made.after
        found = os.statvfs(var)
        assert found.f_blocks * found.f_frsize > 0.9 * wanted * MIB


def test_a_start_after_a_cut_behind_the_table_finishes(disk: Path, tmp_path: Path) -> None:
    """The power failed when the table counted, and before anything else."""
    place = tmp_path / "var"
    place.mkdir()

    class CutDisk(LabDisk):
        def show(self, table: Table) -> None:
            raise OSError("the power fails")

    with loop(disk, tmp_path) as (device, node), mounted(node, place) as var:
        with pytest.raises(OSError, match="power"):
            grow(CutDisk(device, node, mark=var / "growing"))
        assert (var / "growing").exists()
    with loop(disk, tmp_path) as (device, node), mounted(node, place) as var:
        lab = LabDisk(device, node, mark=var / "growing")
        assert grow(lab).after == lab.seen_sectors()
        assert (lab.grown, (var / "growing").exists()) == (1, False)
