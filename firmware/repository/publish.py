"""What devices find: published when enough holders have signed, and renewed on a clock.

Everything is checked before the first write, and a step that a crash ended can be done again. The root goes first,
then targets, snapshot, and the timestamp last: until that is there devices see what was there before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from firmware.errors import RepositoryError
from firmware.fields import TIME_FORMAT
from firmware.keymaterial import holder
from firmware.repository import roles
from firmware.repository.roles import SNAPSHOT, TIMESTAMP, Terms
from firmware.repository.staging import standing
from firmware.repository.storage import Storage
from firmware.tuf_client import SIGNED_AT

#: Renewed when less than this share of its life is left: a daemon that was down for a day has another day.
_RENEW_BELOW = 0.5

T = TypeVar("T", Snapshot, Timestamp)


@dataclass(frozen=True, slots=True)
class Published:
    """The versions that devices now find; None: that one did not change."""

    root: int | None
    targets: int | None
    snapshot: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Renewed:
    """After a look at the clock: new versions (None: good as it was), and until when the offline ones are good."""

    snapshot: int | None
    timestamp: int | None
    root_until: datetime
    targets_until: datetime


def publish(storage: Storage, online: Callable[[Key], Signer | None], *, terms: Terms, now: datetime) -> Published:
    """Let devices find what is staged. ``online``: the signer for a public key of snapshot or timestamp, if we have it.

    Raises RepositoryError, before anything is written: nothing is staged, signatures are missing (and whose), staged
    files waited until they expired, an online key is not here.
    """
    with storage.locked():
        staged_root, staged_targets = storage.staged_root(), storage.staged_targets()
        if staged_root is None and staged_targets is None:
            raise RepositoryError("firmware.nothing-staged")
        for one in standing(storage):
            if one.missing:
                raise RepositoryError(
                    "firmware.below-threshold",
                    role=one.role,
                    missing=one.missing,
                    signed=", ".join(one.signed) or "-",
                    could=", ".join(one.could),
                )
        for metadata in (staged_root, staged_targets):
            if metadata is not None and metadata.signed.is_expired(now):
                raise RepositoryError("firmware.staged-expired", role=metadata.signed.type)
        _require_next(storage, staged_root)
        root = (staged_root or storage.published_root()).signed
        targets = staged_targets or storage.targets()
        if targets is None or roles.targets_standing(targets, root).missing:
            raise RepositoryError("firmware.targets-unsigned")
        signers = {role: _signers(root, role, online) for role in roles.ONLINE}
        if staged_root is not None:
            storage.publish(staged_root)
        if staged_targets is not None:
            storage.publish(staged_targets)
        snapshot = _new_snapshot(storage, targets, signers[SNAPSHOT], terms, now)
        storage.publish(snapshot)
        timestamp = _new_timestamp(storage, snapshot, signers[TIMESTAMP], terms, now)
        storage.publish(timestamp)
        storage.unstage()
        return Published(
            None if staged_root is None else staged_root.signed.version,
            None if staged_targets is None else staged_targets.signed.version,
            snapshot.signed.version,
            timestamp.signed.version,
        )


def refresh(storage: Storage, online: Callable[[Key], Signer | None], *, terms: Terms, now: datetime) -> Renewed:
    """Renew timestamp and snapshot when their time is half over. For a daemon; doing it too often does nothing.

    Raises RepositoryError: nothing was published yet, another writer is at it, an online key is not here.
    """
    with storage.locked():
        root = storage.published_root().signed
        snapshot, timestamp, targets = storage.snapshot(), storage.timestamp(), storage.targets()
        if snapshot is None or timestamp is None or targets is None:
            raise RepositoryError("firmware.repository-empty", path=str(storage.directory))
        new_snapshot = new_timestamp = None
        if _old(snapshot.signed.expires, terms.snapshot_days, now):
            snapshot = _new_snapshot(storage, targets, _signers(root, SNAPSHOT, online), terms, now)
            new_snapshot = snapshot.signed.version
        if new_snapshot is not None or _old(timestamp.signed.expires, terms.timestamp_days, now):
            timestamp = _new_timestamp(storage, snapshot, _signers(root, TIMESTAMP, online), terms, now)
            new_timestamp = timestamp.signed.version
        if new_snapshot is not None:
            storage.publish(snapshot)
        if new_timestamp is not None:
            storage.publish(timestamp)
        return Renewed(new_snapshot, new_timestamp, root.expires, targets.signed.expires)


def _require_next(storage: Storage, staged: Metadata[Root] | None) -> None:
    """A root that is out is what devices have: no other one may take its number."""
    published = storage.root()
    if staged is None or published is None or staged.signed.version == published.signed.version + 1:
        return
    if staged.signed_bytes != published.signed_bytes:
        raise RepositoryError("firmware.copy-differs", role=staged.signed.type, path=str(storage.staged_directory))


def _signers(root: Root, role: str, online: Callable[[Key], Signer | None]) -> list[Signer]:
    keys = [root.keys[keyid] for keyid in root.roles[role].keyids]
    found = [signer for key in keys if (signer := online(key)) is not None]
    if len(found) < root.roles[role].threshold:
        wanted = ", ".join(f"{holder(key)} ({key.keyid[:12]})" for key in keys)
        raise RepositoryError("firmware.online-key-missing", role=role, keys=wanted)
    return found


def _new_snapshot(
    storage: Storage, targets: Metadata[Targets], signers: Sequence[Signer], terms: Terms, now: datetime
) -> Metadata[Snapshot]:
    before = storage.snapshot()
    meta = {"targets.json": MetaFile.from_data(targets.signed.version, targets.to_bytes(), ["sha256"])}
    version = 1 if before is None else before.signed.version + 1
    return _signed(Metadata(Snapshot(version=version, expires=terms.until(SNAPSHOT, now), meta=meta)), signers)


def _new_timestamp(
    storage: Storage, snapshot: Metadata[Snapshot], signers: Sequence[Signer], terms: Terms, now: datetime
) -> Metadata[Timestamp]:
    before = storage.timestamp()
    meta = MetaFile.from_data(snapshot.signed.version, snapshot.to_bytes(), ["sha256"])
    version = 1 if before is None else before.signed.version + 1
    timestamp = Timestamp(version=version, expires=terms.until(TIMESTAMP, now), snapshot_meta=meta)
    timestamp.unrecognized_fields[SIGNED_AT] = now.astimezone(UTC).strftime(TIME_FORMAT)
    return _signed(Metadata(timestamp), signers)


def _signed(metadata: Metadata[T], signers: Sequence[Signer]) -> Metadata[T]:
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata


def _old(expires: datetime, days: float, now: datetime) -> bool:
    return (expires - now).total_seconds() < days * 86400 * _RENEW_BELOW
