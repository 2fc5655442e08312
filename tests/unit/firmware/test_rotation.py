"""Every role's keys are replaced, and devices of any age walk through the chain of roots."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from malicious_repository import NOW
from repository_world import TERMS, World

from firmware.errors import FirmwareError
from firmware.repository import roles, staging
from firmware.repository.roles import ROOT, TARGETS
from firmware.repository.staging import Change

pytestmark = pytest.mark.usefixtures("no_flushes")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path).opened()


def refused(action: Callable[[], object], key: str) -> FirmwareError:
    with pytest.raises(FirmwareError) as caught:
        action()
    assert caught.value.key == key, caught.value
    return caught.value


def rotate(world: World, change: Change | None) -> None:
    staging.stage_rotation(world.storage, change, terms=TERMS, now=world.now)


def test_every_role_is_rotated_and_old_devices_follow(world: World) -> None:
    first_root = world.root_now()
    path = world.release(2)
    followed = world.device("followed", first_root)
    followed.refresh(NOW)

    rotate(world, Change("timestamp", add=(world.make_online("timestamp"),), replace=True))
    world.sign("hanako", "jiro")
    assert world.publish().root == 2
    assert followed.refresh(NOW).root == 2

    rotate(world, Change("snapshot", add=(world.make_online("snapshot"),), replace=True))
    world.sign("taro", "jiro")
    world.publish()

    # A holder of targets leaves, another comes: the list of releases is signed by who counts then.
    rotate(world, Change(TARGETS, remove=("saburo",), add=(world.holder("kiku"),)))
    world.sign("hanako", "taro", "kiku", "goro")
    made = world.publish()
    assert (made.root, made.targets) == (4, 3)

    # A holder of root has a new key: the old root's holders and the new one's sign.
    world.signers["old-hanako"] = world.signers["hanako"]
    rotate(world, Change(ROOT, remove=("hanako",), add=(world.holder("hanako"),)))
    world.sign("hanako", "taro")
    error = refused(world.publish, "firmware.below-threshold")  # of the old root only taro has signed
    assert error.params["missing"] == 1
    world.sign("jiro")
    assert world.publish().root == 5

    # All of them, and another threshold. A change takes the signatures away that were there.
    names = ("aoi", "ren")
    rotate(world, Change(ROOT, remove=("hanako", "taro", "jiro"), add=tuple(map(world.holder, names)), threshold=1))
    world.sign("aoi", "hanako", "taro")
    rotate(world, None)
    refused(world.publish, "firmware.below-threshold")
    world.sign("aoi", "hanako", "taro")
    assert world.publish().root == 6

    assert followed.refresh(NOW).root == 6
    assert world.device("left-behind", first_root).refresh(NOW).root == 6
    assert followed.release(path).counter == 2


def test_a_device_from_the_shelf_walks_from_the_first_root_to_the_last(world: World) -> None:
    first_root = world.root_now()
    path = world.release(2)
    for _ in range(3):
        world.now += timedelta(days=300)
        for role in ("timestamp", "snapshot"):
            rotate(world, Change(role, add=(world.make_online(role),), replace=True))
        rotate(world, Change(ROOT, remove=("hanako",), add=(world.holder("hanako"),)))
        staging.stage_targets(world.storage, terms=TERMS, now=world.now)
        world.sign("taro", "jiro", "saburo", "goro")
        world.publish()
    # The first root expired long ago; it only has to be the beginning.
    shelf = world.device("shelf", first_root)
    assert shelf.refresh(world.now).root == 4
    assert shelf.release(path).counter == 2
    assert world.device("factory-new", world.root_now()).refresh(world.now).root == 4


def test_who_was_taken_away_signs_nothing_any_more(world: World) -> None:
    rotate(world, Change(TARGETS, remove=("saburo",), add=(world.holder("kiku"),)))
    world.sign("hanako", "taro", "goro")
    refused(lambda: world.sign("saburo"), "firmware.key-not-entitled")
    error = refused(world.publish, "firmware.below-threshold")
    assert error.params["role"] == TARGETS and error.params["could"] == "kiku, shiro"


def test_the_root_is_signed_by_the_old_holders_too(world: World) -> None:
    names = ("aoi", "ren", "yui")
    rotate(world, Change(ROOT, remove=("hanako", "taro", "jiro"), add=tuple(map(world.holder, names))))
    world.sign("aoi", "ren")
    error = refused(world.publish, "firmware.below-threshold")
    assert error.params["missing"] == 2 and "hanako" in str(error.params["could"])
    world.sign("taro", "jiro")
    world.publish()
    rotate(world, None)
    world.sign("yui", "ren")
    assert world.publish().root == 3


def test_changes_that_cannot_be(world: World) -> None:
    root = world.storage.published_root().signed
    refused(lambda: rotate(world, Change(ROOT, remove=("nobody",))), "firmware.no-such-holder")
    refused(lambda: rotate(world, Change(ROOT, add=(world.holder("taro"),))), "firmware.holder-there")
    there = root.keys[root.roles[ROOT].keyids[0]]
    refused(lambda: rotate(world, Change(ROOT, add=(there,))), "firmware.key-there")
    refused(lambda: rotate(world, Change(ROOT, remove=("taro", "jiro"))), "firmware.threshold-unmeetable")
    refused(lambda: rotate(world, Change("timestamp", replace=True)), "firmware.threshold-unmeetable")
    assert world.storage.staged_root() is None


def test_targets_that_no_longer_have_signatures_are_staged_with_the_root(world: World) -> None:
    rotate(world, Change(TARGETS, remove=("shiro",), add=(world.holder("kiku"),)))
    # saburo and goro signed what is published, and still may: nothing to sign anew.
    assert [one.role for one in staging.standing(world.storage)] == [ROOT]
    rotate(world, Change(TARGETS, remove=("goro",), add=(world.holder("ume"),)))
    assert [one.role for one in staging.standing(world.storage)] == [ROOT, TARGETS]


def test_a_changed_threshold_counts_at_once(world: World) -> None:
    rotate(world, Change(TARGETS, threshold=3))
    world.sign("hanako", "taro", "saburo", "shiro")
    assert refused(world.publish, "firmware.below-threshold").params["could"] == "goro"
    world.sign("goro")
    world.publish()
    world.stage(world.build(2))
    world.sign("saburo", "goro")
    refused(world.publish, "firmware.below-threshold")


def test_holders_are_named(world: World) -> None:
    root = world.storage.published_root().signed
    assert roles.holders(root, ROOT) == ("hanako", "taro", "jiro")
    assert roles.holders(root, "timestamp") == ("online-timestamp",)


def test_after_an_old_backup_new_online_keys_bring_devices_back(world: World) -> None:
    path = world.release(2)
    backup = world.directory / "backup"
    shutil.copytree(world.storage.directory, backup)
    device = world.device("device", world.root_now())
    for counter in (3, 4):
        world.release(counter)
        device.refresh(NOW)
    shutil.rmtree(world.storage.directory)
    backup.rename(world.storage.directory)
    refused(lambda: device.refresh(NOW), "firmware.metadata-rollback")
    for role in ("snapshot", "timestamp"):
        rotate(world, Change(role, add=(world.make_online(role),), replace=True))
    world.sign("hanako", "taro")
    world.publish()
    device.refresh(NOW)
    assert [one.path for one in device.listing()] == [path]
