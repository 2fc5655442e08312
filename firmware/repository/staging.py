"""What is up for signing: the next root and the next targets, changed, signed by one holder after the other, collected.

Nothing here is seen by devices. The directory can be carried to a holder's machine and back. A change takes the
signatures away that were there; a step that is done again after a crash does not.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, Root, Targets

from firmware import durable
from firmware.errors import RepositoryError
from firmware.release import Module, Release, module_path, release_path
from firmware.repository import entries, roles
from firmware.repository.roles import ROOT, TARGETS, Standing, Terms
from firmware.repository.storage import CARRIED_ROOT, Storage, read


@dataclass(frozen=True, slots=True)
class Change:
    """What a rotation does to one role. Keys go before others come, so that a holder can have a new one."""

    role: str
    remove: Sequence[str] = ()
    add: Sequence[Key] = ()
    threshold: int | None = None
    #: All keys that the role has go.
    replace: bool = False


def begin(
    storage: Storage,
    holders: Mapping[str, Sequence[Key]],
    thresholds: Mapping[str, int],
    make_online: Callable[[str], Key],
    *,
    terms: Terms,
    now: datetime,
) -> None:
    """Stage the first root and empty targets. Raises RepositoryError: there is a repository already, or what
    `roles.first_root` raises."""
    with storage.locked():
        if storage.root() is not None:
            raise RepositoryError("firmware.repository-exists", path=str(storage.directory))
        root = roles.first_root(holders, thresholds, make_online, terms=terms, now=now)
        storage.unstage()
        storage.stage(root)
        storage.stage(entries.first_targets(terms=terms, now=now))


def stage_release(
    storage: Storage, release: Release, document: bytes, payload: Path, *, terms: Terms, now: datetime
) -> None:
    """Take in a release and its payload files, and stage targets that list it. Raises RepositoryError."""
    with storage.locked():
        staged = _editable_targets(storage, terms, now)
        entries.add_release(staged.signed, release, document)
        entries.check_size(staged)
        for file in (release.full, *(delta.file for delta in release.deltas)):
            storage.take_payload(file, payload)
        storage.write_document(release_path(release.hardware, release.version), document)
        _stage(storage, staged)


def stage_module(
    storage: Storage, module: Module, document: bytes, payload: Path, *, terms: Terms, now: datetime
) -> None:
    """The same for a module."""
    with storage.locked():
        staged = _editable_targets(storage, terms, now)
        entries.add_module(staged.signed, module, document)
        entries.check_size(staged)
        storage.take_payload(module.file, payload)
        storage.write_document(module_path(module.name, module.version), document)
        _stage(storage, staged)


def stage_yank(storage: Storage, path: str, reason: str, *, terms: Terms, now: datetime) -> None:
    """Stage targets without a release or module. Its files stay: who has begun to fetch is told by the metadata."""
    with storage.locked():
        staged = _editable_targets(storage, terms, now)
        entries.yank(staged.signed, path, reason, now=now)
        _stage(storage, staged)


def stage_targets(storage: Storage, *, terms: Terms, now: datetime) -> None:
    """Stage the same targets with a new expiry, for their holders to sign before the old ones end."""
    with storage.locked():
        storage.stage(_editable_targets(storage, terms, now))


def stage_rotation(storage: Storage, change: Change | None, *, terms: Terms, now: datetime) -> None:
    """Stage the next root with other keys or another threshold; None: with a new expiry only.

    Where holders of targets keys change, the targets are staged too: they have to be signed under the new root.
    Raises RepositoryError.
    """
    with storage.locked():
        published = storage.published_root()
        staged = storage.staged_root()
        # Signatures are over what stood there before: they go.
        root = (
            roles.next_root(published, terms=terms, now=now)
            if staged is None or staged.signed.version != published.signed.version + 1
            else Metadata(deepcopy(staged.signed))
        )
        if change is not None:
            for name in tuple(root.signed.roles[change.role].keyids) if change.replace else change.remove:
                roles.remove_key(root.signed, change.role, name)
            for key in change.add:
                roles.add_key(root.signed, change.role, key)
            if change.threshold is not None:
                roles.set_threshold(root.signed, change.role, change.threshold)
        roles.check(root.signed)
        storage.stage(root)
        targets = storage.staged_targets() or storage.targets()
        if targets is not None and roles.targets_standing(targets, root.signed).missing:
            storage.stage(_editable_targets(storage, terms, now))


def sign(storage_or_copy: Path, signer: Signer) -> tuple[str, ...]:
    """Add one holder's signature to each staged file in this directory that the key may sign; their roles.

    The directory may be a copy on another machine. Raises RepositoryError: nothing is staged, or nothing for this key.
    """
    staged = read_staged(storage_or_copy)
    keyid = signer.public_key.keyid
    signed = []
    for role, metadata in staged.items():
        if roles.entitled(role, keyid, _judges(storage_or_copy, staged, role)):
            metadata.sign(signer, append=True)
            signed.append(role)
    if not signed:
        raise RepositoryError("firmware.key-not-entitled", keyid=keyid[:12])
    for role in signed:
        _write_staged(storage_or_copy, staged[role])
    return tuple(signed)


def collect(storage: Storage, copy: Path) -> tuple[str, ...]:
    """Take in the signatures of a copy of the staged files that came back from a holder; whose files changed.

    Raises RepositoryError: the copy is of something else than what is staged now, or damaged.
    """
    with storage.locked():
        taken = []
        ours = read_staged(storage.staged_directory)
        for role, theirs in _carried(copy).items():
            mine = ours.get(role)
            if mine is None or mine.signed_bytes != theirs.signed_bytes:
                raise RepositoryError("firmware.copy-differs", role=role, path=str(copy))
            before = len(mine.signatures)
            for keyid, signature in theirs.signatures.items():
                mine.signatures.setdefault(keyid, signature)
            if len(mine.signatures) > before:
                storage.stage(mine)
                taken.append(role)
        return tuple(taken)


def _carried(copy: Path) -> dict[str, Metadata[Root] | Metadata[Targets]]:
    """What is damaged in it is the copy's fault, not the repository's."""
    try:
        return read_staged(copy)
    except RepositoryError as error:
        if error.key != "firmware.repository-unreadable":
            raise
        raise RepositoryError(
            "firmware.copy-unreadable", path=error.params["path"], reason=error.params["reason"]
        ) from None


def standing(storage: Storage) -> tuple[Standing, ...]:
    """Whose signatures are missing under what is staged."""
    staged = storage.staged_root()
    found = []
    if staged is not None:
        # By its number: a publication that a crash ended may have written this very root.
        found.append(roles.root_standing(staged, storage.root_before(staged.signed.version)))
    judge = staged or storage.root()
    targets = storage.staged_targets()
    if targets is not None and judge is not None:
        found.append(roles.targets_standing(targets, judge.signed))
    return tuple(found)


def _editable_targets(storage: Storage, terms: Terms, now: datetime) -> Metadata[Targets]:
    published = storage.targets()
    staged = storage.staged_targets()
    if published is None:
        if staged is None:
            raise RepositoryError("firmware.repository-empty", path=str(storage.directory))
        fresh = Metadata(deepcopy(staged.signed))
    elif staged is None or staged.signed.version != published.signed.version + 1:
        return entries.next_targets(published, terms=terms, now=now)
    else:
        fresh = Metadata(deepcopy(staged.signed))
    fresh.signed.expires = terms.until(TARGETS, now)
    return fresh


def _stage(storage: Storage, targets: Metadata[Targets]) -> None:
    # The very same content keeps its signatures: a step that is done again must not undo what holders did.
    staged = storage.staged_targets()
    if staged is not None:
        again = deepcopy(targets.signed)
        again.expires = staged.signed.expires
        if again == staged.signed and staged.signatures:
            return
    storage.stage(targets)


def read_staged(directory: Path) -> dict[str, Metadata[Root] | Metadata[Targets]]:
    """What is up for signing in a directory, by role. Raises RepositoryError: nothing is, or it cannot be read."""
    found: dict[str, Metadata[Root] | Metadata[Targets]] = {}
    if (directory / "root.json").exists():
        found[ROOT] = read(directory / "root.json", Root)
    if (directory / "targets.json").exists():
        found[TARGETS] = read(directory / "targets.json", Targets)
    if not found:
        raise RepositoryError("firmware.nothing-staged")
    return found


def _write_staged(directory: Path, metadata: Metadata[Root] | Metadata[Targets]) -> None:
    try:
        durable.write(directory / f"{metadata.signed.type}.json", metadata.to_bytes())
    except OSError as error:
        raise RepositoryError(
            "firmware.repository-unwritable", path=str(directory), reason=str(error.strerror)
        ) from None


def _judges(directory: Path, staged: Mapping[str, Metadata[Root] | Metadata[Targets]], role: str) -> list[Root]:
    """The roots whose word on a role counts: of a root the one before too, of targets the newest alone."""
    found = [metadata.signed for metadata in staged.values() if isinstance(metadata.signed, Root)]
    if (role == ROOT or not found) and (directory / CARRIED_ROOT).exists():
        found.append(read(directory / CARRIED_ROOT, Root).signed)
    return found
