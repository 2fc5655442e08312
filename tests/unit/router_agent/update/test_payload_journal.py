"""What is recorded is on the disk, whatever cuts the power at which moment."""

import os
import random
from pathlib import Path

import pytest
from cutting_disk import CuttingDisk, PowerCutError

from firmware import chunks
from firmware.release import File
from router_agent.errors import StateError
from router_agent.update.payload_journal import Folder, Payload, tidy

CONTENT = random.Random(1).randbytes(5 * 4096 + 100)


def file_of(content: bytes, tmp_path: Path) -> File:
    path = tmp_path / "described"
    path.write_bytes(content)
    return chunks.describe(path, suffix=".zst", chunk_bytes=4096)


@pytest.fixture
def file(tmp_path: Path) -> File:
    return file_of(CONTENT, tmp_path)


def chunk(index: int) -> bytes:
    return CONTENT[index * 4096 : (index + 1) * 4096]


def fill(payload: Payload) -> None:
    payload.reserve()
    for index in payload.missing():
        assert payload.keep(index, chunk(index))


def test_a_payload_is_kept_over_restarts(tmp_path: Path, file: File) -> None:
    first = Payload(Folder(tmp_path / "payload"), file)
    assert (first.have_bytes, first.is_complete) == (0, False)
    first.reserve()
    assert first.keep(5, chunk(5))
    assert first.keep(2, chunk(2))
    again = Payload(Folder(tmp_path / "payload"), file)
    assert again.have == {2, 5}
    assert again.have_bytes == 4096 + 100
    assert again.missing() == (0, 1, 3, 4)
    fill(again)
    whole = Payload(Folder(tmp_path / "payload"), file)
    assert whole.is_complete
    assert (tmp_path / "payload" / file.name).read_bytes() == CONTENT


def test_a_wrong_chunk_changes_nothing(tmp_path: Path, file: File) -> None:
    payload = Payload(Folder(tmp_path / "payload"), file)
    payload.reserve()
    for content in (chunk(1), chunk(0)[:-1], chunk(0) + b"x", b""):
        assert not payload.keep(0, content)
    assert payload.have == frozenset()
    assert (tmp_path / "payload" / file.name).read_bytes() == bytes(len(CONTENT))


def test_another_payload_knows_nothing_of_this_ones_chunks(tmp_path: Path, file: File) -> None:
    fill(Payload(Folder(tmp_path / "payload"), file))
    other = file_of(CONTENT[::-1], tmp_path)
    place = tmp_path / "payload"
    (place / f"{other.name}.journal").write_bytes((place / f"{file.name}.journal").read_bytes())
    (place / other.name).write_bytes(CONTENT)
    assert Payload(Folder(place), other).have == frozenset()


@pytest.mark.parametrize("size", [0, 100, len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_file_of_another_size_is_begun_anew(tmp_path: Path, file: File, size: int) -> None:
    fill(Payload(Folder(tmp_path / "payload"), file))
    os.truncate(tmp_path / "payload" / file.name, size)
    payload = Payload(Folder(tmp_path / "payload"), file)
    assert payload.have == frozenset()
    fill(payload)
    assert Payload(Folder(tmp_path / "payload"), file).is_complete


def test_a_damaged_journal_costs_what_it_no_longer_says(tmp_path: Path, file: File) -> None:
    fill(Payload(Folder(tmp_path / "payload"), file))
    journal = tmp_path / "payload" / f"{file.name}.journal"
    whole = journal.read_bytes()
    for at in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[at] ^= 0xFF
        journal.write_bytes(broken)
        assert len(Payload(Folder(tmp_path / "payload"), file).have) == 5
    journal.write_bytes(whole[:-1])
    payload = Payload(Folder(tmp_path / "payload"), file)
    assert len(payload.missing()) == 1
    fill(payload)
    assert Payload(Folder(tmp_path / "payload"), file).is_complete, "the record behind a torn one was not found"


def test_what_the_disk_forgot_is_found_and_missing_again(tmp_path: Path, file: File) -> None:
    fill(Payload(Folder(tmp_path / "payload"), file))
    path = tmp_path / "payload" / file.name
    content = bytearray(path.read_bytes())
    content[4096 + 7] ^= 1
    path.write_bytes(content)
    payload = Payload(Folder(tmp_path / "payload"), file)
    assert payload.recheck() == (1,)
    assert payload.missing() == Payload(Folder(tmp_path / "payload"), file).missing() == (1,)
    fill(payload)
    assert payload.recheck() == ()
    assert path.read_bytes() == CONTENT


def test_tidying_leaves_the_one_that_is_wanted(tmp_path: Path, file: File) -> None:
    place = tmp_path / "payload"
    other = file_of(CONTENT[::-1], tmp_path)
    for one in (file, other):
        Payload(Folder(place), one).reserve()
    tidy(place, keep=file)
    assert sorted(path.name for path in place.iterdir()) == sorted((file.name, f"{file.name}.journal"))
    tidy(place)
    tidy(tmp_path / "nowhere")
    assert list(place.iterdir()) == []


def test_a_disk_without_room_is_told_before_bytes_are_fetched_and_nothing_is_left(file: File) -> None:
    disk = CuttingDisk(random.Random(1))
    disk.most_bytes = file.size - 1
    with pytest.raises(StateError) as full:
        Payload(disk, file).reserve()
    assert full.value.key == "agent.update-no-space"
    assert disk.durable == {}


@pytest.mark.parametrize("seed", range(30))
def test_every_record_that_survives_a_cut_speaks_of_a_chunk_that_did(file: File, seed: int) -> None:
    """Cut at each act of a whole fetch, some of them again after the restart: no chunk counts that is not there."""
    rolls = random.Random(seed)
    for acts in range(30):
        disk = CuttingDisk(rolls)
        kept: set[int] = set()
        for left in (acts, rolls.randrange(20), None):
            disk.acts_left = left
            try:
                payload = Payload(disk, file)
                assert kept <= payload.have, "a chunk that had been kept was lost"
                payload.reserve()
                for index in rolls.sample(payload.missing(), len(payload.missing())):
                    assert payload.keep(index, chunk(index))
                    kept.add(index)
            except PowerCutError:
                disk.cut()
            for index in Payload(disk, file).have:
                start, end = chunks.span(file, index)
                assert disk.durable[file.name][start:end] == chunk(index)
        assert Payload(disk, file).is_complete
        assert disk.durable[file.name] == CONTENT


class Hasty(CuttingDisk):
    """Says that everything was flushed."""

    def flush(self, name: str) -> None:
        self._act()


def test_the_cuts_would_notice_a_missing_flush(file: File) -> None:
    def survives(seed: int) -> bool:
        disk = Hasty(random.Random(seed))
        payload = Payload(disk, file)
        fill(payload)
        disk.cut()
        return all(
            chunks.is_right(file, index, disk.durable[file.name][slice(*chunks.span(file, index))])
            for index in Payload(disk, file).have
        )

    assert not all(survives(seed) for seed in range(30))
