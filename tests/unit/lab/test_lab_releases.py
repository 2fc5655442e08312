"""The lab's releases: signed by holders whose root the images have, and wrong in one thing only."""

import subprocess
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloudside.config import Config, load
from cloudside.registry import releases as registry
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from firmware import compose
from firmware.compose import Identity
from firmware.errors import TrustError
from firmware.image import places
from firmware.image.software import SITE
from firmware.release import Applicability, SlotFacts, release_path
from firmware.repository.storage import Storage
from firmware.trust import Device, Trust
from lab.appliance import bad_releases, faults, holders, releases
from lab.appliance.faults import Fault
from lab.world import _configuration

HARDWARE = "generic-x86-64"
FACTS = SlotFacts("d" * 64, "e" * 64, 10, 81920, "f" * 64)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which no lab was yet."""
    monkeypatch.setattr(places, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A node with a registry and no repository."""
    path = tmp_path / "kyoten.toml"
    path.write_text(_configuration(tmp_path, 8.0, None))
    found = load(path)
    found.state_directory.mkdir()
    found.runtime_directory.mkdir()
    with closing(Database(found.registry_url)) as database:
        database.migrate()
    return found


def built(place: Path, counter: int) -> Path:
    """The directory of a release, as small as can be."""
    place.mkdir()
    bundle = place / "router.raucb"
    bundle.write_bytes(bytes([counter]) * 5000)
    version = f"0.{counter}.0"
    identity = Identity(
        HARDWARE, version, counter, "2026-01-02T00:00:00Z", Applicability(0, (HARDWARE,), 256, False), ""
    )
    compose.release(identity, bundle=bundle, slot=bundle, facts=FACTS, earlier=(), output=place, level=1)
    return place


class Served:
    """The directory as the web daemon serves it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self, kind: str, name: str) -> list[bytes]:
        return [(self.directory / kind / name).read_bytes()]


def router(config: Config, place: Path, root: bytes) -> Trust:
    return Trust(
        place,
        root=root,
        source=Served(config.firmware_directory),  # type: ignore[arg-type]
        device=Device(HARDWARE, 1),
        built_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_an_image_with_the_labs_root_believes_what_is_published(config: Config, tmp_path: Path) -> None:
    root = releases.trust_root().read_bytes()
    releases.publish(config)
    releases.publish(config, built(tmp_path / "two", 2))
    releases.publish(config, built(tmp_path / "three", 3), built(tmp_path / "four", 4))
    assert releases.trust_root().read_bytes() == root
    trust = router(config, tmp_path / "router", root)
    trust.refresh(now=datetime.now(UTC))
    assert {one.counter for one in trust.listing()} == {2, 3, 4}
    assert trust.release(release_path(HARDWARE, "0.4.0")).counter == 4
    with closing(Database(config.registry_url)) as database, database.read() as session:
        assert {row.version for row in registry.every(session, OPERATOR)} == {"0.2.0", "0.3.0", "0.4.0"}


def test_an_image_of_another_machine_believes_nothing_of_it(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases.publish(config, built(tmp_path / "two", 2))
    monkeypatch.setattr(places, "CACHE", tmp_path / "other")
    with pytest.raises(TrustError):
        router(config, tmp_path / "router", releases.trust_root().read_bytes()).refresh(now=datetime.now(UTC))


def test_two_of_three_have_signed(config: Config, tmp_path: Path) -> None:
    releases.publish(config, built(tmp_path / "two", 2))
    storage = Storage(config.firmware_directory)
    targets = storage.targets()
    assert targets is not None
    assert len(targets.signatures) == 2
    assert len(storage.published_root().signatures) == 2


def test_keys_are_the_owners_alone(cache: Path) -> None:
    holders.trust_root()
    found = list((cache / "lab-holders" / "keys").iterdir())
    assert len(found) == 6
    assert {path.stat().st_mode & 0o077 for path in found} == {0}


def tree(place: Path) -> Path:
    """As much of an image as faults touch."""
    for name in ("usr/sbin/charon-systemd", "usr/sbin/init", f"{SITE}/router_agent/__init__.py"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text('"""As it was."""\n')
    (place / "etc/systemd/system").mkdir(parents=True)
    (place / "usr/lib/kyoten").mkdir(parents=True, exist_ok=True)
    return place


def content(place: Path) -> dict[str, str]:
    return {
        str(path.relative_to(place)): path.read_text()
        for path in place.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@pytest.mark.parametrize("fault", [None, *Fault])
def test_a_fault_is_one_file_or_one_unit(tmp_path: Path, fault: Fault | None) -> None:
    place = tree(tmp_path / "root")
    before = content(place)
    faults.put_into(place, fault)
    after = content(place)
    assert len([name for name in after if after[name] != before.get(name)]) == 1
    assert before.keys() <= after.keys()
    for link in place.rglob("*.wants/*"):
        assert link.resolve().is_file()


@pytest.mark.parametrize("fault", [Fault.AGENT_CRASHES, Fault.AGENT_STUCK])
def test_a_broken_agent_breaks_in_its_daemon_only(tmp_path: Path, fault: Fault) -> None:
    place = tree(tmp_path / "root")
    faults.put_into(place, fault)
    code = (place / SITE / "router_agent/__init__.py").read_text()
    for word, broken in (("update-step", False), ("run", fault is Fault.AGENT_CRASHES)):
        ended = subprocess.run(["python3", "-c", code, word], capture_output=True, check=False)
        assert (ended.returncode != 0) is broken, ended.stderr


def test_an_image_that_lacks_what_a_fault_replaces_is_told(tmp_path: Path) -> None:
    place = tree(tmp_path / "root")
    (place / "usr/sbin/charon-systemd").unlink()
    with pytest.raises(FileNotFoundError):
        faults.put_into(place, Fault.NO_TUNNEL)


def test_every_fault_has_a_reason_and_a_version_of_its_own() -> None:
    assert bad_releases.REASONS.keys() == set(Fault)
    assert releases.version() == "0.2.0"
    assert len({releases.version(fault) for fault in (None, *Fault)}) == 1 + len(Fault)
