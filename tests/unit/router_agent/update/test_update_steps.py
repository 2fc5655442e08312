"""The steps themselves, on a real repository that is signed, a slot in a file and real deltas: offer to bundle.

Only the line (mutual TLS) and the machine (which release runs, where slots are) are stood in for.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from firmware import chunks, delta_make, slotblock, trees, zstd
from firmware.errors import SourceError, TrustError
from firmware.release import Applicability, Delta, Module, ModuleApplicability, Release, SlotFacts, render_module
from firmware.release import render as render_release
from firmware.repository import keys, publish, staging
from firmware.repository.roles import ROOT, TARGETS, Terms
from firmware.repository.storage import Storage
from firmware.slotblock import SlotBlock
from router_agent.errors import CloudRefusedError, CloudUnreachableError, StateError
from router_agent.identity import Identity
from router_agent.update import appliance, assemble, slots, step
from router_agent.update.assemble import DeltaFailedError, PayloadLostError, ReleaseWrongError
from router_agent.update.journal import parse_facts
from router_agent.update.ports import Running
from router_agent.update.step import Context
from router_agent.update.work import Done, Failed, Fault, Progress, Step

HARDWARE = "generic-x86-64"
TERMS = Terms()
NOW = datetime.now(UTC)


@dataclass
class Cloud:
    """A repository with one holder for each role, and the directory as it is served."""

    directory: Path
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.storage = Storage(self.directory / "repository")
        (self.directory / "built").mkdir(parents=True)
        self.online: dict[str, object] = {}
        holders = {role: keys.make("ed25519") for role in (ROOT, TARGETS)}
        self.signers = {role: keys.signer(key) for role, key in holders.items()}
        public = {role: [keys.public(key, role)] for role, key in holders.items()}
        staging.begin(self.storage, public, {ROOT: 1, TARGETS: 1}, self._make_online, terms=TERMS, now=NOW)
        self.publish(ROOT, TARGETS)

    def _make_online(self, role: str) -> object:
        key = keys.make("ed25519")
        public = keys.public(key, f"online-{role}")
        self.online[public.keyid] = keys.signer(key)
        return public

    def publish(self, *roles: str) -> None:
        for role in roles or (TARGETS,):
            staging.sign(self.storage.staged_directory, self.signers[role])
        publish.publish(self.storage, lambda key: self.online.get(key.keyid), terms=TERMS, now=NOW)  # type: ignore[arg-type, return-value]

    def stage(self, release: Release) -> None:
        built = self.directory / "built"
        staging.stage_release(self.storage, release, render_release(release), built, terms=TERMS, now=NOW)
        self.publish()

    def root(self) -> bytes:
        return self.storage.root_bytes(1)

    # The client's side

    def open(self, kind: str, name: str) -> Iterator[bytes]:
        yield (self.storage.directory / kind / name).read_bytes()

    def ranged(self, name: str, start: int, end: int, size: int) -> Iterator[bytes]:
        self.asked.append(name)
        path = self.storage.directory / "payload" / name
        if not path.exists():
            raise CloudRefusedError("agent.update-payload-missing", file=name, endpoint="x")
        yield path.read_bytes()[start:end]

    def pass_over(self) -> None:
        """There is no other."""

    def close(self) -> None:
        """Nothing is kept open."""


def slot_image(content: bytes) -> bytes:
    """A slot image round some content that looks like a squashfs."""
    used = 96 + len(content)
    data = b"hsqs".ljust(40, b"\0") + used.to_bytes(8, "little") + bytes(48) + content
    blocks = -(-len(data) // 4096)
    data = data.ljust(blocks * 4096, b"\0")
    salt = bytes(32)
    tree = trees.compute(iter([data]), blocks, salt)
    root_hash = hashlib.sha256(salt + tree[:4096]).hexdigest()
    return data + tree + slotblock.render(SlotBlock(root_hash, salt.hex(), blocks, "2026.1"))


OLD = slot_image(b"old" * 40_000)
BUNDLE = b"bundle head" + slot_image(b"old" * 39_000 + b"new" * 1000)


@dataclass
class World:
    """A router and its cloud."""

    cloud: Cloud
    state: Path
    told: list[object] = field(default_factory=list)
    release: Release | None = None

    def publish(self, counter: int = 2, **changes: object) -> Release:
        built = self.cloud.directory / "built"
        (built / "new").write_bytes(BUNDLE)
        zstd.compress_file(built / "new", built / "full", level=1)
        made = delta_make.make_delta(self.state / "slot-a", built / "new", built / "delta", level=1)
        files = {}
        for name in ("full", "delta"):
            found = chunks.describe(built / name, suffix=".zst", chunk_bytes=4096)
            (built / name).rename(built / found.name)
            files[name] = found
        self.release = replace(
            Release(
                hardware=HARDWARE,
                version=f"2026.{counter}",
                counter=counter,
                created="2026-11-22T09:30:00Z",
                applicability=Applicability(0, (HARDWARE,), 10, mains_power=False),
                bundle_size=len(BUNDLE),
                bundle_sha256=hashlib.sha256(BUNDLE).hexdigest(),
                slot=SlotFacts("d" * 64, "e" * 64, 10, 81920, "f" * 64),
                full=files["full"],
                deltas=(Delta(1, made.from_sha256, made.from_size, files["delta"], made.memory_mib),),
                notes="",
            ),
            **changes,
        )  # type: ignore[arg-type]
        self.cloud.stage(self.release)
        return self.release

    def do(self, which: Step, **request: object) -> Done | Failed:
        release = self.release
        path = "" if release is None else f"releases/{HARDWARE}/{release.version}.json"
        asked: Mapping[str, object] = {"release": path, "site": "tokyo-1", "target": "B", "agent": "0.2.0", **request}
        running = Running(HARDWARE, "2026.1", 1, "A")
        # No step here speaks TLS, so nobody asks who the router is.
        nobody = cast("Identity", None)
        context = Context(asked, self.state, self.state / "run", running, nobody, self.told.append)
        return step.do(which, context)

    def refreshed(self) -> str:
        """After a refresh, the hash of the document."""
        result = self.do(Step.REFRESH)
        assert isinstance(result, Done), result
        return parse_facts(json.loads(json.dumps(result.result["facts"]))).document_sha256


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(Cloud(tmp_path / "cloud"), tmp_path / "state")
    (made.state / "run").mkdir(parents=True)
    (made.state / "slot-a").write_bytes(OLD)
    (tmp_path / "root.json").write_bytes(made.cloud.root())
    monkeypatch.setattr(appliance, "TRUSTED_ROOT", tmp_path / "root.json")
    monkeypatch.setattr(appliance, "built_at", lambda: NOW)
    monkeypatch.setattr(slots, "device", lambda slot: made.state / f"slot-{slot.lower()}")
    monkeypatch.setattr(step, "connect", lambda _context: made.cloud)
    return made


def test_from_an_offer_to_the_bundle_by_a_delta(world: World) -> None:
    release = world.publish()
    result = world.do(Step.REFRESH)
    assert isinstance(result, Done), result
    facts = parse_facts(json.loads(json.dumps(result.result["facts"])))
    assert (facts.version, facts.counter, facts.hardware) == ("2026.2", 2, (HARDWARE,))
    assert facts.delta_bytes == release.deltas[0].file.size < facts.full_bytes == release.full.size
    assert not facts.permitted
    told = {"document_sha256": facts.document_sha256}
    assert world.do(Step.FETCH, **told) == Done()
    assert set(world.cloud.asked) == {release.deltas[0].file.name}
    assert isinstance(world.told[-1], Progress) and world.told[-1].done == world.told[-1].total
    assert world.do(Step.ASSEMBLE, **told) == Done()
    assert (world.state / "update" / assemble.BUNDLE).read_bytes() == BUNDLE


def test_the_whole_image_makes_the_same_bundle(world: World) -> None:
    release = world.publish()
    told = {"document_sha256": world.refreshed(), "full_only": True}
    assert world.do(Step.FETCH, **told) == Done()
    assert set(world.cloud.asked) == {release.full.name}
    assert world.do(Step.ASSEMBLE, **told) == Done()
    assert (world.state / "update" / assemble.BUNDLE).read_bytes() == BUNDLE


def test_a_slot_that_is_not_what_deltas_are_made_for_takes_the_whole_image(world: World) -> None:
    world.publish()
    (world.state / "slot-a").write_bytes(slot_image(b"something else" * 9000))
    result = world.do(Step.REFRESH)
    assert isinstance(result, Done)
    assert parse_facts(json.loads(json.dumps(result.result["facts"]))).delta_bytes is None


def test_the_running_slots_hash_is_read_once(world: World) -> None:
    world.publish()
    world.refreshed()
    kept = json.loads((world.state / "update" / step.IMAGE_HASH).read_text())
    assert kept["sha256"] == hashlib.sha256(OLD).hexdigest()
    (world.state / "update" / step.IMAGE_HASH).write_text(json.dumps({**kept, "sha256": "0" * 64}))
    result = world.do(Step.REFRESH)
    assert isinstance(result, Done)
    assert parse_facts(json.loads(json.dumps(result.result["facts"]))).delta_bytes is None, "what was kept counted"


def test_a_release_for_other_hardware_or_lower_or_taken_back_is_refused(world: World) -> None:
    release = world.publish()
    path = "releases/generic-arm64/2026.2.json"
    missing = world.do(Step.REFRESH, release=path)
    assert isinstance(missing, Failed)
    assert (missing.fault, missing.problem.key) == (Fault.LATER, "firmware.not-published"), "it may be on its way"
    arm = Applicability(0, ("generic-arm64",), 10, mains_power=False)
    world.cloud.stage(replace(release, hardware="generic-arm64", applicability=arm))
    elsewhere = world.do(Step.REFRESH, release=path)
    assert isinstance(elsewhere, Failed)
    assert (elsewhere.fault, elsewhere.problem.key) == (Fault.REFUSED, "firmware.wrong-hardware")
    staging.stage_yank(world.cloud.storage, f"releases/{HARDWARE}/2026.2.json", "it hurts", terms=TERMS, now=NOW)
    world.cloud.publish()
    yanked = world.do(Step.REFRESH)
    assert isinstance(yanked, Failed) and (yanked.fault, yanked.problem.key) == (Fault.REFUSED, "firmware.yanked")


def test_a_document_that_was_changed_on_the_disk_is_not_used(world: World) -> None:
    world.publish()
    told = {"document_sha256": world.refreshed()}
    (world.state / "update" / step.DOCUMENT).write_bytes(b"{}")
    for which in (Step.FETCH, Step.ASSEMBLE, Step.INSTALL):
        failed = world.do(which, **told)
        assert isinstance(failed, Failed) and failed.fault is Fault.LOST, which


def test_a_bundle_that_rots_is_made_again(world: World) -> None:
    world.publish()
    told = {"document_sha256": world.refreshed()}
    world.do(Step.FETCH, **told)
    world.do(Step.ASSEMBLE, **told)
    (world.state / "update" / assemble.BUNDLE).write_bytes(BUNDLE[:-1] + b"x")
    failed = world.do(Step.INSTALL, **told)
    assert isinstance(failed, Failed)
    assert (failed.fault, failed.problem.key) == (Fault.LOST, "agent.update-bundle-lost")
    assert world.do(Step.ASSEMBLE, **told) == Done()


def test_a_slot_is_read_again_and_held_against_the_release(world: World) -> None:
    (world.state / "slot-b").write_bytes(OLD)
    root_hash = slots.facts(world.state / "slot-b").root_hash
    assert world.do(Step.VERIFY, root_hash=root_hash) == Done()
    for wrong in ({"root_hash": "0" * 64}, {"root_hash": root_hash}):
        failed = world.do(Step.VERIFY, **wrong)
        assert isinstance(failed, Failed) == (wrong["root_hash"] != root_hash)
    (world.state / "slot-b").write_bytes(OLD[:5000] + b"x" + OLD[5001:])
    failed = world.do(Step.VERIFY, root_hash=root_hash)
    assert isinstance(failed, Failed) and failed.problem.key == "agent.slot-damaged"


def test_a_root_of_trust_that_is_missing_is_told(world: World, tmp_path: Path) -> None:
    world.publish()
    (tmp_path / "root.json").unlink()
    failed = world.do(Step.REFRESH)
    assert isinstance(failed, Failed) and failed.problem.key == "agent.update-no-root"


def test_modules_come_by_the_same_channel(world: World) -> None:
    content = b'{"modems": {}}'
    built = world.cloud.directory / "built" / "table"
    built.write_bytes(content)
    file = chunks.describe(built, suffix=".json")
    module = Module(
        "modems", "1.1", 1, "2026-11-22T09:30:00Z", "modem-table", ModuleApplicability((), "0.1", ""), file, ""
    )
    stage_module(world.cloud, module, built)
    result = world.do(Step.MODULES)
    assert result == Done({"changed": ["modems"], "running_yanked": None})
    assert (world.state / "modules" / "modems" / "current" / "content").read_bytes() == content
    assert world.do(Step.MODULES) == Done({"changed": [], "running_yanked": None})


def stage_module(cloud: Cloud, module: Module, payload: Path) -> None:
    payload.rename(payload.with_name(module.file.name))
    staging.stage_module(cloud.storage, module, render_module(module), payload.parent, terms=TERMS, now=NOW)
    cloud.publish()


def test_what_each_failure_means() -> None:
    meant = {
        PayloadLostError("agent.update-payload-lost"): Fault.LOST,
        DeltaFailedError("agent.update-delta-failed"): Fault.FULL,
        ReleaseWrongError("agent.update-release-wrong"): Fault.REFUSED,
        CloudRefusedError("agent.update-payload-missing"): Fault.LOST,
        CloudRefusedError("agent.cloud-refused"): Fault.LATER,
        CloudUnreachableError("agent.cloud-unreachable"): Fault.LATER,
        StateError("agent.update-no-space"): Fault.LATER,
        SourceError("agent.cloud-unreachable"): Fault.LATER,
        TrustError("firmware.yanked"): Fault.REFUSED,
        TrustError("firmware.counter-rollback"): Fault.REFUSED,
        TrustError("firmware.metadata-expired"): Fault.LATER,
    }
    assert {error: step.failed(error).fault for error in meant} == meant
