"""A full disk under the mail queue: 452, nothing half done, what was accepted before is whole. On a small tmpfs."""

import asyncio
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudside.mail.model import Kind, NewMessage
from cloudside.mail.store import view
from cloudside.mail.store.queue import Queue
from cloudside.mail.store.sqlite import StorageFullError
from lab import box

NOW = 1_800_000_000.0


@pytest.fixture
def small_disk() -> Iterator[Path]:
    place = box.directory() / f"small-{secrets.token_hex(4)}"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def message(size: int = 100_000) -> NewMessage:
    content = b"Subject: s\r\n\r\n" + b"x" * size + b"\r\n"
    return NewMessage(
        secrets.randbits(63), Kind.MAIL, "tokyo-1", "10.0.0.1", "p@x.test", ("a@x.test",), "s", content, NOW
    )


async def fill(queue: Queue) -> list[int]:
    """Send until the disk is full; ids of what was accepted."""
    accepted = []
    while True:
        new = message()
        try:
            await queue.accept(new)
        except StorageFullError:
            return accepted
        accepted.append(new.id)
        assert len(accepted) < 1000


async def test_sqlite_running_out_of_space_loses_nothing(small_disk: Path) -> None:
    queue = Queue(small_disk, reserve_bytes=0)
    accepted = await fill(queue)
    assert len(accepted) > 10
    with pytest.raises(StorageFullError):
        await queue.accept(message())
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    later = message()
    await queue.accept(later)  # goes on by itself once there is room
    queue.close()
    # Another process sees the same: each accepted mail whole, nothing of the refused ones.
    again = Queue(small_disk, reserve_bytes=0)
    await again.recover(NOW)
    attempts = await again.claim(NOW, 1000)
    assert sorted(attempt.original.id for attempt in attempts) == sorted([*accepted, later.id])
    assert all(len(attempt.content) > 100_000 for attempt in attempts)
    again.close()


async def test_many_at_once_on_a_full_disk_each_get_their_own_truth(small_disk: Path) -> None:
    queue = Queue(small_disk, reserve_bytes=0)
    messages = [message() for _ in range(120)]
    results = await asyncio.gather(*(queue.accept(one) for one in messages), return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert refused and all(isinstance(result, StorageFullError) for result in refused)
    queue.close()
    kept = {entry.message for entry in view.waiting(small_disk)}
    accepted = {f"{one.id:016x}" for one, result in zip(messages, results, strict=True) if result not in refused}
    assert kept == accepted


async def test_the_reserve_keeps_room_to_finish_what_was_accepted(small_disk: Path) -> None:
    queue = Queue(small_disk, reserve_bytes=2 * 2**20)
    accepted = 0
    while True:
        new = message()
        try:
            queue.require_space(len(new.content))
        except StorageFullError:
            break
        await queue.accept(new)
        accepted += 1
    assert accepted > 3
    for attempt in await queue.claim(NOW, 1000):
        await queue.delivered(attempt, NOW, "250")
    assert view.counts(small_disk) == {"delivered": accepted}
    queue.close()
