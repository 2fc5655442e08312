"""A payload becomes the bundle that was signed, or nothing is left but what was fetched."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from firmware import chunks, delta_make, zstd
from firmware.release import Applicability, Delta, File, Release, SlotFacts
from router_agent.errors import StateError
from router_agent.update import assemble as assembling
from router_agent.update.assemble import DeltaFailedError, PayloadLostError, ReleaseWrongError, assemble
from router_agent.update.fetch import DIRECTORY
from router_agent.update.payload_journal import Folder, Payload
from router_agent.update.plan import Plan, Why, plan
from router_agent.update.work import Progress

OLD = random.Random(1).randbytes(1 << 20)
NEW = OLD[: 1 << 19] + b"something new" + OLD[1 << 19 :]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "slot").write_bytes(OLD + bytes(10_000))
    (tmp_path / "old.img").write_bytes(OLD)
    (tmp_path / "new.raucb").write_bytes(NEW)
    (tmp_path / "update").mkdir()
    return tmp_path


@pytest.fixture
def release(place: Path) -> Release:
    zstd.compress_file(place / "new.raucb", place / "full", level=1)
    made = delta_make.make_delta(place / "old.img", place / "new.raucb", place / "delta", level=1)
    full = chunks.describe(place / "full", suffix=".zst", chunk_bytes=4096)
    packed = chunks.describe(place / "delta", suffix=".zst", chunk_bytes=4096)
    return Release(
        hardware="generic-x86-64",
        version="1.1",
        counter=2,
        created="2026-11-22T09:30:00Z",
        applicability=Applicability(0, ("generic-x86-64",), 10, mains_power=False),
        bundle_size=len(NEW),
        bundle_sha256=hashlib.sha256(NEW).hexdigest(),
        slot=SlotFacts("0" * 64, "0" * 64, 1, 4096, "0" * 64),
        full=full,
        deltas=(Delta(1, made.from_sha256, made.from_size, packed, made.memory_mib),),
        notes="",
    )


def by_delta(release: Release) -> Plan:
    return plan(release, running_sha256=hashlib.sha256(OLD).hexdigest(), memory_mib=100)


def in_full(release: Release) -> Plan:
    return plan(release, running_sha256="", memory_mib=100)


def fetched(place: Path, file: File, source: str) -> Payload:
    payload = Payload(Folder(place / "update" / DIRECTORY), file)
    payload.reserve()
    content = (place / source).read_bytes()
    for index in range(len(file.chunks)):
        start, end = chunks.span(file, index)
        assert payload.keep(index, content[start:end])
    return payload


def left(place: Path) -> list[str]:
    return sorted(path.name for path in (place / "update").iterdir())


def test_which_way_a_release_comes(release: Release) -> None:
    delta = release.deltas[0]
    assert by_delta(release) == Plan(delta.file, delta, Why.DELTA)
    assert in_full(release) == Plan(release.full, None, Why.NO_DELTA)
    running = delta.from_sha256
    assert plan(release, running_sha256="1" * 64, memory_mib=100).why is Why.NO_DELTA
    assert plan(release, running_sha256=running, memory_mib=delta.memory_mib - 1).why is Why.MEMORY
    assert plan(release, running_sha256=running, memory_mib=100, full_only=True).why is Why.DELTA_FAILED
    huge = replace(delta, file=replace(delta.file, size=release.full.size))
    assert plan(replace(release, deltas=(huge,)), running_sha256=running, memory_mib=100).delta is None


@pytest.mark.parametrize("way", [by_delta, in_full])
def test_both_ways_give_the_very_same_bundle(place: Path, release: Release, way: type) -> None:
    chosen = way(release)
    fetched(place, chosen.file, "full" if chosen.delta is None else "delta")
    reports: list[Progress] = []
    bundle = assemble(release, chosen, place / "update", place / "slot", report=reports.append)
    assert bundle.read_bytes() == NEW
    assert left(place) == ["bundle.raucb", DIRECTORY]
    assert reports[-1].done == reports[-1].total
    assembling.clear(place / "update")
    assert left(place) == []


def test_a_bundle_that_is_there_is_not_made_again(place: Path, release: Release) -> None:
    fetched(place, release.full, "full")
    assemble(release, in_full(release), place / "update", place / "slot")
    (place / "update" / DIRECTORY / release.full.name).unlink()
    assemble(release, in_full(release), place / "update", place / "slot")
    damaged = bytearray(NEW)
    damaged[5] ^= 1
    (place / "update" / "bundle.raucb").write_bytes(damaged)
    assert not assembling.is_assembled(release, place / "update")
    with pytest.raises(PayloadLostError):
        assemble(release, in_full(release), place / "update", place / "slot")
    assert left(place) == [DIRECTORY]


def test_what_is_not_whole_is_told(place: Path, release: Release) -> None:
    payload = fetched(place, release.full, "full")
    path = place / "update" / DIRECTORY / release.full.name
    content = bytearray(path.read_bytes())
    content[9000] ^= 1
    path.write_bytes(content)
    with pytest.raises(PayloadLostError) as lost:
        assemble(release, in_full(release), place / "update", place / "slot")
    assert lost.value.params["chunks"] == 1
    again = Payload(Folder(place / "update" / DIRECTORY), release.full)
    assert again.missing() == (2,), "the damaged chunk is to be fetched, and no other"
    assert payload.is_complete
    assert left(place) == [DIRECTORY]


def test_a_delta_for_another_image_leads_to_the_whole(place: Path, release: Release) -> None:
    chosen = by_delta(release)
    fetched(place, chosen.file, "delta")
    (place / "slot").write_bytes(OLD[::-1])
    with pytest.raises(DeltaFailedError) as failed:
        assemble(release, chosen, place / "update", place / "slot")
    assert failed.value.params["reason"] == "firmware.delta-other-source"
    assert left(place) == [DIRECTORY]


def test_a_delta_that_makes_another_bundle_is_not_applied(place: Path, release: Release) -> None:
    chosen = by_delta(release)
    fetched(place, chosen.file, "delta")
    with pytest.raises(DeltaFailedError):
        assemble(replace(release, bundle_sha256="1" * 64), chosen, place / "update", place / "slot")
    assert left(place) == [DIRECTORY]


@pytest.mark.parametrize("change", [{"bundle_sha256": "1" * 64}, {"bundle_size": len(NEW) - 1}])
def test_a_payload_that_gives_another_bundle_is_refused(
    place: Path, release: Release, change: dict[str, object]
) -> None:
    fetched(place, release.full, "full")
    with pytest.raises(ReleaseWrongError):
        assemble(replace(release, **change), in_full(release), place / "update", place / "slot")  # type: ignore[arg-type]
    assert left(place) == [DIRECTORY]


def test_a_payload_whose_chunks_are_right_and_whole_is_not_is_refused(place: Path, release: Release) -> None:
    fetched(place, release.full, "full")
    odd = replace(release.full, sha256="2" * 64)
    with pytest.raises(ReleaseWrongError):
        assemble(release, Plan(odd, None, Why.NO_DELTA), place / "update", place / "slot")


def test_without_room_nothing_is_begun(place: Path, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched(place, release.full, "full")
    monkeypatch.setattr(assembling, "RESERVE_BYTES", 1 << 60)
    with pytest.raises(StateError) as full:
        assemble(release, in_full(release), place / "update", place / "slot")
    assert full.value.key == "agent.update-no-space"
    assert left(place) == [DIRECTORY]


def test_without_the_program_it_is_told(place: Path, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched(place, release.full, "full")
    monkeypatch.setattr(zstd, "PROGRAM", "/nowhere/zstd")
    with pytest.raises(StateError) as missing:
        assemble(release, in_full(release), place / "update", place / "slot")
    assert missing.value.key == "agent.update-no-zstd"
    assert left(place) == [DIRECTORY]
