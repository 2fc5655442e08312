"""A release or module as a directory that is carried to the repository: its document, and what travels.

    release.json | module.json     the document
    <sha256>.zst, <sha256>.delta   payload
    slot.img                       kept here so that later releases can make deltas from it; never published

Building the image is `firmware.image`'s; making the payload `firmware.delta_make`'s.
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from firmware import chunks, delta_make, durable, module_content
from firmware.errors import RepositoryError
from firmware.release import (
    BLOCK_BYTES,
    CHUNK_BYTES,
    MODULE_KINDS,
    Applicability,
    Delta,
    File,
    Module,
    ModuleApplicability,
    Release,
    SlotFacts,
    parse,
    parse_module,
    render,
    render_module,
)

RELEASE_DOCUMENT, MODULE_DOCUMENT, SLOT = "release.json", "module.json", "slot.img"
FULL_SUFFIX, DELTA_SUFFIX = ".zst", ".delta"

#: A delta above this share of the full payload saves less than it costs a router to put together.
_DELTA_WORTH = 0.8


@dataclass(frozen=True, slots=True)
class Identity:
    """What a person decides of a release."""

    hardware: str
    version: str
    counter: int
    #: UTC, ``2026-11-22T09:30:00Z``.
    created: str
    applicability: Applicability
    notes: str


def check(identity: Identity) -> None:
    """Raises ReleaseError: no valid document would come of this, with all that is wrong."""
    nothing = File("0" * 64, 1, "0" * 64, CHUNK_BYTES, ("0" * 64,))
    parse(render(_release(identity, nothing, SlotFacts("0" * 64, "0" * 64, 1, BLOCK_BYTES, "0" * 64), nothing, ())))


def release(
    identity: Identity,
    *,
    bundle: Path,
    slot: Path,
    facts: SlotFacts,
    earlier: Sequence[Path],
    output: Path,
    level: int = delta_make.LEVEL,
    say: Callable[[str, dict[str, str | int]], None] = lambda _key, _params: None,
) -> Release:
    """Make the directory of a release. ``earlier``: directories of releases to make deltas from.

    ``level``: zstd's. ``say``: told what happens, as a key and parameters. Raises RepositoryError: an earlier one is of
    other hardware, is not older, or lacks its slot image; what was given makes no valid document: ReleaseError; the
    disk: OSError.
    """
    check(identity)
    before = [(place, _earlier(place, identity)) for place in earlier]
    output.mkdir(parents=True, exist_ok=True)
    packing = output / "packing"
    try:
        say("firmware.packing-full", {})
        delta_make.make_full(bundle, packing, level=level)
        full = _take(packing, FULL_SUFFIX)
        deltas = []
        for place, old in before:
            say("firmware.packing-delta", {"version": old.version})
            made = delta_make.make_delta(place / SLOT, bundle, packing, slot=facts, level=level)
            if made.from_sha256 != old.slot.image_sha256:
                raise RepositoryError("firmware.slot-differs", path=str(place / SLOT))
            if packing.stat().st_size > full.size * _DELTA_WORTH:
                say("firmware.delta-not-worth-it", {"version": old.version})
                continue
            file = _take(packing, DELTA_SUFFIX)
            deltas.append(Delta(old.counter, made.from_sha256, made.from_size, file, made.memory_mib))
    finally:
        packing.unlink(missing_ok=True)
    made_release = _release(identity, chunks.describe(bundle), facts, full, deltas)
    document = render(made_release)
    parse(document)  # what no device would read is not handed out
    if not (output / SLOT).exists():
        _link_or_copy(slot, output / SLOT)
    durable.write(output / RELEASE_DOCUMENT, document)
    return made_release


def module(
    content: Path,
    *,
    name: str,
    version: str,
    counter: int,
    created: str,
    kind: str,
    applicability: ModuleApplicability,
    notes: str,
    output: Path,
) -> Module:
    """Make the directory of a module. Raises ReleaseError: what was given makes no valid document; RepositoryError: the
    content is not what its kind says, and every router would refuse it; OSError."""
    if kind not in MODULE_KINDS:
        raise RepositoryError("firmware.module-kind", kind=kind[:40], known=", ".join(MODULE_KINDS))
    if content.stat().st_size > module_content.CONTENT_MAX_BYTES:
        raise RepositoryError("firmware.module-too-large", path=str(content), most=module_content.CONTENT_MAX_BYTES)
    try:
        module_content.check(kind, content.read_bytes(), name=name)
    except module_content.WRONG as error:
        reason = f"{type(error).__name__}: {error}"[:150]
        raise RepositoryError("firmware.module-unfit", path=str(content), kind=kind, reason=reason) from None
    output.mkdir(parents=True, exist_ok=True)
    packing = output / "packing"
    shutil.copyfile(content, packing)
    try:
        file = _take(packing, "")
    finally:
        packing.unlink(missing_ok=True)
    if file.size > module_content.MODULE_MAX_BYTES:
        (output / file.name).unlink()
        raise RepositoryError("firmware.module-too-large", path=str(content), most=module_content.MODULE_MAX_BYTES)
    made = Module(name, version, counter, created, kind, applicability, file, notes)
    document = render_module(made)
    parse_module(document)
    durable.write(output / MODULE_DOCUMENT, document)
    return made


def _release(identity: Identity, bundle: File, facts: SlotFacts, full: File, deltas: Sequence[Delta]) -> Release:
    return Release(
        hardware=identity.hardware,
        version=identity.version,
        counter=identity.counter,
        created=identity.created,
        applicability=identity.applicability,
        bundle_size=bundle.size,
        bundle_sha256=bundle.sha256,
        slot=facts,
        full=full,
        deltas=tuple(deltas),
        notes=identity.notes,
    )


def _earlier(place: Path, identity: Identity) -> Release:
    try:
        old = parse((place / RELEASE_DOCUMENT).read_bytes())
    except FileNotFoundError:
        raise RepositoryError("firmware.no-release-there", path=str(place)) from None
    if old.hardware != identity.hardware or old.counter >= identity.counter:
        raise RepositoryError(
            "firmware.earlier-unfit", path=str(place), hardware=old.hardware, version=old.version, counter=old.counter
        )
    if not (place / SLOT).exists():
        raise RepositoryError("firmware.slot-missing", path=str(place / SLOT))
    return old


def _take(packing: Path, suffix: str) -> File:
    """Give a file the name of its content."""
    file = chunks.describe(packing, suffix=suffix)
    packing.rename(packing.with_name(file.name))
    return file


def _link_or_copy(source: Path, target: Path) -> None:
    with suppress(OSError):  # another file system
        target.hardlink_to(source)
        return
    shutil.copyfile(source, target)
