"""Hash trees are what veritysetup and RAUC make, and are found in what they have made."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from firmware import trees
from firmware.trees import BLOCK_BYTES, Tree

SALT = "00ff" * 16


def blocks(count: int) -> bytes:
    return b"hsqs" + random.Random(count).randbytes(count * BLOCK_BYTES - 4)


def computed(data: bytes, salt: str = SALT) -> bytes:
    return trees.compute(iter([data]), len(data) // BLOCK_BYTES, bytes.fromhex(salt))


@pytest.mark.parametrize("count", [2, 128, 129, 300])
def test_a_tree_is_veritysetups(tmp_path: Path, count: int) -> None:
    path = tmp_path / "image"
    data = blocks(count)
    path.write_bytes(data)
    program = shutil.which("veritysetup") or "/usr/sbin/veritysetup"
    subprocess.run(
        [program, "format", "--no-superblock", f"--salt={SALT}", f"--hash-offset={len(data)}",
         f"--data-blocks={count}", path, path],
        check=True, capture_output=True,
    )  # fmt: skip
    assert path.read_bytes()[len(data) :] == computed(data)
    assert trees.tree_bytes(count) == len(computed(data))


def test_pieces_of_any_number_of_blocks_give_the_same_tree() -> None:
    data = blocks(200)
    parts = (data[at : at + 7 * BLOCK_BYTES] for at in range(0, len(data), 7 * BLOCK_BYTES))
    assert trees.compute(parts, 200, bytes.fromhex(SALT)) == computed(data)


@pytest.mark.parametrize("pieces", [[b"x" * 100], [b"x" * BLOCK_BYTES], [b"x" * BLOCK_BYTES] * 3])
def test_too_few_too_many_or_broken_blocks_are_refused(pieces: list[bytes]) -> None:
    with pytest.raises(ValueError, match="block"):
        trees.compute(iter(pieces), 2, b"")


def test_the_slots_tree_is_found_wherever_the_image_lies() -> None:
    data = blocks(130)
    bundle = b"hsqs" + b"\1" * 92 + data + computed(data) + b"rest"
    assert trees.of_slot(bundle, data_blocks=130, salt=SALT) == Tree(96, 130, bytes.fromhex(SALT), 96 + len(data))
    assert trees.of_slot(bundle, data_blocks=129, salt=SALT) is None
    assert trees.of_slot(bundle, data_blocks=130, salt="11" * 32) is None
    assert trees.of_slot(b"", data_blocks=130, salt=SALT) is None


def rauc_bundle(data: bytes, *, salt: str = SALT, size: int | None = None) -> bytes:
    tree = computed(data)
    manifest = f"[bundle]\nformat=verity\nverity-salt={salt}\nverity-size={len(tree) if size is None else size}\n"
    signature = b"\x30\x82" + manifest.encode() + b"\0" * 50
    return data + tree + signature + len(signature).to_bytes(8, "big")


def test_a_bundles_tree_is_found_by_what_its_manifest_says() -> None:
    data = blocks(130)
    assert trees.of_bundle(rauc_bundle(data)) == Tree(0, 130, bytes.fromhex(SALT), len(data))
    for wrong in (
        rauc_bundle(data, salt="11" * 32),
        rauc_bundle(data, size=4096),
        rauc_bundle(data, size=10**12 - 1),
        data,
        b"",
        b"\xff" * 8,
    ):
        assert trees.of_bundle(wrong) is None
