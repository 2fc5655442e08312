"""A clock that is wrong at boot locks nobody out, and brings nothing expired back to life."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from malicious_repository import HARDWARE, NOW, MaliciousRepository

from firmware.clock import CloudTime, judged
from firmware.errors import TrustError
from firmware.trust import Device, Trust

pytestmark = pytest.mark.usefixtures("no_flushes")

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BUILT = NOW - 30 * DAY


def device(directory: Path, cloud: MaliciousRepository) -> Trust:
    return Trust(directory / "trust", root=cloud.bootstrap, source=cloud, device=Device(HARDWARE, 1), built_at=BUILT)


@pytest.fixture
def cloud() -> MaliciousRepository:
    return MaliciousRepository()


def test_a_clock_that_begins_in_1970_counts_as_the_time_of_the_image(
    tmp_path: Path, cloud: MaliciousRepository
) -> None:
    cloud.publish()
    seen = device(tmp_path, cloud).refresh(EPOCH)
    assert seen.at == BUILT and seen.clock_behind_s == (BUILT - EPOCH).total_seconds()


def test_after_a_refresh_time_does_not_go_back_before_it(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.publish()
    trust = device(tmp_path, cloud)
    trust.refresh(NOW)
    assert trust.floor() == NOW
    # What had expired by then is not good again because the clock says 1970.
    old = MaliciousRepository(NOW - 20 * DAY)
    old.signers, old.root, old.bootstrap = cloud.signers, cloud.root, cloud.bootstrap
    old.timestamp.version = old.snapshot.version = old.targets.version = 50
    old.publish()
    cloud.files |= old.files
    with pytest.raises(TrustError) as caught:
        device(tmp_path, cloud).refresh(EPOCH)
    assert caught.value.key == "firmware.metadata-expired"
    # The honest next one is believed with the same wrong clock, which is said.
    cloud.at(NOW + 40 * DAY)
    cloud.timestamp.version = cloud.snapshot.version = cloud.targets.version = 60
    cloud.publish()
    seen = device(tmp_path, cloud).refresh(EPOCH)
    assert seen.at == NOW and seen.clock_behind_s > 0
    assert device(tmp_path, cloud).floor() == NOW + 40 * DAY


def test_a_clock_far_ahead_refuses_for_as_long_as_it_is_wrong(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.publish()
    trust = device(tmp_path, cloud)
    with pytest.raises(TrustError) as caught:
        trust.refresh(NOW + 5000 * DAY)
    assert caught.value.key == "firmware.metadata-expired"
    assert trust.floor() == BUILT, "nothing of the wrong time was kept"
    assert trust.refresh(NOW).at == NOW


def test_a_stolen_timestamp_key_cannot_move_the_clock_for_good(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.publish()
    honest = cloud.timestamp.version
    # The thief dates the timestamp far ahead, so that all that comes later seems to have expired.
    cloud.now = NOW + 3000 * DAY
    cloud.timestamp.expires = NOW + 3650 * DAY
    cloud.publish_timestamp()
    trust = device(tmp_path, cloud)
    trust.refresh(NOW)
    assert trust.floor() > NOW + 2000 * DAY
    cloud.now, cloud.timestamp.expires = NOW, NOW + 2 * DAY
    cloud.publish_timestamp()
    with pytest.raises(TrustError) as caught:
        device(tmp_path, cloud).refresh(NOW)
    assert caught.value.key == "firmware.metadata-expired"
    # The holders of root take the key away: the thief's time goes with it, at the first refresh.
    cloud.replace_key("timestamp")
    cloud.root.expires = NOW + 365 * DAY
    cloud.timestamp.version = honest
    cloud.publish_timestamp()
    assert device(tmp_path, cloud).refresh(NOW).at == NOW
    assert device(tmp_path, cloud).floor() == NOW


def test_a_timestamp_without_a_date_or_with_nonsense_moves_nothing(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.publish()
    for said in (None, "tomorrow", 7, [], "9999-99-99T00:00:00Z"):
        cloud.timestamp.version += 1
        cloud.timestamp.unrecognized_fields["x-kyoten-signed-at"] = said
        cloud.sign_timestamp()
        trust = device(tmp_path, cloud)
        trust.refresh(NOW)
        assert trust.floor() == BUILT


def test_damaged_files_on_the_device_are_fetched_again(tmp_path: Path, cloud: MaliciousRepository) -> None:
    cloud.publish()
    device(tmp_path, cloud).refresh(NOW)
    for name in ("timestamp.json", "snapshot.json", "targets.json", "root_history/1.root.json"):
        (tmp_path / "trust" / "current" / name).write_bytes(b"\0" * 100)
        assert device(tmp_path, cloud).refresh(NOW).targets == 2


def test_the_best_known_time() -> None:
    assert judged(NOW, since_boot_s=50.0, cloud=None) == NOW
    heard = CloudTime(NOW, heard_s=20.0)
    assert judged(EPOCH, since_boot_s=50.0, cloud=heard) == NOW + timedelta(seconds=30)
    assert judged(NOW + HOUR, since_boot_s=50.0, cloud=heard) == NOW + HOUR, "the cloud moves time forward only"
    assert judged(EPOCH, since_boot_s=5.0, cloud=heard) == NOW, "heard in a boot before: not carried on"
