"""What is left of a kernel that fell: records in pstore (Documentation/admin-guide/pstore-blk.rst, ramoops.rst), which
systemd-pstore may have moved, and the journal of the boot before.
"""

from collections.abc import Iterator
from pathlib import Path

from linux.errors import LinuxError
from router_agent.logs.kernel import KernelLog

PSTORE = (Path("/sys/fs/pstore"), Path("/var/lib/systemd/pstore"))
_RECORD_MAX_BYTES = 65_536
#: Lines that are looked through: a fault is among the last of its boot, and looks come every ten minutes.
LINES = 5_000


def leftovers(places: tuple[Path, ...] = PSTORE) -> Iterator[tuple[Path, list[str]]]:
    """Records of pstore, with their lines. Whoever has kept one removes it: the store is small."""
    for place in places:
        try:
            paths = sorted(path for path in place.rglob("dmesg-*") if path.is_file())
        except OSError:
            continue
        for path in paths:
            try:
                with path.open("rb") as stream:
                    yield path, stream.read(_RECORD_MAX_BYTES).decode("utf-8", "replace").splitlines()
            except OSError:
                continue


def remove(path: Path) -> None:
    """It is kept elsewhere."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass


def last_boot(log: KernelLog) -> list[str]:
    """The kernel's lines of the boot before this one; none where no journal keeps them."""
    try:
        return log.journal("--boot=-1", "_TRANSPORT=kernel", most=LINES)
    except LinuxError:
        return []


def this_boot(log: KernelLog) -> list[str]:
    """The kernel's newest lines since this boot; none where they cannot be read."""
    try:
        return log.this_boot(most=LINES)
    except OSError:
        return []
