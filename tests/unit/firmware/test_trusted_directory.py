"""Trusted metadata on a device's disk: old or new after a power cut, never a mixture; flushed before it counts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from malicious_repository import HARDWARE, NOW, MaliciousRepository

from firmware import durable
from firmware.errors import TrustError
from firmware.trust import Device, Trust
from firmware.trusted_directory import TrustedDirectory


class PowerCutError(BaseException):
    """The power fails here."""


@contextmanager
def cut_at(number: int, patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let the process end at the n-th thing that touches the disk's names; what was done is told."""
    done: list[str] = []

    def counted(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def act(*arguments: object, **more: object) -> object:
            if len(done) == number:
                raise PowerCutError
            done.append(f"{name} {arguments[0]}")
            return real(*arguments, **more)

        patch.setattr(owner, name, act)

    with patch.context() as inner:
        patch = inner
        for name in ("mkdir", "rename", "symlink_to", "unlink"):
            counted(Path, name)
        counted(os, "fsync")
        counted(os, "replace")
        yield done


def content(directory: Path | None) -> dict[str, bytes]:
    if directory is None:
        return {}
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def test_a_cut_at_any_point_leaves_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: set[str] = set()
    for number in range(200):
        top = tmp_path / str(number)
        directory = TrustedDirectory(top)
        first = directory.begin()
        (first / "a").write_bytes(b"old")
        (first / "inner").mkdir()
        (first / "inner" / "b").write_bytes(b"old")
        directory.commit(first)
        old = content(directory.current())
        finished = False
        try:
            with cut_at(number, monkeypatch):
                copy = directory.begin()
                (copy / "a").write_bytes(b"new")
                (copy / "inner" / "b").write_bytes(b"new")
                directory.commit(copy)
                finished = True
        except PowerCutError:
            pass
        now = content(TrustedDirectory(top).current())
        assert now in (old, {"a": b"new", "inner/b": b"new"})
        states.add("new" if now != old else "old")
        # And the next start goes on from there, and leaves nothing lying about.
        again = TrustedDirectory(top).begin()
        (again / "a").write_bytes(b"next")
        TrustedDirectory(top).commit(again)
        assert len(list(top.glob("generation-*"))) == 1
        if finished:
            assert states == {"old", "new"}
            return
    pytest.fail("it never ended")


def test_everything_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = TrustedDirectory(tmp_path / "trust")
    copy = directory.begin()
    (copy / "inner").mkdir()
    for name in ("a", "inner/b"):
        (copy / name).write_bytes(b"x")
    events: list[str] = []
    flush, rename = os.fsync, Path.rename

    def flushed(descriptor: int) -> None:
        events.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        flush(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        events.append("counts")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "rename", renamed)
    directory.commit(copy)
    counts = events.index("counts")
    assert {str(copy / "a"), str(copy / "inner/b"), str(copy / "inner"), str(copy), str(copy.parent)} <= set(
        events[:counts]
    )
    assert events[counts + 1] == str(copy.parent)


def test_nothing_new_is_not_written(tmp_path: Path) -> None:
    directory = TrustedDirectory(tmp_path / "trust")
    copy = directory.begin()
    (copy / "a").write_bytes(b"x")
    (copy / "link").symlink_to("a")
    assert directory.commit(copy)
    before = directory.current()
    assert not directory.commit(directory.begin())
    assert directory.current() == before
    more = directory.begin()
    (more / "b").write_bytes(b"")
    assert directory.commit(more)


def test_a_link_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    top = tmp_path / "trust"
    top.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (top / "current").symlink_to(tmp_path / "elsewhere")
    assert TrustedDirectory(top).current() is None
    (top / "current").unlink()
    (top / "current").symlink_to("generation-9")
    assert TrustedDirectory(top).current() is None


def test_a_refresh_that_is_cut_goes_on_at_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = MaliciousRepository()
    cloud.publish()

    def trust(number: int) -> Trust:
        return Trust(
            tmp_path / str(number), root=cloud.bootstrap, source=cloud, device=Device(HARDWARE, 1), built_at=NOW
        )

    for number in range(200):
        try:
            with cut_at(number, monkeypatch):
                trust(number).refresh(NOW)
        except PowerCutError:
            assert trust(number).refresh(NOW).targets == 2
        else:
            assert number > 10
            return
    pytest.fail("it never ended")


def test_a_disk_that_fails_is_our_error_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = MaliciousRepository()
    cloud.publish()
    trust = Trust(tmp_path / "trust", root=cloud.bootstrap, source=cloud, device=Device(HARDWARE, 1), built_at=NOW)
    trust.refresh(NOW)
    before = content(TrustedDirectory(tmp_path / "trust").current())
    cloud.publish()

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TrustError) as caught:
            trust.refresh(NOW)
    assert caught.value.key == "firmware.trust-disk" and caught.value.params["reason"] == os.strerror(28)
    assert content(TrustedDirectory(tmp_path / "trust").current()) == before
    assert trust.refresh(NOW).targets == 3


def test_one_at_a_time(tmp_path: Path) -> None:
    cloud = MaliciousRepository()
    cloud.publish()
    trust = Trust(tmp_path, root=cloud.bootstrap, source=cloud, device=Device(HARDWARE, 1), built_at=NOW)
    with durable.only_one(tmp_path / ".lock"), pytest.raises(TrustError) as caught:
        trust.refresh(NOW)
    assert caught.value.key == "firmware.busy"
    trust.refresh(NOW)


def test_durable_files(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    durable.write(path, b"one", mode=0o600)
    durable.write(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two" and path.stat().st_mode & 0o777 == 0o600
    durable.make_directory(tmp_path / "a" / "b" / "c")
    durable.make_directory(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    with pytest.raises(IsADirectoryError):
        durable.write(tmp_path / "a", b"x")
    assert {place.name for place in tmp_path.iterdir()} == {"secret", "a"}
