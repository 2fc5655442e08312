"""The repository's directory. What is served:

    metadata/<n>.root.json, <n>.targets.json, <n>.snapshot.json, timestamp.json
    targets/releases/<hardware>/<sha256>.<version>.json, targets/modules/<name>/<sha256>.<version>.json
    payload/<sha256>[.zst]

What is not: ``staged/``, the next root and targets while signatures are gathered, with the root that counts beside
them, so that the directory can be carried to a holder by itself. Every file is written whole and flushed. What points
to something is written after it; the timestamp comes last of all.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from firmware import durable
from firmware.errors import RepositoryError
from firmware.release import File
from firmware.repository.served import METADATA

TARGETS, PAYLOAD, STAGED = "targets", "payload", "staged"
#: The root that counts, beside what is to be signed.
CARRIED_ROOT = "trusted-root.json"
#: As much of a payload file as is in memory at once.
PIECE_BYTES = 1 << 20

T = TypeVar("T", Root, Snapshot, Targets, Timestamp)


class Storage:
    """One repository. All methods raise RepositoryError: ``firmware.repository-unreadable``, ``-unwritable``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.metadata = directory / METADATA
        self.staged_directory = directory / STAGED

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time. Raises RepositoryError: ``firmware.repository-busy``."""
        try:
            durable.make_directory(self.directory)
            with durable.only_one(self.directory / ".lock"):
                yield
        except BlockingIOError:
            raise RepositoryError("firmware.repository-busy", path=str(self.directory)) from None
        except OSError as error:
            raise self._unwritable(error) from None

    def root(self) -> Metadata[Root] | None:
        """The newest published root; None: nothing was published yet."""
        versions = [int(path.name.partition(".")[0]) for path in self.metadata.glob("[0-9]*.root.json")]
        return read(self.metadata / f"{max(versions)}.root.json", Root) if versions else None

    def published_root(self) -> Metadata[Root]:
        """The newest published root. Raises RepositoryError: ``firmware.repository-empty``."""
        root = self.root()
        if root is None:
            raise RepositoryError("firmware.repository-empty", path=str(self.directory))
        return root

    def root_before(self, version: int) -> Metadata[Root] | None:
        """The published root before this version; None: it is the first."""
        return read(self.metadata / f"{version - 1}.root.json", Root) if version > 1 else None

    def root_bytes(self, version: int) -> bytes:
        """A published root as it was signed."""
        return _bytes(self.metadata / f"{version}.root.json")

    def timestamp(self) -> Metadata[Timestamp] | None:
        """The published timestamp; None: there is none yet."""
        path = self.metadata / "timestamp.json"
        return read(path, Timestamp) if path.exists() else None

    def snapshot(self) -> Metadata[Snapshot] | None:
        """The snapshot that the timestamp points to."""
        timestamp = self.timestamp()
        if timestamp is None:
            return None
        return read(self.metadata / f"{timestamp.signed.snapshot_meta.version}.snapshot.json", Snapshot)

    def targets(self) -> Metadata[Targets] | None:
        """The targets that the snapshot points to."""
        snapshot = self.snapshot()
        if snapshot is None:
            return None
        return read(self.metadata / f"{snapshot.signed.meta['targets.json'].version}.targets.json", Targets)

    def staged_root(self) -> Metadata[Root] | None:
        """The next root, if one is being signed."""
        path = self.staged_directory / "root.json"
        return read(path, Root) if path.exists() else None

    def staged_targets(self) -> Metadata[Targets] | None:
        """The next targets, if they are being signed."""
        path = self.staged_directory / "targets.json"
        return read(path, Targets) if path.exists() else None

    def stage(self, metadata: Metadata[Root] | Metadata[Targets]) -> None:
        """Put a file up for signing, or back with one signature more."""
        root = self.root()
        durable.make_directory(self.staged_directory)
        if root is not None:
            durable.write(self.staged_directory / CARRIED_ROOT, self.root_bytes(root.signed.version))
        durable.write(self.staged_directory / f"{metadata.signed.type}.json", metadata.to_bytes())

    def unstage(self) -> None:
        """Nothing is up for signing any more."""
        shutil.rmtree(self.staged_directory, ignore_errors=True)

    def publish(self, metadata: Metadata[Root] | Metadata[Targets] | Metadata[Snapshot] | Metadata[Timestamp]) -> None:
        """Write one file of metadata where devices find it."""
        durable.make_directory(self.metadata)
        number = "" if metadata.signed.type == Timestamp.type else f"{metadata.signed.version}."
        durable.write(self.metadata / f"{number}{metadata.signed.type}.json", metadata.to_bytes())

    def write_document(self, path: str, document: bytes) -> None:
        """Write a release or module document under the name that it is asked for by."""
        folder, _, name = path.rpartition("/")
        directory = self.directory / TARGETS / folder
        durable.make_directory(directory)
        durable.write(directory / f"{hashlib.sha256(document).hexdigest()}.{name}", document)

    def document(self, path: str, digest: str) -> bytes:
        """A document that is listed."""
        folder, _, name = path.rpartition("/")
        return _bytes(self.directory / TARGETS / folder / f"{digest}.{name}")

    def take_payload(self, file: File, source: Path) -> None:
        """Copy what travels into the repository, checked piece by piece.

        Raises RepositoryError: it is not there, or not what the document says.
        """
        directory = self.directory / PAYLOAD
        durable.make_directory(directory)
        place = directory / file.name
        if place.exists() and place.stat().st_size == file.size:
            return  # named by its content, and renamed into place only when that was right
        temporary = directory / f".{file.name}.new"
        try:
            with (source / file.name).open("rb") as stream, temporary.open("wb") as copy:
                whole = hashlib.sha256()
                for digest in file.chunks:
                    chunk = stream.read(file.chunk_bytes)
                    if hashlib.sha256(chunk).hexdigest() != digest:
                        raise RepositoryError("firmware.payload-differs", name=file.name)
                    whole.update(chunk)
                    copy.write(chunk)
                if stream.read(1) or whole.hexdigest() != file.sha256 or copy.tell() != file.size:
                    raise RepositoryError("firmware.payload-differs", name=file.name)
            temporary.chmod(0o644)
            durable.flush_file(temporary)
            temporary.rename(place)
            durable.flush_directory(directory)
        except FileNotFoundError:
            raise RepositoryError("firmware.payload-missing", name=file.name, path=str(source)) from None
        finally:
            temporary.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> RepositoryError:
        return RepositoryError(
            "firmware.repository-unwritable", path=str(error.filename or self.directory), reason=str(error.strerror)
        )


def read(path: Path, kind: type[T]) -> Metadata[T]:
    """A file of metadata of one kind. Raises RepositoryError: it cannot be read, or is something else."""
    try:
        found = Metadata[T].from_bytes(_bytes(path))
    except TufError:
        raise RepositoryError("firmware.repository-unreadable", path=str(path), reason="JSON") from None
    if not isinstance(found.signed, kind):
        raise RepositoryError("firmware.repository-unreadable", path=str(path), reason=found.signed.type)
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RepositoryError("firmware.repository-unreadable", path=str(path), reason=str(error.strerror)) from None
