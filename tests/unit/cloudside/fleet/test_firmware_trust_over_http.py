"""From a signed release to one that a router believes, through the real endpoint and the router's own client."""

import asyncio
import hashlib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fleet_cloud import Cloud, Endpoint, Enrolled

from cloudside.fleet import releases
from cloudside.fleet.releases import OnlineKeys
from cloudside.registry import releases as registry
from cloudside.registry.callers import OPERATOR
from firmware.errors import SourceError, TrustError
from firmware.release import CHUNK_BYTES, Applicability, File, Release, SlotFacts, release_path, render
from firmware.repository import keys, publish, staging
from firmware.repository.roles import ROOT, TARGETS
from firmware.repository.storage import Storage
from firmware.trust import Device, Trust
from router_agent.bundle import Endpoint as Place
from router_agent.update.client import FirmwareClient

HARDWARE = "generic-x86-64"
PAYLOAD = b"what travels"


def release(counter: int) -> Release:
    digest = hashlib.sha256(PAYLOAD).hexdigest()
    return Release(
        hardware=HARDWARE,
        version=f"2026.11.{counter}-rc1",
        counter=counter,
        created="2026-11-20T00:00:00Z",
        applicability=Applicability(0, (HARDWARE,), 300, False),
        bundle_size=9,
        bundle_sha256="c" * 64,
        slot=SlotFacts("d" * 64, "e" * 64, 10, 81920, "f" * 64),
        full=File(f"{digest}.zst", len(PAYLOAD), digest, CHUNK_BYTES, (digest,)),
        deltas=(),
        notes="",
    )


class Holders:
    """Two people whose keys sign root and targets, and a repository at the node's place."""

    def __init__(self, cloud: Cloud, directory: Path) -> None:
        self.storage = Storage(cloud.config.firmware_directory)
        self.terms = releases.terms(cloud.config)
        self.online = OnlineKeys(cloud.config.firmware_keys)
        self.built = directory / "built"
        self.built.mkdir()
        made = {name: keys.make("ed25519") for name in ("hanako", "taro")}
        self.signers = [keys.signer(key) for key in made.values()]
        public = [keys.public(key, name) for name, key in made.items()]
        staging.begin(
            self.storage, {ROOT: public, TARGETS: public}, {ROOT: 2, TARGETS: 2}, self.online.make,
            terms=self.terms, now=self.now,
        )  # fmt: skip
        self.publish()

    @property
    def now(self) -> datetime:
        return datetime.now(UTC)

    def publish(self) -> None:
        for signer in self.signers:
            staging.sign(self.storage.staged_directory, signer)
        publish.publish(self.storage, self.online, terms=self.terms, now=self.now)

    def release(self, counter: int) -> str:
        made = release(counter)
        (self.built / made.full.name).write_bytes(PAYLOAD)
        staging.stage_release(self.storage, made, render(made), self.built, terms=self.terms, now=self.now)
        self.publish()
        return release_path(HARDWARE, made.version)


@pytest.fixture
def holders(cloud: Cloud, tmp_path: Path) -> Holders:
    return Holders(cloud, tmp_path)


@contextmanager
def trust(directory: Path, holders: Holders, endpoint: Endpoint, router: Enrolled) -> Iterator[Trust]:
    context = ssl.create_default_context(cafile=str(endpoint.root))
    context.load_cert_chain(router.directory / "chain.crt", router.directory / "site.key")
    client = FirmwareClient(
        context,
        name="agent.kyoten",
        device_id=router.device_id,
        source="127.0.0.1",
        endpoints=(Place("127.0.0.1", endpoint.port, True),),
    )
    try:
        yield Trust(
            directory,
            root=holders.storage.root_bytes(1),
            source=client,
            device=Device(HARDWARE, 1),
            built_at=datetime(2026, 11, 1, tzinfo=UTC),
        )
    finally:
        client.close()


async def test_a_router_believes_what_was_signed(
    holders: Holders, endpoint: Endpoint, tokyo: Enrolled, tmp_path: Path
) -> None:
    path = holders.release(2)

    def look() -> None:
        with trust(tmp_path / "trust", holders, endpoint, tokyo) as device:
            seen = device.refresh(holders.now)
            assert (seen.root, seen.targets) == (1, 2)
            assert device.release(path) == release(2)
            staging.stage_yank(holders.storage, path, "It loses the modem.", terms=holders.terms, now=holders.now)
            holders.publish()
            device.refresh(holders.now)
            assert device.yanked(path) == "It loses the modem."

    await asyncio.to_thread(look)


async def test_a_document_that_somebody_changed_on_the_server(
    holders: Holders, endpoint: Endpoint, tokyo: Enrolled, tmp_path: Path
) -> None:
    path = holders.release(2)
    (place,) = (holders.storage.directory / "targets" / "releases" / HARDWARE).iterdir()
    place.write_bytes(render(replace(release(2), notes="x")))

    def look() -> None:
        with trust(tmp_path / "trust", holders, endpoint, tokyo) as device:
            device.refresh(holders.now)
            with pytest.raises(TrustError) as caught:
                device.release(path)
            assert caught.value.key == "firmware.endless", "longer than what was signed"
            place.unlink()
            with pytest.raises(TrustError) as caught:
                device.release(path)
            assert caught.value.key == "firmware.target-missing"

    await asyncio.to_thread(look)


async def test_a_stranger_and_a_cloud_that_is_not_there(
    holders: Holders, endpoint: Endpoint, tokyo: Enrolled, tmp_path: Path
) -> None:
    def look(where: Endpoint, router: Enrolled) -> None:
        with trust(tmp_path / "trust", holders, where, router) as device, pytest.raises(SourceError):
            device.refresh(holders.now)

    await asyncio.to_thread(look, endpoint, replace(tokyo, device_id="0" * 64))
    await asyncio.to_thread(look, replace(endpoint, port=1), tokyo)


def test_the_registry_follows_the_repository(cloud: Cloud, holders: Holders) -> None:
    holders.release(2)
    holders.release(3)
    staging.stage_yank(
        holders.storage, release_path(HARDWARE, "2026.11.2-rc1"), "Wrong.", terms=holders.terms, now=holders.now
    )
    for _ in range(2):
        with cloud.database.write() as session:
            releases.register(session, OPERATOR, holders.storage, holders.now)
    with cloud.database.read() as session:
        assert {row.version: row.yanked_at for row in registry.every(session, OPERATOR)} == {
            "2026.11.2-rc1": None,
            "2026.11.3-rc1": None,
        }
    holders.publish()
    with cloud.database.write() as session:
        releases.register(session, OPERATOR, holders.storage, holders.now)
    with cloud.database.read() as session:
        states = {row.version: row.yank_reason for row in registry.every(session, OPERATOR)}
    assert states == {"2026.11.2-rc1": "Wrong.", "2026.11.3-rc1": ""}
