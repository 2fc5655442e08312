"""The first start: a ticket or an enrolment bundle from the config partition, or from a USB stick with its label.

A stick goes first: somebody stands there with it. The first file that serves ends the search and is erased from its
medium: a token is good once, but an old bundle may hold a key. What cannot be used is told on the serial console and in
the log, and is looked at again at the next start or when a medium comes or goes; where only the cloud was not reached,
it is tried on and on.
"""

import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from firmware import layout
from linux.errors import LinuxError
from linux.files import write_durably
from linux.runner import Runner, SubprocessRunner
from router_agent import bundle, identity
from router_agent.clock import known
from router_agent.clock.keeper import ClockKeeper
from router_agent.enrolment import join, ticket
from router_agent.errors import AgentError, BundleError, CloudUnreachableError
from router_agent.identity import Identity
from router_agent.messages import text
from router_agent.places import DEFAULT_RUNTIME, DEFAULT_STATE

TICKET_SUFFIX, BUNDLE_SUFFIX = ".ticket", ".bundle"
#: In the state directory: which file has served.
USED = "provisioned"
#: Seconds between looks for a medium, and between tries to reach the cloud.
LOOK_S = 5.0
AGAIN_S = 20.0
#: A medium is somebody's: nobody reads through a thousand files.
FILES_MAX = 8

_AGENT_UNIT = "kyoten-agent.service"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offer:
    """A file that was found. ``content`` holds a secret and stays out of every text."""

    device: str
    name: str
    content: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """Names the content."""
        return hashlib.sha256(self.content).hexdigest()


class Media(Protocol):
    """The media with our label."""

    def signature(self) -> Sequence[str]:
        """Changes when a medium comes or goes."""
        ...

    def offers(self) -> Sequence[Offer]:
        """Everything on them that could be a ticket or a bundle, sticks first."""
        ...

    def erase(self, offer: Offer) -> None:
        """Remove the file. Raises LinuxError, OSError: the medium is write-protected or gone."""
        ...


@dataclass(slots=True)
class Provisioning:
    """One run of it, until the router is enrolled. ``take`` installs what was found; see `take`."""

    state: Path
    media: Media
    say: Callable[[str, Mapping[str, object]], None]
    take: "Take"
    #: The cloud was not reached: it is asked again.
    unreached: bool = False
    _looked_at: Sequence[str] | None = None

    def step(self) -> bool:
        """Look, and take what is there. Whether there is nothing more to do before a medium comes."""
        signature = self.media.signature()
        if signature == self._looked_at and not self.unreached:
            return identity.is_installed(self.state)
        first, self._looked_at, self.unreached = self._looked_at is None, signature, False
        taken = any(self._taken(offer) for offer in self.media.offers())
        enrolled = taken or identity.is_installed(self.state)
        if first and not enrolled and not self.unreached:
            self.say("agent-cli.provision-waiting", {"label": layout.CONFIG.label})
        return enrolled and not self.unreached

    def _taken(self, offer: Offer) -> bool:
        where = {"file": offer.name, "device": offer.device}
        if _used(self.state) == offer.digest and identity.is_installed(self.state):
            # Whoever could not erase it has said so; after a power cut it can be.
            with suppress(LinuxError, OSError):
                self.media.erase(offer)
            return False
        try:
            who = self.take(offer, self.state)
        except CloudUnreachableError as error:
            self.unreached = True
            self.say("agent-cli.provision-unreachable", {**where, "reason": _told(error), "seconds": int(AGAIN_S)})
            return False
        except BundleError as error:
            self.say("agent-cli.provision-refused", {**where, "reason": " ".join(map(_told, error.problems))})
            return False
        except AgentError as error:
            self.say("agent-cli.provision-refused", {**where, "reason": _told(error)})
            return False
        self.say("agent-cli.provision-done", {**where, "site": who.enrolment.site})
        try:
            write_durably(self.state / USED, offer.digest.encode())
            self.media.erase(offer)
        except (LinuxError, OSError) as error:
            self.say("agent-cli.provision-kept", {**where, "reason": str(error)[:200]})
        return True


Take = Callable[[Offer, Path], Identity]


def take(offer: Offer, state: Path, *, keeper: ClockKeeper | None = None) -> Identity:
    """Enrol with a ticket, or install a bundle. ``keeper``: may set the clock. Raises AgentError."""
    if offer.name.lower().endswith(TICKET_SUFFIX):
        return join.join(ticket.parse(offer.content), state, keeper=keeper)
    return identity.install(bundle.read(offer.content), state)


class LabelledMedia:
    """Every block device whose file system has our label."""

    def __init__(self, runner: Runner, mount_point: Path, *, own: str = layout.device(layout.CONFIG)) -> None:
        self._runner = runner
        self._mount_point = mount_point
        self._own = own

    def signature(self) -> Sequence[str]:
        return [f"{device} {_disk_number(device)}" for device in self._devices()]

    def offers(self) -> Sequence[Offer]:
        found: list[Offer] = []
        for device in self._devices():
            try:
                with self._mounted(device, "ro") as directory:
                    found += _read(directory, device)
            except (LinuxError, OSError) as error:
                _log.warning("%s cannot be read: %s", device, error)
        return found

    def erase(self, offer: Offer) -> None:
        with self._mounted(offer.device, "rw,sync") as directory:
            path = directory / offer.name
            if path.read_bytes() == offer.content:
                with path.open("r+b") as file:
                    file.write(bytes(len(offer.content)))
                    file.flush()
                    os.fsync(file.fileno())
                path.unlink()

    @contextmanager
    def _mounted(self, device: str, options: str) -> Iterator[Path]:
        self._mount_point.mkdir(parents=True, exist_ok=True, mode=0o700)
        words = f"{options},nosuid,nodev,noexec,umask=077"
        self._runner.run(["mount", "-t", "vfat", "-o", words, device, str(self._mount_point)], timeout_s=30)
        try:
            yield self._mount_point
        finally:
            self._runner.run(["umount", str(self._mount_point)], timeout_s=60)

    def _devices(self) -> list[str]:
        argv = ["blkid", "-c", "/dev/null", "-o", "device", "-t", f"LABEL={layout.CONFIG.label}"]
        # Its status says whether there is one.
        found = self._runner.run(argv, timeout_s=30, check=False).stdout.split()
        own = os.path.realpath(self._own)
        return sorted(found, key=lambda device: (os.path.realpath(device) == own, device))


def _read(directory: Path, device: str) -> list[Offer]:
    wanted = sorted(
        path for path in directory.iterdir() if path.suffix.lower() in (TICKET_SUFFIX, BUNDLE_SUFFIX) and path.is_file()
    )
    found = []
    for path in wanted[:FILES_MAX]:
        with path.open("rb") as file:
            found.append(Offer(device, path.name, file.read(bundle.BUNDLE_MAX_BYTES + 1)))
    return found


def _disk_number(device: str) -> str:
    """The kernel's running number of the disk: the same stick, plugged in again, has another one."""
    place = Path("/sys/class/block") / Path(os.path.realpath(device)).name
    for candidate in (place / "diskseq", place.resolve().parent / "diskseq"):
        with suppress(OSError):
            return candidate.read_text().strip()
    return ""


def _used(state: Path) -> str:
    """Digest of the file that served last."""
    try:
        return (state / USED).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def _told(error: AgentError) -> str:
    return text(error.key, error.params)


def _say(key: str, params: Mapping[str, object]) -> None:
    print(f"kyoten: {text(key, params)}", flush=True)  # noqa: T201


def main(argv: Sequence[str] | None = None) -> int:
    """The service: ends when the router is enrolled and every medium was looked at."""
    del argv
    logging.basicConfig(format="kyoten: %(message)s", level=logging.INFO, stream=sys.stdout)
    runner = SubprocessRunner()
    media = LabelledMedia(runner, DEFAULT_RUNTIME / "medium")
    done: list[str] = []
    keeper = ClockKeeper(known.bounds(None))
    keeper.begin()

    def taking(offer: Offer, state: Path) -> Identity:
        who = take(offer, state, keeper=keeper)
        done.append(who.enrolment.site)
        return who

    provisioning = Provisioning(DEFAULT_STATE, media, _say, taking)
    while not provisioning.step():
        time.sleep(AGAIN_S if provisioning.unreached else LOOK_S)
    if done:
        # An agent that has an identity keeps it until it is started anew.
        runner.run(["systemctl", "restart", "--no-block", _AGENT_UNIT], timeout_s=30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
