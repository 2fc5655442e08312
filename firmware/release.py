"""Release and module documents: what a device has to know before it fetches anything. Pure: bytes to dataclasses.

A document is one target of the TUF repository, ``releases/<hardware>/<version>.json`` or
``modules/<name>/<version>.json``, so its bytes are vouched for. What it names is fetched by content: a payload file's
name is its SHA-256. Reading is strict (unknown fields, wrong numbers of chunks) and names all problems at once.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from firmware.fields import HASH, NAME, Fields, read_object, write_object

#: Of the documents. An older agent refuses a newer format, so a step between has to understand both.
FORMAT = 1

#: What travels is vouched for in pieces of this size: a broken one costs no more to fetch again.
CHUNK_BYTES = 256 * 1024
CHUNK_MIN_BYTES, CHUNK_MAX_BYTES = 4096, 16 << 20
#: A slot has 768 MiB.
FILE_MAX_BYTES = 1 << 30
#: dm-verity's and squashfs's unit here.
BLOCK_BYTES = 4096

DELTAS_MAX = 64
HARDWARE_MAX = 64
#: Release counters are compared, never added to. Small enough for every reader.
COUNTER_MAX = (1 << 31) - 1

#: Travels over a metered line that nobody set a budget for, in bytes: a package that changed, or a kernel. More wants
#: consent.
UNASKED_MAX_BYTES = 20 << 20

_FILE_NAME = re.compile(r"([0-9a-f]{64})(\.[a-z0-9]{1,8})?\Z", re.ASCII)
#: Kinds of modules that today's agents know. Others are no mistake: an older agent leaves them alone.
MODULE_KINDS = ("plugin", "modem-table", "ca-bundle")


@dataclass(frozen=True, slots=True)
class File:
    """What travels, named by its content: ``<sha256>.zst``. ``chunks``: SHA-256 of each ``chunk_bytes`` of it."""

    name: str
    size: int
    sha256: str
    chunk_bytes: int
    chunks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """What makes the bundle out of another release's slot.img (``from_sha256``, ``from_size`` bytes)."""

    from_counter: int
    from_sha256: str
    from_size: int
    file: File
    #: What putting it together needs, in MiB.
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Applicability:
    """Which devices it is for; the device judges."""

    #: The lowest counter that may update to this one directly; 0: any.
    minimum_from: int
    #: The boards it runs on.
    hardware: tuple[str, ...]
    #: The data partition's free space that it needs, in MiB.
    disk_mib: int
    #: Not on battery.
    mains_power: bool


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """slot.img: squashfs, padding, verity tree. ``data_blocks`` of 4 KiB are hashed; sizes in bytes."""

    root_hash: str
    salt: str
    data_blocks: int
    image_size: int
    image_sha256: str


@dataclass(frozen=True, slots=True)
class Release:
    """One version of the appliance for one kind of hardware. ``counter`` orders releases; versions do not."""

    hardware: str
    version: str
    counter: int
    #: UTC, ``2026-11-22T09:30:00Z``.
    created: str
    applicability: Applicability
    bundle_size: int
    bundle_sha256: str
    slot: SlotFacts
    full: File
    deltas: tuple[Delta, ...]
    notes: str


@dataclass(frozen=True, slots=True)
class ModuleApplicability:
    """Which devices a module is for: boards (empty: all), and agent versions ``agent_from <= v < agent_below``
    (empty: no bound)."""

    hardware: tuple[str, ...]
    agent_from: str
    agent_below: str


@dataclass(frozen=True, slots=True)
class Module:
    """A small part that is delivered by itself: an agent's plugin, a modem's table, a bundle of authorities."""

    name: str
    version: str
    counter: int
    created: str
    kind: str
    applicability: ModuleApplicability
    file: File
    notes: str


def release_path(hardware: str, version: str) -> str:
    """The target that a release is."""
    return f"releases/{hardware}/{version}.json"


def module_path(name: str, version: str) -> str:
    """The target that a module is."""
    return f"modules/{name}/{version}.json"


def parse(data: bytes) -> Release:
    """Read a release document. Raises ReleaseError with everything that is wrong."""
    fields = read_object(data)
    _format(fields)
    release = Release(
        hardware=fields.name("hardware"),
        version=fields.version("version"),
        counter=fields.number("counter", 1, COUNTER_MAX),
        created=fields.time("created"),
        applicability=_applicability(fields.inner("applicability")),
        bundle_size=fields.number("bundle_size", 1, FILE_MAX_BYTES),
        bundle_sha256=fields.hash("bundle_sha256"),
        slot=_slot(fields.inner("slot")),
        full=_file(fields.inner("full")),
        deltas=fields.each("deltas", _delta, maximum=DELTAS_MAX),
        notes=fields.text("notes"),
    )
    fields.end()
    if not fields.problems.found:  # else they would be about stand-ins
        _agreement(release, fields)
    fields.problems.finish()
    return release


def parse_slot_facts(data: bytes) -> SlotFacts:
    """Read a ``slot.json``. Raises ReleaseError with everything that is wrong."""
    fields = read_object(data)
    facts = _slot(fields)
    fields.problems.finish()
    return facts


def render(release: Release) -> bytes:
    """The document of a release; `parse` gives the very same release back."""
    return write_object({"format": FORMAT, **asdict(release)})


def parse_module(data: bytes) -> Module:
    """Read a module document. Raises ReleaseError with everything that is wrong."""
    fields = read_object(data)
    _format(fields)
    module = Module(
        name=fields.name("name"),
        version=fields.version("version"),
        counter=fields.number("counter", 1, COUNTER_MAX),
        created=fields.time("created"),
        kind=fields.name("kind"),
        applicability=_module_applicability(fields.inner("applicability")),
        file=_file(fields.inner("file")),
        notes=fields.text("notes"),
    )
    fields.end()
    fields.problems.finish()
    return module


def render_module(module: Module) -> bytes:
    """The document of a module."""
    return write_object({"format": FORMAT, **asdict(module)})


def custom(release: Release) -> Mapping[str, object]:
    """What the targets metadata repeats of a release, so that a device can judge before it fetches the document."""
    return {
        "hardware": release.hardware,
        "version": release.version,
        "counter": release.counter,
        "minimum_from": release.applicability.minimum_from,
        "delta_from": [delta.from_counter for delta in release.deltas],
        "applicability": _plain(release.applicability),
    }


def module_custom(module: Module) -> Mapping[str, object]:
    """What the targets metadata repeats of a module."""
    return {
        "name": module.name,
        "version": module.version,
        "counter": module.counter,
        "kind": module.kind,
        "applicability": _plain(module.applicability),
    }


def _plain(applicability: Applicability | ModuleApplicability) -> Mapping[str, object]:
    """As JSON has it when it is read back."""
    return {**asdict(applicability), "hardware": list(applicability.hardware)}


def agree(said: object, known: Mapping[str, object]) -> bool:
    """Whether targets metadata says of a release or module what its document does; what a publisher says beyond what
    is known here, and what an older one left out, is no contradiction."""
    return isinstance(said, Mapping) and all(said.get(name, value) == value for name, value in known.items())


def _format(fields: Fields) -> None:
    if fields.number("format") != FORMAT:
        fields.add("firmware.other-format", "format", known=FORMAT)


def _applicability(fields: Fields) -> Applicability:
    found = Applicability(
        minimum_from=fields.number("minimum_from", 0, COUNTER_MAX),
        hardware=fields.texts("hardware", NAME, "firmware.not-a-name", maximum=HARDWARE_MAX),
        disk_mib=fields.number("disk_mib", 0, 1 << 20),
        mains_power=fields.truth("mains_power"),
    )
    fields.end()
    return found


def _module_applicability(fields: Fields) -> ModuleApplicability:
    found = ModuleApplicability(
        hardware=fields.texts("hardware", NAME, "firmware.not-a-name", maximum=HARDWARE_MAX),
        agent_from=_version_or_empty(fields, "agent_from"),
        agent_below=_version_or_empty(fields, "agent_below"),
    )
    fields.end()
    return found


_VERSION_OR_EMPTY = re.compile(r"([0-9][0-9A-Za-z.-]{0,31})?\Z", re.ASCII)


def _version_or_empty(fields: Fields, name: str) -> str:
    return fields.matching(name, _VERSION_OR_EMPTY, "firmware.not-a-version")


def _slot(fields: Fields) -> SlotFacts:
    found = SlotFacts(
        root_hash=fields.hash("root_hash"),
        salt=fields.hash("salt"),
        data_blocks=fields.number("data_blocks", 1, FILE_MAX_BYTES // BLOCK_BYTES),
        image_size=fields.number("image_size", BLOCK_BYTES, FILE_MAX_BYTES),
        image_sha256=fields.hash("image_sha256"),
    )
    fields.end()
    if found.image_size % BLOCK_BYTES or found.data_blocks * BLOCK_BYTES > found.image_size:
        fields.add("firmware.slot-size", "image_size", block=BLOCK_BYTES)
    return found


def _file(fields: Fields) -> File:
    found = File(
        name=fields.matching("name", _FILE_NAME, "firmware.not-a-file-name"),
        size=fields.number("size", 1, FILE_MAX_BYTES),
        sha256=fields.hash("sha256"),
        chunk_bytes=fields.number("chunk_bytes", CHUNK_MIN_BYTES, CHUNK_MAX_BYTES),
        chunks=fields.texts("chunks", HASH, "firmware.not-a-hash", maximum=FILE_MAX_BYTES // CHUNK_MIN_BYTES),
    )
    fields.end()
    if not found.name.startswith(found.sha256):
        fields.add("firmware.name-not-content", "name")
    wanted = -(-found.size // found.chunk_bytes)
    if len(found.chunks) != wanted:
        fields.add("firmware.chunk-count", "chunks", wanted=wanted, found=len(found.chunks))
    return found


def _delta(fields: Fields) -> Delta:
    found = Delta(
        from_counter=fields.number("from_counter", 1, COUNTER_MAX),
        from_sha256=fields.hash("from_sha256"),
        from_size=fields.number("from_size", 1, FILE_MAX_BYTES),
        file=_file(fields.inner("file")),
        memory_mib=fields.number("memory_mib", 0, 1 << 20),
    )
    fields.end()
    return found


def _agreement(release: Release, fields: Fields) -> None:
    """What each field by itself cannot show."""
    if release.hardware not in release.applicability.hardware:
        fields.add("firmware.hardware-not-listed", "applicability.hardware", hardware=release.hardware)
    if release.applicability.minimum_from > release.counter:
        fields.add("firmware.minimum-above", "applicability.minimum_from", counter=release.counter)
    twice = [digest for digest, count in Counter(one.from_sha256 for one in release.deltas).items() if count > 1]
    for digest in twice:
        fields.add("firmware.delta-twice", "deltas", digest=digest)
    for index, delta in enumerate(release.deltas):
        if delta.from_sha256 == release.slot.image_sha256:
            fields.add("firmware.delta-from-itself", f"deltas[{index}]")
