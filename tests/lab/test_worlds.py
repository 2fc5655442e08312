"""Small worlds, whole: several side by side, and what happens in one when something is wrong."""

import contextlib
import sqlite3
import subprocess
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lab import box, enrolled, queue_view, rogue, topology
from lab.controller import send_mail
from lab.demo import matrix, steps
from lab.network import address, default_route, wait_until
from lab.world import World, build
from linux.runner import Finished

SERVICE = str(topology.SERVICE_ADDRESS)
RECIPIENT = "facilities@acme.example"

#: Two small worlds at once shall be up well within this: they are what tests are built from.
BOTH_UP_S = 40.0


@pytest.fixture(scope="module")
def small_disk() -> Iterator[Path]:
    place = box.directory() / "small-disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def worlds(small_disk: Path) -> Iterator[tuple[World, World]]:
    """Two worlds of the same plan, names, addresses and all; the second one's mail queue is on a small disk."""
    pair = (build(topology.SMALL, name="one"), build(topology.SMALL, name="two", queue_directory=small_disk))
    try:
        for world in pair:
            steps.start_everything(world)
        yield pair
    finally:
        for world in pair:
            world.close()


def test_two_worlds_with_the_same_addresses_do_not_meet(worlds: tuple[World, World]) -> None:
    for world in worlds:
        outcome = matrix.compare(world)
        assert outcome.probes == 36
        assert 0 < outcome.allowed < outcome.probes
        assert outcome.disagreements == ()
    assert worlds[0].charon_pid() != worlds[1].charon_pid()


def said_no(ended: Finished, status: int, *words: str) -> None:
    """A clear error: the exit status, the things it names, and no traceback."""
    assert ended.status == status, ended
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in ended.stderr, ended.stderr


def test_wrong_input_is_named_and_changes_nothing(worlds: tuple[World, World], tmp_path: Path) -> None:
    world, _ = worlds
    before = world.kyoten_json("site", "list")
    said_no(world.kyoten("site", "show", "tokio-1", check=False), 2, "tokio-1", "tokyo-1")
    said_no(
        world.kyoten("site", "add", "nara-1", "--tenant", "acme", "--overlay", "10.10.1.0/25", check=False),
        2, "10.10.1.0/25", "tokyo-1",
    )  # fmt: skip
    said_no(world.kyoten("site", "set", "tokyo-1", "tunnel.gateway=x", check=False), 2, "tunnel.gateway")
    policy = tmp_path / "acme.yaml"
    policy.write_text(
        "tenant: acme\nallow:\n  - from: tokyo-1\n    to: nowhere\n    services: [htpp]\n    colour: red\n"
    )
    for verb in ("check", "plan", "apply"):
        ended = world.kyoten("policy", verb, str(policy), check=False)
        assert ended.status == 2, ended
        for place in (":4:", ":5:", ":6:"):
            assert f"acme.yaml{place}" in ended.stdout + ended.stderr, ended
    assert world.kyoten_json("site", "list") == before
    assert matrix.compare(world).disagreements == ()


def test_a_locked_registry_is_named_and_the_tunnels_stay(worlds: tuple[World, World]) -> None:
    world, _ = worlds
    path = world.config.state_directory / "registry.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        said_no(world.kyoten("site", "add", "nara-2", "--tenant", "acme", check=False), 5, str(path), "locked")
        assert world.sites_in_charon() == {"tokyo-1", "osaka-1"}
        assert matrix.compare(world).disagreements == ()
    assert world.kyoten("site", "add", "nara-2", "--tenant", "acme").status == 0


def test_an_expired_certificate_does_not_get_in(worlds: tuple[World, World]) -> None:
    world, _ = worlds
    world.kyoten("site", "add", "nara-3", "--tenant", "acme")
    long_ago = datetime.now(UTC) - timedelta(days=3 * 365)
    bundle = world.ground.network.directory / "expired.bundle"
    with world.writing() as session:
        enrolled.enrol(session, world.config, site_id="nara-3", output=bundle, now=long_ago)
    with tarfile.open(bundle) as archive:
        assert "site.crt" in archive.getnames()
    host = world.ground.network.add_host("nara-3")
    world.ground.network.link(world.ground.internet, "to-nara-3", host, "wan0")
    address(world.ground.internet, "to-nara-3", "198.51.100.133/30")
    address(host, "wan0", "198.51.100.134/30")
    default_route(host, "198.51.100.133")
    overlay = next(row["overlay"] for row in world.kyoten_json("site", "list")["sites"] if row["site"] == "nara-3")
    (claim,) = rogue.claim(host, bundle, [overlay])
    assert claim.granted == ()
    assert "AUTH" in claim.refusal.upper() or "fail" in claim.refusal
    assert "subject certificate invalid" in world.charon_log()


def test_a_full_disk_is_452_and_nothing_accepted_is_lost(worlds: tuple[World, World], small_disk: Path) -> None:
    _, world = worlds
    plc = world.ground.sites["tokyo-1"].controllers["plc"]
    world.ground.ses.processes["postfix"].stop()  # nothing leaves: what is accepted stays on the disk
    ballast = small_disk / "ballast"
    accepted = 0
    with ballast.open("wb") as stream:
        for _ in range(64):
            (answer,) = send_mail(
                plc, server=SERVICE, sender="plc@acme.example", recipients=[RECIPIENT], subject="full"
            )
            if answer.code != 250:
                break
            accepted += 1
            stream.write(bytes(4 * 2**20))
            stream.flush()
    assert answer.code == 452, answer
    assert accepted > 0
    ballast.unlink()
    (answer,) = send_mail(plc, server=SERVICE, sender="plc@acme.example", recipients=[RECIPIENT], subject="full")
    assert answer.code == 250, answer
    wait_until(  # what has its 250 is in a journal first
        "every accepted mail in the queue",
        lambda: sum(entry.subject == "full" for entry in queue_view.waiting(small_disk)) == accepted + 1,
        timeout_s=10,
    )
    assert world.mail is not None
    world.ground.ses.start("postfix", world.mail.ses.argv())
    wait_until("every accepted mail delivered", lambda: len(found(world)) >= accepted + 1, timeout_s=60)
    assert len(found(world)) == accepted + 1


def found(world: World) -> list[object]:
    return [message for message in world.mailbox(RECIPIENT) if message["Subject"] == "full"]
