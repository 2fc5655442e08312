"""Firmware releases at this node: the repository of its configuration, the keys it signs with, and the registry's copy.

The repository's signed metadata is the truth; the registry has what plans need to read quickly.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from cloudside.config import Config
from cloudside.errors import (
    ConfigurationError,
    InputError,
    KyotenError,
    RefusedError,
    UnavailableError,
    combined,
)
from cloudside.registry import releases
from cloudside.registry.callers import Caller
from firmware.errors import DocumentError, FirmwareError, ReleaseError
from firmware.release import parse
from firmware.repository import entries, keys, publish
from firmware.repository.roles import Terms
from firmware.repository.storage import Storage

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer
    from tuf.api.metadata import Root

#: Whose fault it is, where it is not the caller's.
_KINDS: dict[str, type[KyotenError]] = {
    "firmware.below-threshold": RefusedError,
    "firmware.key-not-entitled": RefusedError,
    "firmware.staged-expired": RefusedError,
    "firmware.targets-unsigned": RefusedError,
    "firmware.repository-busy": UnavailableError,
    "firmware.repository-empty": ConfigurationError,
    "firmware.repository-unreadable": ConfigurationError,
    "firmware.repository-unwritable": ConfigurationError,
    "firmware.online-key-missing": ConfigurationError,
}


@contextmanager
def translated() -> Iterator[None]:
    """Errors of the package that imports nothing of ours, as ours: the same keys and parameters."""
    try:
        yield
    except ReleaseError as error:
        raise combined([InputError(one.key, **one.params) for one in error.problems]) from None
    except DocumentError as error:
        raise InputError(error.key, **error.params) from None
    except FirmwareError as error:
        raise _KINDS.get(error.key, InputError)(error.key, **error.params) from None


def terms(config: Config) -> Terms:
    """How long what is signed now is good for."""
    section = config.firmware
    return Terms(section.root_days, section.targets_days, section.snapshot_days, section.timestamp_days)


def online_key_path(directory: Path, keyid: str) -> Path:
    """Where this node keeps the private half of a key for snapshot or timestamp."""
    return directory / f"{keyid[:16]}.key"


class OnlineKeys:
    """The keys that this node signs snapshot and timestamp with."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def make(self, role: str) -> "Key":
        """A new key; its public half. Raises FirmwareError: it cannot be written."""
        made = keys.make("ed25519")
        public = keys.public(made, f"online-{role}")
        keys.write(online_key_path(self.directory, public.keyid), made, None)
        return public

    def forget(self, root: "Root") -> None:
        """Remove the keys that no root names any more: they were replaced. Once the root is published."""
        known = {online_key_path(self.directory, keyid) for keyid in root.keys}
        for path in self.directory.glob("*.key"):
            if path not in known:
                path.unlink()

    def __call__(self, public: "Key") -> "Signer | None":
        """The signer of a public key, if it is here. Raises FirmwareError: readable by others, damaged."""
        path = online_key_path(self.directory, public.keyid)
        if not path.exists():
            return None
        signer = keys.signer(keys.read(path, None))
        return signer if signer.public_key.keyid == public.keyid else None


def renew(config: Config, now: datetime) -> publish.Renewed | None:
    """Renew snapshot and timestamp where it is time; None: nothing was published here yet, or no keys are here.

    Raises KyotenError: the repository or the keys are not as they should be.
    """
    storage = Storage(config.firmware_directory)
    if not storage.metadata.is_dir() or not config.firmware_keys.is_dir():
        return None
    with translated():
        return publish.refresh(storage, OnlineKeys(config.firmware_keys), terms=terms(config), now=now)


def require_signatures(config: Config, now: datetime) -> None:
    """Raises RefusedError: the holders of root or targets have to sign anew soon, or devices believe nothing new."""
    storage = Storage(config.firmware_directory)
    if not storage.metadata.is_dir():
        return
    with translated():
        root, targets = storage.root(), storage.targets()
    for metadata in (root, targets):
        if metadata is not None and metadata.signed.expires - now < timedelta(days=config.firmware.warn_days):
            until = f"{metadata.signed.expires:%Y-%m-%d}"
            raise RefusedError("firmware.expires-soon", role=metadata.signed.type, until=until)


def register(session: Session, caller: Caller, storage: Storage, now: datetime) -> tuple[str, ...]:
    """Bring the registry in line with what is published; the paths of releases. Doing it again changes nothing.

    Raises RefusedError: not an operator; KyotenError: the repository cannot be read.
    """
    with translated():
        targets = storage.targets()
        if targets is None:
            return ()
        known = {row.path: row for row in releases.every(session, caller)}
        found = []
        for entry in entries.listed(targets.signed):
            if not entry.path.startswith("releases/"):
                continue
            found.append(entry.path)
            if entry.yanked is None:
                release = parse(storage.document(entry.path, targets.signed.targets[entry.path].hashes["sha256"]))
                releases.publish(session, caller, release, entry.path, now)
            elif entry.path in known:
                releases.yank(session, caller, hardware=entry.name, version=entry.version, reason=entry.yanked, now=now)
        return tuple(found)
