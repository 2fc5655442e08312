"""A payload that has come whole -> the release's bundle on the disk, flushed and checked, or nothing.

Full payloads are unpacked as a stream, deltas are applied to the slot that runs (firmware.delta); both take little
memory. The bundle's name appears when its last byte is on the disk and its hash was right.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from firmware import delta, zstd
from firmware.delta import DeltaError
from firmware.release import Delta, File, Release
from linux.files import rename_durably
from router_agent.errors import AgentError, StateError
from router_agent.update.fetch import DIRECTORY
from router_agent.update.payload_journal import Folder, Payload
from router_agent.update.plan import Plan
from router_agent.update.work import Progress

BUNDLE = "bundle.raucb"
_UNFINISHED = ".bundle.raucb.part"
_PIECE_BYTES = 1 << 20
#: What the bundle must leave free on the data partition, in bytes: journals, settings, logs.
RESERVE_BYTES = 16 << 20


class PayloadLostError(AgentError):
    """The payload is not whole, or no longer what it was: what is missing has to be fetched."""


class DeltaFailedError(AgentError):
    """The delta does not do here: take the whole bundle."""


class ReleaseWrongError(AgentError):
    """What was signed does not fit together: no router can make this bundle. Refuse the release."""


def assemble(
    release: Release,
    plan: Plan,
    directory: Path,
    slot: Path,
    *,
    report: Callable[[Progress], None] = lambda _progress: None,
) -> Path:
    """Make the bundle, ``<directory>/bundle.raucb``. ``slot``: the device of the slot that runs.

    Raises PayloadLostError, DeltaFailedError, ReleaseWrongError; StateError: the disk is full or fails, or the zstd
    program is missing. Only the payload and its journal are left then.
    """
    (directory / _UNFINISHED).unlink(missing_ok=True)
    if is_assembled(release, directory):
        return directory / BUNDLE
    try:
        (directory / BUNDLE).unlink(missing_ok=True)
        _check_payload(directory / DIRECTORY, plan.file)
        _check_room(release, directory)
        packed, output = directory / DIRECTORY / plan.file.name, directory / _UNFINISHED
        try:
            if plan.delta is None:
                _unpack(release, packed, output, report)
            else:
                _patch(release, plan.delta, slot, packed, output, report)
            rename_durably(output, directory / BUNDLE)
        finally:
            output.unlink(missing_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StateError("agent.update-no-space", path=str(directory)) from error
        reason = error.strerror or type(error).__name__
        raise StateError("agent.state-unwritable", path=str(directory), reason=reason) from error
    except zstd.ZstdError as error:
        raise StateError("agent.update-no-zstd", reason=str(error)[:200]) from error
    return directory / BUNDLE


def is_assembled(release: Release, directory: Path) -> bool:
    """Whether the bundle is there and is this release's. Reads all of it."""
    try:
        with (directory / BUNDLE).open("rb") as stream:
            if os.fstat(stream.fileno()).st_size != release.bundle_size:
                return False
            return hashlib.file_digest(stream, "sha256").hexdigest() == release.bundle_sha256
    except OSError:
        return False


def clear(directory: Path) -> None:
    """Remove bundle and payloads. Raises OSError."""
    for name in (_UNFINISHED, BUNDLE):
        (directory / name).unlink(missing_ok=True)
    if (directory / DIRECTORY).exists():
        shutil.rmtree(directory / DIRECTORY)


def _check_payload(place: Path, file: File) -> None:
    """That it is whole and still what was fetched. Raises PayloadLostError; ReleaseWrongError."""
    payload = Payload(Folder(place), file)
    if not payload.is_complete:
        raise PayloadLostError("agent.update-payload-lost", file=file.name, chunks=len(payload.missing()))
    with (place / file.name).open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256:
            return
    bad = payload.recheck()
    if bad:
        raise PayloadLostError("agent.update-payload-lost", file=file.name, chunks=len(bad))
    raise ReleaseWrongError("agent.update-release-wrong", file=file.name)


def _check_room(release: Release, directory: Path) -> None:
    """Raises StateError before hours of flash writes, not after."""
    if shutil.disk_usage(directory).free < release.bundle_size + RESERVE_BYTES:
        raise StateError("agent.update-no-space", path=str(directory))


def _unpack(release: Release, packed: Path, output: Path, report: Callable[[Progress], None]) -> None:
    hashed, done = hashlib.sha256(), 0
    try:
        with output.open("wb") as stream:
            for piece in zstd.decompress_file(packed, most_bytes=release.bundle_size):
                stream.write(piece)
                hashed.update(piece)
                done += len(piece)
                report(Progress(done, release.bundle_size))
            stream.flush()
            os.fsync(stream.fileno())
    except zstd.DamagedError as error:  # its hash was right: it was made so
        raise ReleaseWrongError("agent.update-release-wrong", file=packed.name) from error
    if hashed.hexdigest() != release.bundle_sha256:
        raise ReleaseWrongError("agent.update-release-wrong", file=packed.name)


def _patch(
    release: Release, wanted: Delta, slot: Path, packed: Path, output: Path, report: Callable[[Progress], None]
) -> None:
    try:
        with packed.open("rb") as stream:
            announced, _ = delta.read_instructions(stream)
        made = (announced.from_sha256, announced.from_size, announced.sha256, announced.size)
        if made != (wanted.from_sha256, wanted.from_size, release.bundle_sha256, release.bundle_size):
            raise DeltaFailedError("agent.update-delta-failed", file=packed.name, reason="made for something else")
        delta.apply(slot, packed, output, progress=lambda done, total: report(Progress(done, total)))
    except DeltaError as error:
        raise DeltaFailedError("agent.update-delta-failed", file=packed.name, reason=error.key) from error
