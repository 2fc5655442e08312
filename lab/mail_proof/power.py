"""The whole machine is cut: a virtual machine relays mail on a disk whose every write is logged, and that disk is then
judged as it would have been found after a power cut at any moment.

One disk has two partitions: ext4 with the queue, and the ledger. The ledger's sectors say what was promised before
which write; they are never missing, since they stand for what clients remember.
"""

import asyncio
import json
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudside.config import load
from cloudside.errors import KyotenError
from lab.mail_proof import ledger, place, verdict
from lab.mail_proof.standing import standing_of
from lab.mail_proof.traffic import Fate, Mix, made
from lab.power_cut.disk import Disk
from lab.power_cut.write_log import Request, WriteLog
from lab.vm import machine

SERIAL = "kyoten-queue"
#: Where the queue's partition is mounted in the machine.
QUEUE_DIRECTORY = Path("/run/kyoten-queue")
#: Emulated, everything is ten times slower: mostly small mails. Those above 64 KiB become files.
MIX = Mix(
    sizes=((1_500, 6), (14_000, 1), (70_000, 4), (150_000, 1)),
    fates=((Fate.TAKEN, 20), (Fate.LATER, 3), (Fate.GONE, 4), (Fate.NEVER, 1)),
    recipients_max=3,
)
SETTINGS: dict[str, str | float] = {
    "retry_first_s": 2.0,
    "retry_later_s": 4.0,
    "give_up_s": 12.0,
    "spill_bytes": 32_000,
    "smarthost_connections": 4,
}

_MIB = 1024 * 1024
_QUEUE_FIRST = _MIB
#: The relay keeps 64 MiB free.
_QUEUE_BYTES = 192 * _MIB
_LEDGER_FIRST = _QUEUE_FIRST + _QUEUE_BYTES
_LEDGER_BYTES = 16 * _MIB
_SECTOR_BYTES = 512
#: Disks are named in the order of their PCI slots, and the machine finds its own by name.
_LAST_SLOT = "0x1e"
_BOOT_S = 240.0


class PowerError(Exception):
    """The machine did not relay, or a disk of it cannot be read at all; the text says why."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the machine left: an image of the disk before it began, and everything that was written to it."""

    before: Path
    log: WriteLog
    figures: dict[str, object]


@dataclass(frozen=True, slots=True)
class Cut:
    """The power fails after the first ``position`` requests; ``share`` of what was not flushed then is there."""

    position: int
    share: float


@dataclass(frozen=True, slots=True)
class Found:
    """One cut, judged. ``bodies``: files with the bodies of mail that waited then."""

    cut: Cut
    promised: int
    unflushed: int
    bodies: int
    lost: dict[str, str]
    torn: int


def record(directory: Path, *, seconds: float, clients: int) -> Recorded:
    """Run the machine. Raises PowerError, lab.vm's VmError."""
    certificate, key = place.certificate(directory)
    assert key.exists()
    ports = {"smarthost": place.free_port()}
    found = place.lay_out(
        directory,
        smarthost_port=ports["smarthost"],
        authority=certificate,
        queue_directory=QUEUE_DIRECTORY / "queue",
        **SETTINGS,
    )
    (directory / "ports").write_text(json.dumps({**ports, "site": found.port}))
    image, log = directory / "disk", directory / "log"
    _make_disk(image)
    before = directory / "before"
    Disk.copy_of(image, before).close()
    log.touch()
    argv = [sys.executable, "-m", "lab.mail_proof.inside", str(directory), str(seconds), str(clients)]
    ended = machine.run(argv, timeout_s=seconds + _BOOT_S, devices=_watched(image, log))
    if ended.status != 0 or not ended.stdout:
        raise PowerError(f"the machine ended with {ended.status}: {ended.stderr.decode(errors='replace')[-3000:]}")
    return Recorded(before, WriteLog(log), json.loads(ended.stdout.splitlines()[-1]))


def choose(recorded: Recorded, flushes: int, between: int, dice: random.Random) -> list[Cut]:
    """So many cuts right after a flush, evenly spread, and so many at random places between, in rising order.

    Only places after the first promise: before it there is nothing to lose.
    """
    first = next(at for at, request in enumerate(recorded.log.requests, 1) if _in_ledger(request))
    last = len(recorded.log.requests)
    at_flush = [place for place in recorded.log.flushes if place > first]
    step = max(1.0, len(at_flush) / max(1, flushes))
    chosen = [Cut(at_flush[int(number * step)], 0.0) for number in range(min(flushes, len(at_flush)))]
    chosen += [Cut(dice.randint(first, last), dice.choice((0.0, 0.2, 0.5, 0.8, 1.0))) for _ in range(between)]
    return sorted(chosen, key=lambda cut: cut.position)


def judge(
    recorded: Recorded, cuts: Sequence[Cut], directory: Path, dice: random.Random, *, lying: bool = False
) -> list[Found]:
    """Each cut's disk: mended as at boot, read by the product's own operations. ``cuts`` in rising order.

    ``lying``: the disk did not do what a flush asked for, and everything since the start may be missing; a judge that
    finds nothing lost then is blind.
    """
    log, done = recorded.log, 0
    book = [(at, line) for at, request in enumerate(log.requests, 1) for line in _lines(log, request)]
    found = []
    flushes = (0, *(() if lying else log.flushes))
    with Disk.copy_of(recorded.before, directory.with_name(f"{directory.name}.disk")) as here:
        for cut in cuts:
            flushed = max(place for place in flushes if place <= cut.position)
            here.apply(log, done, flushed)
            done = flushed
            lines = [line for at, line in book if at <= cut.position]
            unflushed = [request for request in log.requests[flushed : cut.position] if not _in_ledger(request)]
            with here.cut(log, flushed, cut.position, dice, cut.share):
                found.append(_judged(cut, here, ledger.read(lines), len(unflushed), directory))
    return found


def _judged(cut: Cut, here: Disk, written: ledger.Written, unflushed: int, directory: Path) -> Found:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    image, files = directory / "image", directory / "files"
    files.mkdir()
    here.save(image, _QUEUE_FIRST, _QUEUE_BYTES)
    # Replays the journal, as mounting does, and mends what it can.
    mended = subprocess.run(["e2fsck", "-fy", str(image)], capture_output=True, text=True, check=False)
    if mended.returncode > 1:
        return Found(cut, 0, unflushed, 0, {"everything": f"e2fsck: {mended.stdout[-500:]}"}, 0)
    subprocess.run(["debugfs", "-R", f'rdump /queue "{files}"', str(image)], capture_output=True, check=True)
    config = load(_configuration(directory, files / "queue"))
    try:
        standing = asyncio.run(standing_of(config))
    except KyotenError as error:  # only a disk that lies may come to this
        promised = [recipient for number in written.promises for recipient in made(number, MIX).recipients]
        return Found(cut, len(promised), unflushed, 0, dict.fromkeys(promised, f"no queue: {error}"), 0)
    bodies = len(list((config.queue_directory / "bodies").iterdir()))
    result = verdict.judge(written.promises, MIX, written.takes, standing, ended=False)
    return Found(cut, result.promised, unflushed, bodies, dict(result.lost), len(result.torn))


def _configuration(directory: Path, queue: Path) -> Path:
    path = directory / "kyoten.toml"
    path.write_text(
        f'state_directory = "{directory}"\nruntime_directory = "{directory}"\n[relay]\nqueue_directory = "{queue}"\n'
    )
    return path


def _in_ledger(request: Request) -> bool:
    return request.size > 0 and request.offset >= _LEDGER_FIRST


def _lines(log: WriteLog, request: Request) -> list[str]:
    if not _in_ledger(request):
        return []
    data = log.data(request)
    sectors = (data[at : at + _SECTOR_BYTES] for at in range(0, request.size, _SECTOR_BYTES))
    return [text for sector in sectors if (text := sector.rstrip(b"\0").decode())]


def _make_disk(image: Path) -> None:
    """Two partitions (a classic table in the first sector), the first with an empty ext4."""
    with image.open("wb") as file:
        file.truncate(_LEDGER_FIRST + _LEDGER_BYTES)
        parts = ((_QUEUE_FIRST, _QUEUE_BYTES), (_LEDGER_FIRST, _LEDGER_BYTES))
        table = b"".join(
            struct.pack("<B3sB3sII", 0, b"\0\0\0", 0x83, b"\0\0\0", first // _SECTOR_BYTES, size // _SECTOR_BYTES)
            for first, size in parts
        )
        file.seek(446)
        file.write(table.ljust(64, b"\0") + b"\x55\xaa")
    # Nothing left to initialise later: writes that come by themselves would only lengthen the log.
    options = f"offset={_QUEUE_FIRST},lazy_itable_init=0,lazy_journal_init=0"
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-E", options, str(image), f"{_QUEUE_BYTES // 1024}k"],
        check=True,
        capture_output=True,
    )


def _watched(image: Path, log: Path) -> list[str]:
    """The disk for the emulator. The guest sees a write cache, so that it flushes; the host need not."""
    lazily = "cache.direct=off,cache.no-flush=on"
    return [
        "-blockdev", f"driver=file,node-name=queue-image,filename={image},{lazily}",
        "-blockdev", f"driver=file,node-name=queue-log,filename={log},{lazily}",
        "-blockdev", "driver=blklogwrites,node-name=queue,file=queue-image,log=queue-log",
        "-device", f"virtio-blk-pci,drive=queue,serial={SERIAL},write-cache=on,addr={_LAST_SLOT}",
    ]  # fmt: skip
