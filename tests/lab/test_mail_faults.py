"""Things break around the relay, and nothing that got its 250 is lost: smarthost, disk, clock, PostgreSQL."""

import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cloudside.mail.delivery import smarthost as delivery_smarthost
from cloudside.mail.delivery.conversation import Patience
from lab import box
from lab.mail_proof.clock import Clock
from lab.mail_proof.scene import Scene
from lab.mail_proof.smarthost import Fated, Fault, Stage
from lab.mail_proof.traffic import Fate, Mix
from lab.mail_proof.verdict import duplicates
from lab.network import wait_until
from lab.postgresql import postgresql_server

#: All of it is taken; some bodies are files.
PLAIN = Mix(sizes=((2_000, 3), (100_000, 1)), fates=((Fate.TAKEN, 1),), recipients_max=2)


@pytest.fixture
def records() -> Iterator[Path]:
    """A directory on another file system than the queue's."""
    place = Path(tempfile.mkdtemp(prefix="kyoten-faults-", dir="/dev/shm"))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="faults-", dir=box.directory()))


def impatient() -> None:
    """In the relay: half a second where it would wait for minutes."""
    patience = Patience(session=0.5, command=0.5, block=0.5, end_of_data=0.5)
    delivery_smarthost.Patience = partial(lambda: patience)  # type: ignore[assignment,misc]


def nothing_lost(scene: Scene) -> None:
    verdict = scene.verdict()
    assert verdict.promised > 0
    assert not verdict.lost and not verdict.torn, verdict


class Script:
    """A fault at one stage, so many times; then all is well again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stage = Stage.GREETING
        self._fault = Fault.DROP
        self.left = 0

    def misbehave(self, stage: Stage, fault: Fault, times: int) -> None:
        with self._lock:
            self._stage, self._fault, self.left = stage, fault, times

    def __call__(self, stage: Stage, _recipient: str) -> Fault | None:
        with self._lock:
            if stage is not self._stage or not self.left:
                return None
            self.left -= 1
            return self._fault


@pytest.mark.parametrize("fault", Fault)
def test_a_smarthost_that_misbehaves_at_any_stage(fault: Fault, directory: Path, records: Path) -> None:
    script = Script()
    with Scene(
        directory,
        records,
        mix=PLAIN,
        plan=script,
        prepare=impatient,
        retry_first_s=0.2,
        retry_later_s=0.2,
        give_up_s=60,
    ) as scene:
        scene.relay.start()
        scene.relay.ready()
        scene.clients.start()
        for stage in Stage:
            # Each session that was kept is ended by a fault of its own, so that the early stages come as well.
            script.misbehave(stage, fault, 2)
            wait_until(f"{fault} at {stage}", partial(_used_up, scene, script), timeout_s=30)
            scene.more_promises(2)
        scene.clients.stop()
        scene.drained()
        scene.relay.stop()
        nothing_lost(scene)
        # Copies only where the smarthost took a mail and did not say so.
        copies = duplicates(scene.smarthost.takes, sorted(scene.smarthost.broken_off))
        assert copies.windows_s and not copies.unexplained


def _used_up(scene: Scene, script: Script) -> bool:
    if not script.left:
        return True
    scene.smarthost.hang_up()
    return False


@pytest.fixture
def real_disk() -> Iterator[tuple[Path, Path]]:
    """An ext4 in a file that goes read-only after an error, as Debian's installer sets it up; its image."""
    image = box.directory() / f"disk-{secrets.token_hex(4)}"
    with image.open("wb") as file:
        file.truncate(256 * 2**20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-e", "remount-ro", str(image)], check=True)
    place = image.with_suffix(".mounted")
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    yield place, image
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_turns_read_only(real_disk: tuple[Path, Path], directory: Path, records: Path) -> None:
    disk, image = real_disk
    with Scene(directory, records, mix=PLAIN, plan=Fated(), queue_directory=disk / "queue") as scene:
        scene.relay.start()
        scene.relay.ready()
        scene.clients.start()
        scene.more_promises(40)
        # At the very moment of the change the kernel's fdatasync may say yes to what never reaches the disk (a plain
        # program that writes and syncs loses its last block in 2 of 15 rounds): no mail is under way then.
        scene.paused.set()
        time.sleep(0.5)
        _break(disk)
        scene.paused.clear()
        promised, before = len(scene.clients.promised), Counter(scene.clients.refused)
        wait_until("refusals", lambda: (Counter(scene.clients.refused) - before).total() > 10, timeout_s=20)
        # Nobody was promised anything any more, and everybody was asked to come again.
        assert len(scene.clients.promised) == promised
        assert set(scene.clients.refused) <= {451, 452}
        assert scene.relay.running
        scene.cuts.append(scene.relay.cut())
        _mend(disk, image)
        scene.relay.start()
        scene.relay.ready()
        scene.more_promises(10)
        scene.clients.stop()
        scene.drained()
        scene.relay.stop()
        nothing_lost(scene)
        assert not duplicates(scene.smarthost.takes, scene.cuts).unexplained


def _break(disk: Path) -> None:
    """Have the kernel find an error on the file system."""
    device = subprocess.run(["findmnt", "-no", "SOURCE", str(disk)], check=True, capture_output=True, text=True)
    name = Path(device.stdout.strip()).name
    Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("test\n")
    with pytest.raises(OSError, match="Read-only"):
        (disk / "probe").touch()


def _mend(disk: Path, image: Path) -> None:
    subprocess.run(["umount", str(disk)], check=True)
    assert subprocess.run(["e2fsck", "-fy", str(image)], capture_output=True, check=False).returncode <= 1
    subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)


def test_a_clock_that_jumps(directory: Path, records: Path) -> None:
    """An hour ahead, two hours back, right again. Mail that waits for its next try is tried when the clock is right."""
    clock = Clock(directory / "clock")
    mix = Mix(sizes=((2_000, 1),), fates=((Fate.TAKEN, 3), (Fate.LATER, 1)), recipients_max=2)
    with Scene(directory, records, mix=mix, prepare=clock.follow, give_up_s=4 * 86400) as scene:
        scene.relay.start()
        scene.relay.ready()
        scene.clients.start()
        for offset_s in (0.0, 3600.0, -3600.0, 0.0):
            clock.jump_to(offset_s)
            taken = len(scene.smarthost.takes)
            scene.more_promises(15)
            # New mail goes out at once whatever the clock says.
            wait_until("deliveries", lambda least=taken + 5: len(scene.smarthost.takes) > least, timeout_s=15)
        # What was taken or postponed while the clock was ahead falls due when the right time has come that far.
        clock.jump_to(3600.0)
        scene.clients.stop()
        scene.drained()
        scene.relay.stop()
        nothing_lost(scene)
        assert not duplicates(scene.smarthost.takes, []).unexplained


def test_postgresql_is_restarted_under_load(directory: Path, records: Path) -> None:
    with postgresql_server() as server:
        server.execute("CREATE DATABASE queue")
        with Scene(directory, records, queue_url=server.url("queue"), give_up_s=5.0) as scene:
            scene.relay.start()
            scene.relay.ready()
            scene.clients.start()
            for _ in range(3):
                scene.more_promises(30)
                server.stop()
                time.sleep(0.7)
                server.start()
            scene.more_promises(30)
            assert scene.relay.running
            assert set(scene.clients.refused) <= {451}
            scene.clients.stop()
            scene.drained()
            scene.relay.stop()
            nothing_lost(scene)
