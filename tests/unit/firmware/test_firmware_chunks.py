"""What travels in chunks: named by content, checked one by one, asked for in runs."""

from pathlib import Path

import pytest

from firmware import chunks
from firmware.chunks import Run


def described(tmp_path: Path, content: bytes) -> chunks.File:
    path = tmp_path / "payload"
    path.write_bytes(content)
    return chunks.describe(path, suffix=".zst", chunk_bytes=4096)


def test_a_file_is_named_by_its_content_and_lists_its_chunks(tmp_path: Path) -> None:
    file = described(tmp_path, b"a" * 4096 + b"b" * 100)
    assert file.name == f"{file.sha256}.zst"
    assert (file.size, len(file.chunks)) == (4196, 2)
    assert [chunks.span(file, index) for index in (0, 1)] == [(0, 4096), (4096, 4196)]


def test_a_chunk_is_right_only_whole_in_its_place_and_unchanged(tmp_path: Path) -> None:
    file = described(tmp_path, b"a" * 4096 + b"b" * 100)
    assert chunks.is_right(file, 0, b"a" * 4096)
    assert chunks.is_right(file, 1, b"b" * 100)
    for index, content in ((0, b"a" * 4095), (0, b"a" * 4097), (0, b"b" * 100), (1, b"b" * 99 + b"c"), (1, b"")):
        assert not chunks.is_right(file, index, content)
    for index in (-1, 2):
        with pytest.raises(IndexError):
            chunks.is_right(file, index, b"")


def test_what_is_missing_in_chunks_and_bytes(tmp_path: Path) -> None:
    file = described(tmp_path, b"a" * 8192 + b"b" * 100)
    assert chunks.missing(file, {1}) == (0, 2)
    assert chunks.missing_bytes(file, {1}) == 4196
    assert chunks.missing(file, {0, 1, 2}) == ()


def test_runs_are_in_order_without_holes_and_not_too_long() -> None:
    assert list(chunks.runs([5, 0, 1, 2, 3, 7, 7], most=3)) == [Run(0, 3), Run(3, 4), Run(5, 6), Run(7, 8)]
    assert list(chunks.runs([], most=3)) == []
