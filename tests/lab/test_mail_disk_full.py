"""A full disk under the mail queue: 452, nothing half done, what was accepted before is whole. On a small tmpfs."""

import asyncio
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudside.mail.model import Attempt, Kind, NewMessage, Selection, Spilled, State, number_of
from cloudside.mail.store.bodies import IN_DATABASE_MAX_BYTES
from cloudside.mail.store.queue import RESERVE_BYTES, Queue
from cloudside.mail.store.sqlite import StorageFullError
from lab import box
from lab.mail_proof.scene import Scene
from lab.mail_proof.traffic import Fate, Mix
from lab.network import wait_until

NOW = 1_800_000_000.0
#: One that is kept in the database, one that becomes a file.
SMALL, LARGE = 40_000, 300_000


@pytest.fixture
def small_disk() -> Iterator[Path]:
    place = box.directory() / f"small-{secrets.token_hex(4)}"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def message(size: int, spilled: Path | None = None) -> NewMessage:
    assert (size > IN_DATABASE_MAX_BYTES) == (size == LARGE)
    body: bytes | Spilled = b"x" * (size - 2) + b"\r\n"
    if spilled is not None:
        assert isinstance(body, bytes)
        path = spilled / secrets.token_hex(8)
        path.write_bytes(body)
        body = Spilled(path, size)
    head = b"Subject: s\r\n"
    return NewMessage(
        secrets.randbits(63), Kind.MAIL, "tokyo-1", "10.0.0.1", "p@x.test", ("a@x.test",), "s", head, body, NOW
    )


async def fill(queue: Queue, size: int) -> list[int]:
    """Send until the disk is full; ids of what was accepted."""
    accepted = []
    while True:
        new = message(size)
        try:
            await queue.accept(new)
        except StorageFullError:
            return accepted
        accepted.append(new.id)
        assert len(accepted) < 1000


def content(attempt: Attempt) -> bytes:
    return attempt.body if isinstance(attempt.body, bytes) else attempt.body.read_bytes()


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_running_out_of_space_loses_nothing(small_disk: Path, size: int) -> None:
    queue = Queue(small_disk, reserve_bytes=0)
    accepted = await fill(queue, size)
    assert len(accepted) > 10
    with pytest.raises(StorageFullError):
        await queue.accept(message(size))
    resize(small_disk, "64m")
    later = message(size)
    await queue.accept(later)  # goes on by itself once there is room
    queue.close()
    # Another process sees the same: each accepted mail whole, nothing of the refused ones.
    again = Queue(small_disk, reserve_bytes=0)
    await again.recover(NOW)
    attempts = await again.claim(NOW, 1000)
    assert sorted(attempt.original.id for attempt in attempts) == sorted([*accepted, later.id])
    assert {len(content(attempt)) for attempt in attempts} == {size}
    again.close()


async def test_a_body_that_does_not_fit_leaves_no_file(small_disk: Path) -> None:
    queue = Queue(small_disk, reserve_bytes=0)
    accepted = await fill(queue, LARGE)
    queue.close()  # waits for what is being removed
    names = {number_of(path.name) for path in (small_disk / "bodies").iterdir()}
    assert names == set(accepted)
    assert list((small_disk / "incoming").iterdir()) == []


async def test_a_body_on_the_disk_whose_message_does_not_fit_is_removed(small_disk: Path) -> None:
    queue = Queue(small_disk, reserve_bytes=0)
    new = message(LARGE, spilled=queue.incoming)
    filler = small_disk / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], capture_output=True, check=False)
    with pytest.raises(StorageFullError):
        await queue.accept(new)
    queue.close()
    assert list((small_disk / "bodies").iterdir()) == list((small_disk / "incoming").iterdir()) == []
    filler.unlink()
    again = Queue(small_disk, reserve_bytes=0)
    assert await again.entries(Selection(), 10) == []
    again.close()


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_many_at_once_on_a_full_disk_each_get_their_own_truth(small_disk: Path, size: int) -> None:
    queue = Queue(small_disk, reserve_bytes=0)
    messages = [message(size) for _ in range(12_000_000 // size)]
    results = await asyncio.gather(*(queue.accept(one) for one in messages), return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert refused and all(isinstance(result, StorageFullError) for result in refused)
    resize(small_disk, "64m")
    kept = {number_of(entry.message) for entry in await queue.entries(Selection(), 1000)}
    accepted = {one.id for one, result in zip(messages, results, strict=True) if result not in refused}
    assert kept == accepted
    assert {len(content(attempt)) for attempt in await queue.claim(NOW, 1000)} <= {size}
    queue.close()


async def test_the_reserve_keeps_room_to_finish_what_was_accepted(small_disk: Path) -> None:
    queue = Queue(small_disk, reserve_bytes=2 * 2**20)
    accepted = 0
    while True:
        new = message(SMALL if accepted % 2 else LARGE)
        try:
            queue.require_space(new.size)
        except StorageFullError:
            break
        await queue.accept(new)
        accepted += 1
    assert accepted > 3
    for attempt in await queue.claim(NOW, 1000):
        await queue.delivered(attempt, NOW, "250")
    assert await queue.states() == {State.DELIVERED: accepted}
    queue.close()


@pytest.fixture
def records() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="kyoten-full-", dir="/dev/shm"))
    yield place
    shutil.rmtree(place)


def test_a_relay_on_a_disk_that_fills_up_says_452_and_goes_on(small_disk: Path, records: Path) -> None:
    """Somebody else fills the disk and makes room again; mail comes all the time."""
    resize(small_disk, f"{RESERVE_BYTES // 2**20 + 40}m")
    directory = Path(tempfile.mkdtemp(prefix="full-", dir=box.directory()))
    mix = Mix(sizes=((2_000, 2), (LARGE, 1)), fates=((Fate.TAKEN, 4), (Fate.GONE, 1)), recipients_max=2)
    filler = small_disk / "filler"
    with Scene(directory, records, mix=mix, queue_directory=small_disk / "queue") as scene:
        scene.relay.start()
        scene.relay.ready()
        scene.clients.start()
        scene.more_promises(20)
        # First down to the reserve, then to the last byte.
        for left in (RESERVE_BYTES // 2, 0):
            free = shutil.disk_usage(small_disk).free
            with filler.open("ab", buffering=0) as file:  # with a buffer, closing it would try the rest once more
                written = 0
                try:
                    while written < free - left:
                        written += file.write(bytes(2**16))
                except OSError:
                    assert left == 0
            refused = scene.clients.refused.get(452, 0)
            wait_until("452", lambda before=refused: scene.clients.refused.get(452, 0) > before + 5, timeout_s=20)
            time.sleep(0.5)
        assert set(scene.clients.refused) <= {451, 452}
        filler.unlink()
        scene.more_promises(20)
        scene.clients.stop()
        scene.drained()
        scene.relay.stop()
        verdict = scene.verdict()
        assert not verdict.lost and not verdict.torn, verdict
