"""The signing half: thresholds, what is missing, order of writes, clocks; and that our own device believes it."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from malicious_repository import HARDWARE, NOW, a_module
from repository_world import TERMS, World

from firmware.errors import FirmwareError, RepositoryError, TrustError
from firmware.release import render_module
from firmware.repository import entries, publish, roles, staging
from firmware.repository.roles import ROOT, TARGETS
from firmware.repository.served import snapshot_version
from firmware.repository.storage import Storage

pytestmark = pytest.mark.usefixtures("no_flushes")

DAY = timedelta(days=1)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refused(action: Callable[[], object], key: str) -> FirmwareError:
    with pytest.raises(FirmwareError) as caught:
        action()
    assert caught.value.key == key, caught.value
    return caught.value


def test_from_the_first_key_to_a_release_on_a_device(world: World) -> None:
    world.begin()
    assert [(one.role, one.missing) for one in staging.standing(world.storage)] == [(ROOT, 2), (TARGETS, 2)]
    world.sign("hanako", "saburo", "taro", "shiro")
    made = world.publish()
    assert (made.root, made.targets, made.snapshot, made.timestamp) == (1, 1, 1, 1)
    device = world.device("device", world.root_now())
    assert device.refresh(NOW).targets == 1 and device.listing() == ()
    path = world.release(2)
    assert device.refresh(NOW).targets == 2
    assert device.release(path).version == "2026.2"
    assert snapshot_version(world.storage.directory) == 2
    assert not world.storage.staged_directory.exists()


def test_below_the_threshold_says_who_is_missing(world: World) -> None:
    world.begin()
    refused(world.publish, "firmware.below-threshold")
    world.sign("hanako", "saburo", "goro")
    error = refused(world.publish, "firmware.below-threshold")
    assert error.params == {"role": "root", "missing": 1, "signed": "hanako", "could": "jiro, taro"}
    assert not world.storage.metadata.exists()
    world.sign("hanako")  # the same holder again
    refused(world.publish, "firmware.below-threshold")
    world.sign("taro")
    world.publish()
    world.stage(world.build(2))
    world.sign("goro")
    error = refused(world.publish, "firmware.below-threshold")
    assert error.params == {"role": "targets", "missing": 1, "signed": "goro", "could": "saburo, shiro"}


def test_a_key_signs_only_what_it_may(world: World) -> None:
    world.begin()
    assert staging.sign(world.storage.staged_directory, world.signers["hanako"]) == ("root",)
    assert staging.sign(world.storage.staged_directory, world.signers["goro"]) == ("targets",)
    world.holder("stranger")
    refused(lambda: world.sign("stranger"), "firmware.key-not-entitled")
    staged = world.storage.staged_root()
    assert staged is not None and len(staged.signatures) == 1


def test_signatures_come_back_from_copies(world: World, tmp_path: Path) -> None:
    world.opened()
    world.stage(world.build(2))
    for name, copy in (("saburo", tmp_path / "one"), ("goro", tmp_path / "two")):
        shutil.copytree(world.storage.staged_directory, copy)
        world.sign(name, directory=copy)
    assert staging.collect(world.storage, tmp_path / "one") == ("targets",)
    assert staging.collect(world.storage, tmp_path / "one") == ()
    staging.collect(world.storage, tmp_path / "two")
    world.publish()
    # What came back of something else counts for nothing.
    world.stage(world.build(3))
    refused(lambda: staging.collect(world.storage, tmp_path / "one"), "firmware.copy-differs")


def test_a_forged_signature_in_a_copy_counts_for_nothing(world: World, tmp_path: Path) -> None:
    world.opened()
    world.stage(world.build(2))
    copy = tmp_path / "copy"
    shutil.copytree(world.storage.staged_directory, copy)
    world.sign("saburo", directory=copy)
    text = (copy / "targets.json").read_text()
    honest = staging.read_staged(copy)["targets"].signatures
    ((keyid, signature),) = honest.items()
    other = world.signers["goro"].public_key.keyid
    (copy / "targets.json").write_text(text.replace(keyid, other))
    assert signature.signature in text
    staging.collect(world.storage, copy)
    assert staging.standing(world.storage)[0].missing == 2


@pytest.mark.parametrize("thresholds", [{ROOT: 4, TARGETS: 2}, {ROOT: 2, TARGETS: 0}])
def test_thresholds_that_cannot_be(world: World, thresholds: dict[str, int]) -> None:
    refused(lambda: world.begin(thresholds), "firmware.threshold-unmeetable")
    assert world.online == {}, "no key was made for nothing"


def test_one_key_of_two_holders_and_an_online_key_in_an_offline_role(world: World) -> None:
    world.opened()
    root = roles.next_root(world.storage.published_root(), terms=TERMS, now=NOW).signed
    first = root.keys[root.roles[ROOT].keyids[0]]
    twin = type(first)("cd" * 32, first.keytype, first.scheme, dict(first.keyval), {"x-kyoten-holder": "nobody"})
    root.add_key(twin, ROOT)
    refused(lambda: roles.check(root), "firmware.key-twice")
    root = roles.next_root(world.storage.published_root(), terms=TERMS, now=NOW).signed
    root.add_key(root.keys[root.roles["timestamp"].keyids[0]], ROOT)
    refused(lambda: roles.check(root), "firmware.key-online")


def test_counters_only_grow_and_what_was_published_never_changes(world: World) -> None:
    world.opened()
    path = world.release(5)
    for counter in (4, 5):
        lower = replace(world.build(counter), version="2026.99")
        error = refused(lambda lower=lower: world.stage(lower), "firmware.counter-taken")  # type: ignore[misc]
        assert error.params["highest"] == 5
    refused(lambda: world.stage(replace(world.build(5), notes="other")), "firmware.version-taken")
    staging.stage_yank(world.storage, path, "It loses the modem.", terms=TERMS, now=NOW)
    world.sign("saburo", "shiro")
    world.publish()
    refused(lambda: world.stage(replace(world.build(5), version="2026.98")), "firmware.counter-taken")
    refused(lambda: world.stage(world.build(5)), "firmware.version-taken")
    # Another hardware counts for itself.
    other = world.build(1)
    other = replace(other, hardware="arm", applicability=replace(other.applicability, hardware=("arm",)))
    world.stage(other)


def test_a_yanked_release_is_told_to_who_runs_it(world: World) -> None:
    world.opened()
    path = world.release(2)
    device = world.device("device", world.root_now())
    device.refresh(NOW)
    assert device.yanked(path) is None
    staging.stage_yank(world.storage, path, "It loses the modem.", terms=TERMS, now=NOW)
    world.sign("goro", "shiro")
    world.publish()
    device.refresh(NOW)
    assert device.yanked(path) == "It loses the modem."
    refused(lambda: device.release(path), "firmware.yanked")
    targets = world.storage.targets()
    assert targets is not None
    assert [(one.path, one.yanked) for one in entries.listed(targets.signed)] == [(path, "It loses the modem.")]
    refused(lambda: staging.stage_yank(world.storage, path, "again", terms=TERMS, now=NOW), "firmware.not-published")


def test_modules_beside_releases(world: World, tmp_path: Path) -> None:
    world.opened()
    module = a_module()
    built = tmp_path / "module"
    built.mkdir()
    (built / module.file.name).write_bytes(b"m")
    staging.stage_module(world.storage, module, render_module(module), built, terms=TERMS, now=NOW)
    world.sign("goro", "shiro")
    world.publish()
    device = world.device("device", world.root_now())
    device.refresh(NOW)
    assert device.module("modules/quectel/1.1.json") == module


def test_payload_that_is_missing_or_not_what_the_document_says(world: World, tmp_path: Path) -> None:
    world.opened()
    release = world.build(2, content=b"x" * 600_000)
    place = tmp_path / "built" / release.full.name
    content = place.read_bytes()
    for broken in (content[:-1], content + b"x", content[:300_000] + b"y" + content[300_001:], b""):
        place.write_bytes(broken)
        refused(lambda: world.stage(release), "firmware.payload-differs")
    place.unlink()
    refused(lambda: world.stage(release), "firmware.payload-missing")
    assert list((world.storage.directory / "payload").iterdir()) == []
    place.write_bytes(content)
    world.stage(release)
    assert (world.storage.directory / "payload" / release.full.name).read_bytes() == content


def test_staging_again_after_a_crash_keeps_signatures_and_another_change_does_not(world: World) -> None:
    world.opened()
    release = world.build(2)
    world.stage(release)
    world.sign("saburo")
    world.now += timedelta(minutes=1)
    world.stage(release)
    assert staging.standing(world.storage)[0].missing == 1
    world.stage(world.build(3))
    assert staging.standing(world.storage)[0].missing == 2


def test_what_waited_for_signatures_until_it_expired(world: World) -> None:
    world.opened()
    world.stage(world.build(2))
    world.sign("saburo", "goro")
    world.now += 91 * DAY
    refused(world.publish, "firmware.staged-expired")
    staging.stage_targets(world.storage, terms=TERMS, now=world.now)
    world.sign("saburo", "goro")
    world.publish()
    device = world.device("device", world.root_now())
    assert device.refresh(world.now).targets == 2 and len(device.listing()) == 1


def test_online_keys_that_are_not_here(world: World) -> None:
    world.begin()
    world.sign("hanako", "jiro", "saburo", "goro")
    kept, world.online = world.online, {}
    error = refused(world.publish, "firmware.online-key-missing")
    assert error.params["role"] == "snapshot" and not world.storage.metadata.exists()
    world.online = kept
    world.publish()


def test_refresh_renews_when_half_the_time_is_over(world: World) -> None:
    world.opened()

    def look() -> tuple[int | None, int | None]:
        made = publish.refresh(world.storage, world.find_online, terms=TERMS, now=world.now)
        return made.snapshot, made.timestamp

    assert look() == (None, None)
    world.now += timedelta(hours=25)
    assert look() == (None, 2)
    assert look() == (None, None)
    world.now += 7 * DAY
    assert look() == (2, 3)
    device = world.device("device", world.root_now())
    seen = device.refresh(world.now)
    assert (seen.snapshot, seen.timestamp) == (2, 3)
    # A month without the daemon: devices believe nothing new, until it is back.
    world.now += 30 * DAY
    refused(lambda: device.refresh(world.now), "firmware.metadata-expired")
    look()
    assert device.refresh(world.now).timestamp == 4


def test_refresh_of_nothing(world: World) -> None:
    refused(
        lambda: publish.refresh(world.storage, world.find_online, terms=TERMS, now=NOW), "firmware.repository-empty"
    )


def test_one_writer_at_a_time(world: World) -> None:
    world.opened()
    with world.storage.locked():
        refused(lambda: world.stage(world.build(2)), "firmware.repository-busy")
        refused(
            lambda: publish.refresh(world.storage, world.find_online, terms=TERMS, now=NOW),
            "firmware.repository-busy",
        )


def test_a_crash_at_any_write_of_a_publication(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices see the state before until the timestamp is there, and publishing again ends it."""
    world.opened()
    path = world.release(2)
    renames = Path.rename
    for number in range(1, 8):
        world.stage(world.build(number + 2))
        staging.stage_rotation(world.storage, None, terms=TERMS, now=NOW)
        world.sign("hanako", "taro", "saburo", "goro")
        count = 0

        def crash(self: Path, target: Path, number: int = number) -> Path:
            nonlocal count
            count += 1
            if count == number:
                raise KeyboardInterrupt
            return renames(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", crash)
            try:
                world.publish()
            except KeyboardInterrupt:
                pass
            else:
                assert number > 4, "root, targets, snapshot, timestamp"
                return
        device = world.device(f"device-{number}", world.root_now())
        device.refresh(NOW)
        listed = {one.path for one in device.listing()}
        assert path in listed and f"releases/{HARDWARE}/2026.{number + 2}.json" not in listed
        world.publish()
        device.refresh(NOW)
        assert f"releases/{HARDWARE}/2026.{number + 2}.json" in {one.path for one in device.listing()}
    pytest.fail("publishing never ended")


def test_a_damaged_repository_is_told(world: World) -> None:
    world.opened()
    (world.storage.metadata / "timestamp.json").write_text("{")
    refused(lambda: world.stage(world.build(2)), "firmware.repository-unreadable")
    assert snapshot_version(world.storage.directory) is None
    (world.storage.metadata / "timestamp.json").write_bytes((world.storage.metadata / "1.root.json").read_bytes())
    refused(lambda: world.stage(world.build(2)), "firmware.repository-unreadable")


def test_files_can_be_read_by_whoever_serves_them(world: World) -> None:
    world.opened()
    world.release(2)
    before = os.umask(0o022)
    os.umask(before)
    for path in (*world.storage.metadata.iterdir(), *(world.storage.directory / "payload").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o644, path


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    world = World(tmp_path / "file")
    with pytest.raises(RepositoryError) as caught:
        world.begin()
    assert caught.value.key == "firmware.repository-unwritable"
    assert Storage(tmp_path / "none").root() is None
    assert snapshot_version(tmp_path) is None


def test_trust_errors_are_not_repository_errors() -> None:
    assert not issubclass(TrustError, RepositoryError)
