"""A repository in a directory with its holders, and a device that reads it as it would be served."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from malicious_repository import HARDWARE, NOW, a_release
from securesystemslib.signer import Key, Signer

from firmware.release import CHUNK_BYTES, File, Release, render
from firmware.repository import keys, publish, staging
from firmware.repository.publish import Published
from firmware.repository.roles import ROOT, TARGETS, Terms
from firmware.repository.storage import Storage
from firmware.trust import Device, Trust

TERMS = Terms()


class Served:
    """The directory as the web daemon serves it: the device's port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self, kind: str, name: str) -> Iterator[bytes]:
        yield (self.directory / kind / name).read_bytes()


@dataclass
class World:
    """Holders hanako, taro, jiro sign root and saburo, shiro, goro targets: 2 of 3 each."""

    directory: Path
    now: datetime = NOW
    signers: dict[str, Signer] = field(default_factory=dict)
    online: dict[str, Signer] = field(default_factory=dict)

    @property
    def storage(self) -> Storage:
        return Storage(self.directory / "repository")

    def holder(self, name: str, kind: str = "ed25519") -> Key:
        """A holder's new key, who signs with it from now on; its public half."""
        key = keys.make(kind)
        self.signers[name] = keys.signer(key)
        return keys.public(key, name)

    def make_online(self, role: str) -> Key:
        key = keys.make("ed25519")
        public = keys.public(key, f"online-{role}")
        self.online[public.keyid] = keys.signer(key)
        return public

    def find_online(self, public: Key) -> Signer | None:
        return self.online.get(public.keyid)

    def begin(self, thresholds: Mapping[str, int] | None = None) -> None:
        holders = {
            ROOT: [self.holder(name) for name in ("hanako", "taro", "jiro")],
            TARGETS: [self.holder("saburo", "ecdsa"), self.holder("shiro"), self.holder("goro")],
        }
        wanted = thresholds or {ROOT: 2, TARGETS: 2}
        staging.begin(self.storage, holders, wanted, self.make_online, terms=TERMS, now=self.now)

    def sign(self, *names: str, directory: Path | None = None) -> None:
        for name in names:
            staging.sign(directory or self.storage.staged_directory, self.signers[name])

    def publish(self) -> Published:
        return publish.publish(self.storage, self.find_online, terms=TERMS, now=self.now)

    def opened(self) -> "World":
        """With a first root and an empty list of releases published."""
        self.begin()
        self.sign("hanako", "jiro", "saburo", "goro")
        self.publish()
        return self

    def stage(self, release: Release) -> None:
        staging.stage_release(
            self.storage, release, render(release), self.directory / "built", terms=TERMS, now=self.now
        )

    def build(self, counter: int, *, content: bytes = b"payload") -> Release:
        """A release whose payload lies in a directory, as a build leaves it."""
        import hashlib

        (self.directory / "built").mkdir(exist_ok=True)
        digest = hashlib.sha256(content).hexdigest()
        pieces = [content[start : start + CHUNK_BYTES] for start in range(0, len(content), CHUNK_BYTES)]
        file = File(
            f"{digest}.zst",
            len(content),
            digest,
            CHUNK_BYTES,
            tuple(hashlib.sha256(piece).hexdigest() for piece in pieces),
        )
        (self.directory / "built" / file.name).write_bytes(content)
        return replace(a_release(counter), full=file)

    def release(self, counter: int) -> str:
        """A release, built, staged, signed and published; its path."""
        self.stage(self.build(counter))
        self.sign("saburo", "shiro")
        self.publish()
        return f"releases/{HARDWARE}/2026.{counter}.json"

    def root_now(self) -> bytes:
        return self.storage.root_bytes(self.storage.published_root().signed.version)

    def device(self, name: str, root: bytes, *, counter: int = 1) -> Trust:
        return Trust(
            self.directory / name,
            root=root,
            source=Served(self.storage.directory),
            device=Device(HARDWARE, counter),
            built_at=NOW,
        )
