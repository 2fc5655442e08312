"""Who may sign what, for how long: root metadata made and changed, signatures counted. Pure.

Root and targets are signed by people with keys that are offline; snapshot and timestamp by a daemon. Everything that
makes a root is checked here: no key twice in a role, no online key in an offline role, thresholds that can be met.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Role, Root, RootVerificationResult, Targets, VerificationResult

from firmware.errors import RepositoryError
from firmware.keymaterial import has_twins, holder

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
OFFLINE = (ROOT, TARGETS)
ONLINE = (SNAPSHOT, TIMESTAMP)
ROLES = OFFLINE + ONLINE


@dataclass(frozen=True, slots=True)
class Terms:
    """Days that metadata is good for. A device out of reach for longer than the timestamp's just asks again; one whose
    cloud is gone for longer believes nothing new."""

    root_days: float = 365
    targets_days: float = 90
    snapshot_days: float = 14
    timestamp_days: float = 2

    def until(self, role: str, now: datetime) -> datetime:
        """When something signed now expires."""
        days = {
            ROOT: self.root_days,
            TARGETS: self.targets_days,
            SNAPSHOT: self.snapshot_days,
            TIMESTAMP: self.timestamp_days,
        }
        return now.replace(microsecond=0) + timedelta(days=days[role])


@dataclass(frozen=True, slots=True)
class Standing:
    """Signatures under a staged file: whose are there, how many more are wanted, and who could give them."""

    role: str
    signed: tuple[str, ...]
    missing: int
    could: tuple[str, ...]


def first_root(
    holders: Mapping[str, Sequence[Key]],
    thresholds: Mapping[str, int],
    make_online: Callable[[str], Key],
    *,
    terms: Terms,
    now: datetime,
) -> Metadata[Root]:
    """Version 1. ``make_online``: a key for an online role, asked for once all else is right.

    Raises RepositoryError as `check` does.
    """
    root = Root(version=1, expires=terms.until(ROOT, now), consistent_snapshot=True)
    for role in OFFLINE:
        root.roles[role] = Role([], 1)
        for key in holders[role]:
            add_key(root, role, key)
        set_threshold(root, role, thresholds[role])
    check(root, OFFLINE)
    for role in ONLINE:
        root.roles[role] = Role([], 1)
        add_key(root, role, make_online(role))
    check(root)
    return Metadata(root)


def next_root(published: Metadata[Root], *, terms: Terms, now: datetime) -> Metadata[Root]:
    """The version after, the same but for its expiry, signed by nobody yet."""
    root = deepcopy(published.signed)
    root.version += 1
    root.expires = terms.until(ROOT, now)
    return Metadata(root)


def add_key(root: Root, role: str, key: Key) -> None:
    """Let a key sign for a role. Raises RepositoryError: it does already."""
    if key.keyid in root.roles[role].keyids:
        raise RepositoryError("firmware.key-there", role=role, holder=holder(key))
    for keyid in root.roles[role].keyids:
        if holder(root.keys[keyid]) == holder(key):
            # Whose signature is missing is told by name: no two keys of one role have the same.
            raise RepositoryError("firmware.holder-there", role=role, holder=holder(key))
    root.add_key(key, role)


def remove_key(root: Root, role: str, name: str) -> str:
    """Let the key of a holder (or with this id) sign no more for a role; its id. Raises RepositoryError: none such."""
    for keyid in root.roles[role].keyids:
        if name in (holder(root.keys[keyid]), keyid, keyid[:12]):
            root.revoke_key(keyid, role)
            return keyid
    raise RepositoryError("firmware.no-such-holder", role=role, holder=name)


def set_threshold(root: Root, role: str, threshold: int) -> None:
    """How many signatures a role wants. `check` afterwards."""
    root.roles[role].threshold = threshold


def check(root: Root, names: Sequence[str] = ROLES) -> None:
    """Raises RepositoryError: a threshold that cannot be met or is below 1, a key twice, an online key in an offline
    role: whoever breaks into the cloud must not be a holder."""
    for name in names:
        role = root.roles[name]
        if not 1 <= role.threshold <= len(role.keyids):
            raise RepositoryError(
                "firmware.threshold-unmeetable", role=name, threshold=role.threshold, keys=len(role.keyids)
            )
    try:
        twice = has_twins(root)
    except ValueError as error:
        raise RepositoryError("firmware.key-unfit", scheme=str(error)) from None
    if twice is not None:
        raise RepositoryError("firmware.key-twice", role=twice)
    offline = {keyid for name in OFFLINE for keyid in root.roles[name].keyids}
    for name in ONLINE:
        for keyid in root.roles[name].keyids:
            if keyid in offline:
                raise RepositoryError("firmware.key-online", role=name, holder=holder(root.keys[keyid]))


def root_standing(staged: Metadata[Root], published: Metadata[Root] | None) -> Standing:
    """A new root wants its own threshold and that of the one before."""
    result = staged.signed.get_root_verification_result(
        None if published is None else published.signed, staged.signed_bytes, staged.signatures
    )
    return _standing(ROOT, result, max(result.first.missing, result.second.missing))


def targets_standing(targets: Metadata[Targets], root: Root) -> Standing:
    """Targets metadata under a root."""
    result = root.get_verification_result(TARGETS, targets.signed_bytes, targets.signatures)
    return _standing(TARGETS, result, result.missing)


def entitled(role: str, keyid: str, roots: Sequence[Root]) -> bool:
    """Whether a key's signature counts for a role under any of these roots."""
    return any(keyid in root.roles[role].keyids for root in roots)


def holders(root: Root, role: str) -> tuple[str, ...]:
    """Who may sign for a role."""
    return tuple(holder(root.keys[keyid]) for keyid in root.roles[role].keyids)


def _standing(role: str, result: VerificationResult | RootVerificationResult, missing: int) -> Standing:
    signed = {holder(key) for key in result.signed.values()}
    could = {holder(key) for keyid, key in result.unsigned.items() if keyid not in result.signed}
    return Standing(role, tuple(sorted(signed)), missing, tuple(sorted(could)))
