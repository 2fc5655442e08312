"""The data partition of a disk that was cut: mended as the initial RAM disk does it, read with the agent's own code.

Works on a copy of the partition. What is read is put into a directory that looks like the agent's state directory.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from firmware.image.places import ROUTER
from router_agent import identity
from router_agent.enrolment import certificates
from router_agent.errors import BundleError, StateError
from router_agent.logs import writer
from router_agent.settings import journal as settings_journal
from router_agent.settings.keys import SettingsError, parse
from router_agent.settings.machine import SettingsState
from router_agent.update import journal as update_journal
from router_agent.update import marks, step
from router_agent.update.assemble import BUNDLE
from router_agent.update.machine import Stage, UpdateState
from router_agent.update.marks import Mark

#: Where the agent's state directory is on the partition, which is mounted at /var.
STATE = "/lib/kyoten-agent"
_SETTINGS = "settings.json"
_JOURNAL = f"update/{update_journal.NAME}"
_MARKS = f"update/{marks.NAME}"
_DOCUMENT = f"update/{step.DOCUMENT}"
#: From when on the agent counts on the verified document, and on the bundle.
_HAVE_DOCUMENT = (Stage.JUDGED, Stage.FETCHING, Stage.ASSEMBLED, Stage.INSTALLING)
_HAVE_BUNDLE = (Stage.ASSEMBLED, Stage.INSTALLING)
_IDENTITIES = ("identity", "identity.before", "identity.old")
_FSCK_CONFIGURATION = ROUTER / "boot" / "initrd" / "etc" / "e2fsck.conf"
#: e2fsck(8): 4 errors were left, 8 and above it could not do its work.
_LEFT, _FAILED = 4, 8
_HEAD_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class DataFound:
    """What a start would find. ``site`` empty: not enrolled, or what it needs for that does not fit together.

    ``usable``: it can be mounted and was not taken for an empty one. ``mended``: more than its journal had to be done.
    ``sound``: a full check finds nothing more. ``settings``, ``update`` None: the agent could not read it. ``log``:
    the agent's own, of this and earlier starts.
    """

    usable: bool
    mended: bool = False
    sound: bool = False
    site: str = ""
    settings: SettingsState | None = None
    update: UpdateState | None = None
    marks: tuple[Mark, ...] = ()
    log: str = ""
    damage: tuple[str, ...] = ()


@contextmanager
def place(directory: Path) -> Iterator[tuple[Path, Path]]:
    """Where one partition's copy and its files go for a while."""
    shutil.rmtree(directory, ignore_errors=True)
    files = directory / "files"
    files.mkdir(parents=True)
    try:
        yield directory / "data.img", files
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def read(image: Path, directory: Path) -> DataFound:
    """Mend this partition and read it; ``directory``: empty, for what is read."""
    with image.open("rb") as file:
        if not file.read(_HEAD_BYTES).strip(b"\0"):
            return DataFound(usable=False, damage=("the data partition is empty: it would be made anew",))
    status = _fsck("-p", image)
    mended = status >= _LEFT
    if mended:
        status = _fsck("-f", "-y", image)
    if status >= _FAILED:
        return DataFound(usable=False, mended=mended, damage=(f"e2fsck ends with {status}",))
    state, listing = _extract(image, directory)
    damage: list[str] = []
    return DataFound(
        usable=True,
        mended=mended,
        sound=_fsck("-f", "-n", image) == 0,
        site=_site(state, damage),
        settings=_settings(state, damage),
        update=(update := _update(state, listing, damage)),
        marks=() if update is None or update.trial is None else marks.read(state, update.trial.trial_id),
        log=_log(state),
        damage=tuple(damage),
    )


def _fsck(*words: str | Path) -> int:
    environment = {**os.environ, "E2FSCK_CONFIG": str(_FSCK_CONFIGURATION)}
    argv = ["e2fsck", *map(str, words)]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False).returncode


def _extract(image: Path, directory: Path) -> tuple[Path, str]:
    """The agent's files, out of the partition; those that are not there are not there. And debugfs's listing."""
    state = directory / "state"
    (state / "update").mkdir(parents=True)
    logs = [f"{writer.NAME}.{number}" for number in range(writer.OLD_FILES, 0, -1)]
    orders = [f"rdump {STATE}/{name} {state}" for name in _IDENTITIES]
    orders += [
        f"dump {STATE}/{name} {state / name}" for name in (_SETTINGS, _JOURNAL, _MARKS, _DOCUMENT, *logs, writer.NAME)
    ]
    listing = _debugfs(image, [f"ls -p {STATE}", f"ls -p {STATE}/update"])
    _debugfs(image, [order for order in orders if f"/{Path(order.split()[1]).name}/" in listing])
    return state, listing


def _debugfs(image: Path, orders: Sequence[str]) -> str:
    done = subprocess.run(
        ["debugfs", "-f", "-", str(image)], input="\n".join(orders), capture_output=True, text=True, check=False
    )
    return done.stdout


def _site(state: Path, damage: list[str]) -> str:
    """The site that this router is, if everything that it needs for that is there."""
    if not identity.is_installed(state):
        return ""
    try:
        found = identity.load(state)
        members = identity.members(found)
    except (StateError, BundleError) as error:
        damage.append(f"identity: {error}")
        return ""
    site = found.enrolment.site
    wrong = certificates.check(members, found.enrolment, site=site, key_pem=members["site.key"])
    damage += [f"identity: {problem}" for problem in wrong]
    return "" if wrong else site


def _settings(state: Path, damage: list[str]) -> SettingsState | None:
    try:
        found = settings_journal.Journal(state).load()
        parse(found.in_force.values)
    except (StateError, SettingsError) as error:
        damage.append(f"settings: {error}")
        return None
    return found


def _update(state: Path, listing: str, damage: list[str]) -> UpdateState | None:
    """The update's state; what it counts on must be there (else the agent would begin anew, which costs bytes)."""
    try:
        found = update_journal.Journal(state).load()
    except StateError as error:
        damage.append(f"the update's journal: {error}")
        return None
    if found.facts is not None and found.stage in _HAVE_DOCUMENT:
        document = (state / _DOCUMENT).read_bytes() if (state / _DOCUMENT).exists() else b""
        if hashlib.sha256(document).hexdigest() != found.facts.document_sha256:
            damage.append(f"{found.stage.value}, and the release's document is not there")
    have = found.facts if found.stage in _HAVE_BUNDLE else None
    if have is not None and f"/{BUNDLE}/{have.bundle_bytes}/" not in listing:
        damage.append(f"{found.stage.value}, and the bundle is not there whole")
    return found


def _log(state: Path) -> str:
    """The agent's log, oldest line first."""
    names = [*(f"{writer.NAME}.{number}" for number in range(writer.OLD_FILES, 0, -1)), writer.NAME]
    return "".join((state / name).read_text(errors="replace") for name in names if (state / name).exists())
