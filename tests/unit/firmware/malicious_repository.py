"""A TUF repository in memory that can be told to attack: after tuf's own RepositorySimulator, in our words.

It shares no code with our signing half. `publish` signs what stands in the fields; a test changes fields, takes
signers away, or puts other octets under a name. `open` is the device's port.
"""

import hashlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from firmware.release import (
    CHUNK_BYTES,
    Applicability,
    File,
    Module,
    ModuleApplicability,
    Release,
    SlotFacts,
    custom,
    module_custom,
    module_path,
    release_path,
    render,
    render_module,
)

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
HARDWARE = "generic-x86-64"

Reply = Callable[[], Iterator[bytes]]


def a_file(content: bytes = b"payload") -> File:
    digest = hashlib.sha256(content).hexdigest()
    return File(f"{digest}.zst", len(content), digest, CHUNK_BYTES, (digest,))


def a_release(counter: int = 5, *, hardware: str = HARDWARE, version: str | None = None) -> Release:
    return Release(
        hardware=hardware,
        version=version or f"2026.{counter}",
        counter=counter,
        created="2026-11-20T00:00:00Z",
        applicability=Applicability(1, (hardware,), 300, False),
        bundle_size=9,
        bundle_sha256="c" * 64,
        slot=SlotFacts("d" * 64, "e" * 64, 10, 81920, "f" * 64),
        full=a_file(),
        deltas=(),
        notes="",
    )


def a_module(counter: int = 1) -> Module:
    return Module(
        "quectel",
        f"1.{counter}",
        counter,
        "2026-11-20T00:00:00Z",
        "modem-table",
        ModuleApplicability((), "", ""),
        a_file(b"m"),
        "",
    )


class MaliciousRepository:
    """``signers``: by role. Thresholds: root 2 of 3, targets 2 of 3, the others 1 of 1."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now
        self.signers = {
            role: [CryptoSigner.generate_ed25519() for _ in range(count)]
            for role, count in (("root", 3), ("targets", 3), ("snapshot", 1), ("timestamp", 1))
        }
        self.root = Root(version=1, expires=now + timedelta(days=365), consistent_snapshot=True)
        for role, signers in self.signers.items():
            self.root.roles[role].threshold = 2 if len(signers) > 1 else 1
            for signer in signers:
                self.root.add_key(signer.public_key, role)
        self.targets = Targets(version=1, expires=now + timedelta(days=90))
        self.snapshot = Snapshot(version=1, expires=now + timedelta(days=14))
        self.timestamp = Timestamp(version=1, expires=now + timedelta(days=2))
        self.files: dict[tuple[str, str], bytes] = {}
        self.replies: dict[tuple[str, str], Reply] = {}
        self.asked: list[str] = []
        self.publish_root()
        self.bootstrap = self.files["metadata", "1.root.json"]

    def open(self, kind: str, name: str) -> Iterator[bytes]:
        self.asked.append(name)
        if (kind, name) in self.replies:
            return self.replies[kind, name]()
        if (kind, name) not in self.files:
            raise FileNotFoundError(name)
        data = self.files[kind, name]
        return iter([data[start : start + 1000] for start in range(0, len(data), 1000)])

    def publish_root(self, *, also: list[CryptoSigner] | None = None) -> None:
        self._put("root", self.root, [*self.signers["root"], *(also or [])])

    def next_root(self) -> None:
        """The fields of the next version; `publish_root` signs it."""
        self.root = deepcopy(self.root)
        self.root.version += 1

    def replace_key(self, role: str, count: int = 1) -> list[CryptoSigner]:
        """Other keys for a role, in a new root that the old and new root keys sign; the old signers."""
        before = list(self.signers[role])
        self.next_root()
        for old in before:
            self.root.revoke_key(old.public_key.keyid, role)
        self.signers[role] = [CryptoSigner.generate_ed25519() for _ in before]
        for new in self.signers[role]:
            self.root.add_key(new.public_key, role)
        self.publish_root(also=before if role == "root" else None)
        return before

    def add(self, release: Release, document: bytes | None = None, *, path: str | None = None) -> str:
        """List a release; its path."""
        data = render(release) if document is None else document
        return self.put_target(path or release_path(release.hardware, release.version), data, custom(release))

    def add_module(self, module: Module) -> str:
        return self.put_target(module_path(module.name, module.version), render_module(module), module_custom(module))

    def put_target(self, path: str, data: bytes, said: object) -> str:
        entry = TargetFile.from_data(path, data, ["sha256"])
        entry.unrecognized_fields["custom"] = said
        self.targets.targets[path] = entry
        folder, _, name = path.rpartition("/")
        self.files["targets", f"{folder}/{hashlib.sha256(data).hexdigest()}.{name}"] = data
        return path

    def publish(self, *, targets: bool = True, snapshot: bool = True) -> None:
        """The next versions of targets, snapshot and timestamp, with hashes."""
        if targets:
            self.targets.version += 1
            self._put("targets", self.targets, self.signers["targets"])
        if snapshot:
            self.snapshot.version += 1
            self.snapshot.meta["targets.json"] = self._meta("targets", self.targets.version)
            self._put("snapshot", self.snapshot, self.signers["snapshot"])
        self.publish_timestamp()

    def publish_timestamp(self) -> None:
        self.timestamp.version += 1
        self.timestamp.snapshot_meta = self._meta("snapshot", self.snapshot.version)
        self.timestamp.unrecognized_fields["x-kyoten-signed-at"] = f"{self.now:%Y-%m-%dT%H:%M:%SZ}"
        self.sign_timestamp()

    def sign_timestamp(self) -> None:
        self._put("timestamp", self.timestamp, self.signers["timestamp"])

    def sign_snapshot(self) -> None:
        self._put("snapshot", self.snapshot, self.signers["snapshot"])

    def at(self, now: datetime) -> None:
        """Time goes on, and everything is signed anew for as long as usual."""
        self.now = now
        self.targets.expires = now + timedelta(days=90)
        self.snapshot.expires = now + timedelta(days=14)
        self.timestamp.expires = now + timedelta(days=2)

    def saved(self) -> dict[tuple[str, str], bytes]:
        """What is served now, to be served again later."""
        return dict(self.files)

    def _meta(self, role: str, version: int) -> MetaFile:
        return MetaFile.from_data(version, self.files["metadata", f"{version}.{role}.json"], ["sha256"])

    def _put(self, role: str, signed: Root | Targets | Snapshot | Timestamp, signers: list[CryptoSigner]) -> None:
        metadata = Metadata(deepcopy(signed))
        for signer in signers:
            metadata.sign(signer, append=True)
        name = "timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json"
        self.files["metadata", name] = metadata.to_bytes()
