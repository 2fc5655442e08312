"""A small router's disk: boot state, two slots without a system, a data partition with an agent's files."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv4Network, ip_network
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cloudside.pki import authority
from cloudside.pki.authority import Authority, Leaf
from firmware import bootstate, layout, slotblock, trees
from firmware.bootstate import BootState
from firmware.image import bootloader
from firmware.layout import DATA, MIB, Slot
from firmware.slotblock import SlotBlock
from router_agent.report.firmware import FirmwareOffer
from router_agent.settings import journal as settings_journal
from router_agent.settings.machine import SettingsState, Version
from router_agent.update import assemble, step
from router_agent.update import journal as update_journal
from router_agent.update.machine import ReleaseFacts, Stage, Trial, UpdateState

SITE = "tokyo-1"
OFFER = FirmwareOffer("releases/generic-x86-64/0.2.0.json", 2, "rollout-1")
DOCUMENT, BUNDLE = b"what was verified", b"what RAUC installs"
SETTINGS = Version(3, {"tunnel.dpd_s": 17})
_NOW = datetime(2026, 11, 1, tzinfo=UTC)
_ENROLMENT = {
    "format": 1, "site": SITE, "tenant": "acme", "overlay": "10.10.1.0/24", "lan": "192.168.1.0/24",
    "gateways": ["203.0.113.2"], "gateway_identity": "vpn.kyoten", "service_address": "10.255.255.1",
    "reachable": "10.0.0.0/8", "endpoints": [{"address": "10.255.255.1", "port": 8443, "in_tunnel": True}],
    "endpoint_name": "agent.kyoten", "heartbeat_s": 30,
}  # fmt: skip


def slot_image(directory: Path, version: str, counter: int) -> bytes:
    """A slot image as the build makes it, with a few blocks in it."""
    root = directory / f"root-{version}"
    (root / "boot").mkdir(parents=True)
    (root / "usr/lib/kyoten").mkdir(parents=True)
    sums = ""
    for name in ("vmlinuz", "initrd.img"):
        content = f"{name} of {version}\n".encode() * 3000
        (root / "boot" / name).write_bytes(content)
        sums += f"{hashlib.sha256(content).hexdigest()}  {name}\n"
    (root / "boot/SHA256SUMS").write_text(sums)
    (root / "usr/lib/kyoten/release.json").write_text(json.dumps({"version": version, "counter": counter}))
    path = directory / f"{version}.squashfs"
    _run("mksquashfs", root, path, "-noI", "-noD", "-noF", "-noX", "-quiet", "-no-progress", "-all-root")
    data = path.read_bytes()
    blocks = slotblock.data_blocks(data)
    data = data[: blocks * trees.BLOCK_BYTES].ljust(blocks * trees.BLOCK_BYTES, b"\0")
    salt = hashlib.sha256(version.encode())
    tree = trees.compute(iter([data]), blocks, salt.digest())
    root_hash = hashlib.sha256(salt.digest() + tree[: trees.BLOCK_BYTES]).hexdigest()
    return data + tree + slotblock.render(SlotBlock(root_hash, salt.hexdigest(), blocks, version))


def identity() -> dict[str, bytes]:
    """An identity as the cloud gives it."""
    number = iter(range(1, 9))
    keys: Iterator[ec.EllipticCurvePrivateKey] = iter(lambda: ec.generate_private_key(ec.SECP256R1()), None)
    root_key = next(keys)
    root = Authority("root", authority.make_root(root_key, now=_NOW, serial=next(number)), root_key)

    def below(name: str, block: str) -> Authority:
        own = next(keys)
        made = authority.make_authority(
            root, name=name, block=IPv4Network(block), key=own.public_key(), now=_NOW, serial=next(number)
        )
        return Authority(name, made, own)

    cloud, tenant, own = below("cloud", "10.0.0.0/8"), below("tenant-acme", "10.10.0.0/16"), next(keys)
    leaf = Leaf(SITE, (SITE,), (authority.CLIENT_AUTH,), blocks=(ip_network("10.10.1.0/24"),))
    certificate = authority.make_leaf(tenant, leaf, key=own.public_key(), now=_NOW, serial=next(number))
    return {
        "bundle.json": json.dumps(_ENROLMENT).encode(),
        "site.key": own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "site.crt": certificate.public_bytes(Encoding.PEM),
        "tenant-authority.crt": tenant.certificate.public_bytes(Encoding.PEM),
        "cloud-authority.crt": cloud.certificate.public_bytes(Encoding.PEM),
        "root.crt": root.certificate.public_bytes(Encoding.PEM),
        "device_id": b"0f" * 32,
        "ssh_host_ed25519_key": b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
        "ssh_host_ed25519_key.pub": b"ssh-ed25519 AAAA",
        "authorized_keys": b"ssh-ed25519 AAAA operator",
    }


@dataclass(frozen=True, slots=True)
class Parts:
    """What disks are made of; each is made once."""

    directory: Path
    a: bytes
    b: bytes
    identity: dict[str, bytes]

    @classmethod
    def make(cls, directory: Path) -> "Parts":
        return cls(directory, slot_image(directory, "0.1.0", 1), slot_image(directory, "0.2.0", 2), identity())

    @property
    def facts(self) -> ReleaseFacts:
        """Of the release in slot B."""
        root_hash = slotblock.parse(self.b[-trees.BLOCK_BYTES :]).root_hash
        document = hashlib.sha256(DOCUMENT).hexdigest()
        hardware = ("generic-x86-64",)
        return ReleaseFacts("0.2.0", 2, hardware, 1, 3072, False, len(BUNDLE), root_hash, 9, None, 0, document)

    def update(self, stage: Stage) -> UpdateState:
        """An update from slot A to slot B that stands there."""
        trial = Trial("t-1", "B", "A", "0.1.0", 600.0, 1500.0, (), "the boot before")
        known = stage is not Stage.OFFERED
        return UpdateState(
            stage=stage,
            offer=None if stage is Stage.IDLE else OFFER,
            facts=self.facts if known else None,
            trial=trial if stage is Stage.TRIAL else None,
            tries=1,
        )

    def state(self, update: UpdateState) -> Path:
        """The tree of a data partition."""
        tree = self.directory / "var"
        _run("rm", "-rf", tree)
        state = tree / "lib/kyoten-agent"
        (state / "identity").mkdir(parents=True)
        for name, content in self.identity.items():
            (state / "identity" / name).write_bytes(content)
        settings_journal.Journal(state).save(SettingsState(SETTINGS))
        update_journal.Journal(state).save(update)
        (state / "update" / step.DOCUMENT).write_bytes(DOCUMENT)
        (state / "update" / assemble.BUNDLE).write_bytes(BUNDLE)
        (state / "agent.log").write_text("2026-11-01T00:00:00Z INFO agent started: site tokyo-1\n")
        return tree

    def disk(self, path: Path, boot: BootState, update: UpdateState, *, b: bytes | None = None) -> Path:
        """A disk with slot B's image, or this instead of it."""
        tree = self.state(update)
        with path.open("wb") as file:
            file.truncate(layout.DISK_MIN_MIB * MIB)
        with path.open("r+b") as file:
            bootloader.write_state(file, boot)
            for slot, image in ((Slot.A, self.a), (Slot.B, self.b if b is None else b)):
                file.seek(layout.offset_mib(layout.SLOTS[slot]) * MIB)
                file.write(image)
        size = layout.size_mib(DATA, layout.DISK_MIN_MIB)
        options = f"offset={layout.offset_mib(DATA) * MIB},lazy_itable_init=1,nodiscard,root_owner=0:0"
        _run("mke2fs", "-q", "-F", "-t", "ext4", "-L", DATA.label, "-d", tree, "-E", options, path, f"{size}M")
        return path


def trial_of_b(boot: BootState) -> BootState:
    """With a trial of slot B set up."""
    return replace(boot, trial=bootstate.Trial(Slot.B, "t-1", 1500))


def _run(*argv: str | Path) -> None:
    subprocess.run([str(word) for word in argv], check=True, capture_output=True, stdin=subprocess.DEVNULL)
