import os
from pathlib import Path

import pytest

from linux.files import write_durably


def test_content_and_mode_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "key"
    before = os.umask(0)
    try:
        write_durably(path, b"secret")
        write_durably(tmp_path / "open", b"public", mode=0o644)
    finally:
        os.umask(before)
    assert path.read_bytes() == b"secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o644


def test_secret_is_never_readable_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    seen: list[int] = []
    real = os.fsync

    def look(descriptor: int) -> None:
        seen.append(os.fstat(descriptor).st_mode & 0o777)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write_durably(path, b"new")
    assert seen[0] == 0o600
    assert len(seen) == 2  # the file, then the directory that the rename is written in
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("step", ["fsync", "fchmod"])
def test_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, b"new")
    monkeypatch.undo()
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("key", b"old")]


def test_directory_that_does_not_exist() -> None:
    with pytest.raises(OSError, match="No such file"):
        write_durably(Path("/nonexistent/key"), b"x")


def test_left_over_of_a_killed_writer_is_replaced(tmp_path: Path) -> None:
    (tmp_path / f".key.{os.getpid()}.new").write_bytes(b"half of something longer")
    write_durably(tmp_path / "key", b"whole")
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("key", b"whole")]
