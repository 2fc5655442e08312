"""python-tuf's client workflow over our own transport. Its types, URLs and exceptions end here.

What python-tuf does not do is added: an instant as argument, a floor under the clock, a limit of time, roots that list
one key twice are refused, and each way to be deceived has a key of its own.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from firmware.errors import TrustError
from firmware.fields import TIME_FORMAT, instant
from firmware.keymaterial import has_twins

#: Field of the timestamp metadata: when it was signed. An instant that has certainly passed.
SIGNED_AT = "x-kyoten-signed-at"
#: Field of the targets metadata: what was taken back, and why.
YANKED = "x-kyoten-yanked"

ROOT_MAX_BYTES = 128 * 1024
TIMESTAMP_MAX_BYTES = 16 * 1024
SNAPSHOT_MAX_BYTES = 64 * 1024
#: 360 octets a release: some 2,900 of them.
TARGETS_MAX_BYTES = 1 << 20
#: Roots that one refresh walks through; the next one goes on.
ROOT_STEPS_MAX = 64

_METADATA, _TARGETS = "metadata", "targets"

T = TypeVar("T", Root, Timestamp)

# What it says of every file is nothing that a router's log should hold.
logging.getLogger("tuf").setLevel(logging.ERROR)


class Source(Protocol):
    """Where metadata and documents come from: our transport's side of it."""

    def open(self, kind: str, name: str) -> Iterator[bytes]:
        """The octets of ``name`` (``metadata``: ``3.root.json``; ``targets``: ``releases/...``) in pieces of at most
        some 100 kB. Whoever implements it bounds the wait for each piece.

        Raises FileNotFoundError: there is none, said the cloud. SourceError: the transport failed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """One entry of the targets metadata."""

    path: str
    length: int
    hashes: dict[str, str]
    custom: object


@dataclass(frozen=True, slots=True)
class View:
    """What the repository says, as far as it is believed."""

    root: Root
    timestamp_version: int
    snapshot_version: int
    targets_version: int
    targets: dict[str, Target]
    yanked: object


@dataclass(frozen=True, slots=True)
class Limits:
    """``total_s``: for one refresh or one document, all of it."""

    total_s: float
    monotonic: Callable[[], float]


def refresh(directory: Path, bootstrap: bytes, source: Source, *, at: datetime, limits: Limits) -> View:
    """Bring the metadata in ``directory`` up to date as of ``at``.

    What was believed before an error stays written. Raises TrustError, SourceError; OSError: the disk.
    """
    fetcher = _Fetcher(source, limits)
    config = UpdaterConfig(
        max_root_rotations=ROOT_STEPS_MAX,
        max_delegations=0,  # there are none: targets keys speak for themselves
        root_max_length=ROOT_MAX_BYTES,
        timestamp_max_length=TIMESTAMP_MAX_BYTES,
        snapshot_max_length=SNAPSHOT_MAX_BYTES,
        targets_max_length=TARGETS_MAX_BYTES,
    )
    try:
        refuse_twins(bootstrap)
        updater = Updater(str(directory), f"{_METADATA}/", fetcher=fetcher, config=config, bootstrap=bootstrap)
        trusted = updater._trusted_set  # it has no other way to be told the time
        trusted.reference_time = at
        updater.refresh()
    except (TrustError, OSError):
        raise
    except exceptions.ExpiredMetadataError as error:
        raise TrustError(
            "firmware.metadata-expired", role=_expired(trusted, at) or fetcher.role, at=at.strftime(TIME_FORMAT)
        ) from error
    except exceptions.RepositoryError as error:
        raise _translated(error, fetcher) from error
    except exceptions.DownloadHTTPError as error:
        raise TrustError("firmware.metadata-missing", name=fetcher.name) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # Metadata of wrong types that its parsers let through.
        raise TrustError("firmware.metadata-damaged", name=fetcher.name) from error
    targets = trusted.targets
    return View(
        root=trusted.root,
        timestamp_version=trusted.timestamp.version,
        snapshot_version=trusted.snapshot.version,
        targets_version=targets.version,
        targets={path: Target(path, file.length, file.hashes, file.custom) for path, file in _files(targets).items()},
        yanked=targets.unrecognized_fields.get(YANKED),
    )


def fetch_target(target: Target, source: Source, *, maximum: int, limits: Limits) -> bytes:
    """The octets of a target, checked. Raises TrustError, SourceError."""
    digest = target.hashes.get("sha256")
    if digest is None or target.length > maximum:
        raise TrustError("firmware.metadata-damaged", name="targets")
    directory, _, name = target.path.rpartition("/")
    fetcher = _Fetcher(source, limits)
    try:
        data = fetcher.download_bytes(f"{_TARGETS}/{directory}/{digest}.{name}", target.length)
    except exceptions.DownloadHTTPError as error:
        raise TrustError("firmware.target-missing", path=target.path) from error
    try:
        TargetFile(target.length, target.hashes, target.path).verify_length_and_hashes(data)
    except exceptions.LengthOrHashMismatchError as error:
        raise TrustError("firmware.target-replaced", path=target.path) from error
    return data


def floor(directory: Path | None, bootstrap: bytes, built_at: datetime) -> datetime:
    """An instant that has certainly passed: the image was built, the newest trusted timestamp was signed.

    A timestamp that the newest known root does not vouch for counts no more: whoever stole the key may have dated it.
    """
    if directory is None:
        return built_at
    try:
        root = Metadata[Root].from_bytes(bootstrap).signed
        kept = Metadata[Root].from_bytes((directory / "root.json").read_bytes()).signed
        newest = kept if kept.version > root.version else root
        timestamp = Metadata[Timestamp].from_bytes((directory / "timestamp.json").read_bytes())
        newest.verify_delegate(Timestamp.type, timestamp.signed_bytes, timestamp.signatures)
        signed_at = instant(timestamp.signed.unrecognized_fields[SIGNED_AT])
    except (OSError, exceptions.RepositoryError, ValueError, TypeError, KeyError, AttributeError):
        return built_at
    return max(built_at, min(signed_at, timestamp.signed.expires - timedelta(seconds=1)))


def root_version(directory: Path | None) -> int:
    """Of the newest root that was believed; 0: none."""
    try:
        if directory is None:
            return 0
        return Metadata[Root].from_bytes((directory / "root.json").read_bytes()).signed.version
    except (OSError, DeserializationError):
        return 0


def refuse_twins(data: bytes) -> None:
    """Raises TrustError: a root that lists one key twice in one role, where one holder would count as two."""
    try:
        root = Metadata[Root].from_bytes(data).signed
        role = has_twins(root) if isinstance(root, Root) else None
    except (exceptions.RepositoryError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise TrustError("firmware.metadata-damaged", name="root") from error
    if role is not None:
        raise TrustError("firmware.key-twice", role=role)


class _Fetcher(FetcherInterface):
    """python-tuf's port, filled by ours."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self._source, self._limits = source, limits
        self._until = limits.monotonic() + limits.total_s
        #: The file that was asked for last, and what came.
        self.name = "root.json"
        self.data = b""

    def _fetch(self, url: str) -> Iterator[bytes]:
        kind, _, self.name = url.partition("/")
        try:
            yield from self._source.open(kind, self.name)
        except FileNotFoundError as error:
            raise exceptions.DownloadHTTPError(self.name, 404) from error

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """In memory, where the parent class has a file."""
        found = bytearray()
        for piece in self._fetch(url):
            found += piece
            if len(found) > max_length:
                raise TrustError("firmware.endless", name=self.name, maximum=max_length)
            if self._limits.monotonic() > self._until:
                raise TrustError("firmware.too-slow", name=self.name, limit_s=self._limits.total_s)
        self.data = bytes(found)
        if self.role == Root.type:
            refuse_twins(self.data)
        return self.data

    @property
    def role(self) -> str:
        """Of the file that was asked for last."""
        return self.name.removesuffix(".json").rpartition(".")[2]

    @property
    def wanted_version(self) -> int | None:
        """The version that the name of the file says."""
        number = self.name.partition(".")[0]
        return int(number) if number.isdecimal() else None


def _files(targets: Targets) -> dict[str, TargetFile]:
    return targets.targets


def _expired(trusted: Mapping[str, Signed], at: datetime) -> str | None:
    """The first that is too old of what was believed; None: it is the file that came last, which was not."""
    roles = (Root.type, Timestamp.type, Snapshot.type)
    return next((role for role in roles if role in trusted and trusted[role].is_expired(at)), None)


def _translated(error: exceptions.RepositoryError, fetcher: _Fetcher) -> TrustError:
    role = fetcher.role
    if isinstance(error, exceptions.UnsignedMetadataError):
        return TrustError("firmware.signatures-missing", role=role)
    if isinstance(error, exceptions.LengthOrHashMismatchError):
        return TrustError("firmware.metadata-mixed", role=role)
    if isinstance(error, exceptions.BadVersionNumberError):
        if role == Root.type:
            return TrustError("firmware.root-chain", wanted=fetcher.wanted_version or 0)
        # A file with a version in its name that holds another one was put together from two states.
        mixed = fetcher.wanted_version is not None and _version(fetcher.data) != fetcher.wanted_version
        return TrustError("firmware.metadata-mixed" if mixed else "firmware.metadata-rollback", role=role)
    return TrustError("firmware.metadata-damaged", name=fetcher.name)


def _version(data: bytes) -> int:
    try:
        return Metadata[Targets].from_bytes(data).signed.version
    except DeserializationError:
        return 0
