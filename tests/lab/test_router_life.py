"""A router's life with the product at both ends: ticket, tunnel, the site's move, a second router, revocation."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from cloudside.registry.tables import Certificate
from lab import topology
from lab.network import wait_until
from lab.world import AGENT_PACE, BINARIES, World, build
from linux.charon import Charon
from linux.charon_process import socket_path

SITE = "osaka-1"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    built = build(topology.SMALL, name="life")
    built.kyoten("site", "release", SITE, "--yes")  # the lab has enrolled it: here its router does so itself
    built.start_cloud()
    try:
        yield built
    finally:
        built.close()


def _agent(world: World, *words: str, state: str = "state", check: bool = True) -> str:
    router = world.ground.sites[SITE].router
    argv = [sys.executable, "-m", "router_agent.cli", *words, "--state", str(router.directory / state)]
    done = router.run(argv, timeout_s=40, check=check)
    return done.stdout + done.stderr


def _ticket(world: World, name: str) -> Path:
    path = world.ground.network.directory / name
    world.kyoten("site", "ticket", SITE, "--output", str(path))
    return path


def _start(world: World, state: str = "state") -> None:
    router = world.ground.sites[SITE].router
    router.start("agent", [
        str(BINARIES / "kyoten-agent"), "run",
        "--state", str(router.directory / state), "--runtime", str(router.directory / "run"), *AGENT_PACE,
    ])  # fmt: skip


def _carried(world: World) -> set[str]:
    """The prefixes in the site's live tunnel, as the gateway's charon has them."""
    charon = Charon(socket_path(world.config.runtime_directory / "charon"))
    try:
        ours = [sa for sa in charon.sas(connection="sites") if sa.remote_id == SITE]
        return {str(network) for sa in ours for child in sa.children for network in child.remote}
    finally:
        charon.close()


def _revoked(world: World) -> int:
    with world.reading() as session:
        query = select(Certificate).where(Certificate.subject == SITE, Certificate.revoked_at.is_not(None))
        # The lab's own certificate for this site was revoked by its release.
        return len(list(session.scalars(query))) - 1


def _incidents(world: World) -> set[str]:
    return {row["kind"] for row in world.kyoten_json("incident", "list")["incidents"]}


def test_a_ticket_makes_a_router_of_the_site_and_is_good_once(world: World) -> None:
    wait_until("the endpoint", lambda: ":8443" in world.gateway.run(["ss", "-Hltn"]).stdout, timeout_s=30)
    ticket = _ticket(world, "first.ticket")
    _agent(world, "enrol", str(ticket))
    again = _agent(world, "enrol", str(ticket), state="thief", check=False)
    assert "ticket" in again
    assert not (world.ground.sites[SITE].router.directory / "thief" / "identity").exists()
    _start(world)
    world.wait_for_tunnels({SITE}, timeout_s=40)


def test_a_site_that_moves_comes_back_with_its_new_prefix_by_itself(world: World) -> None:
    before = next(row for row in world.kyoten_json("site", "list")["sites"] if row["site"] == SITE)
    moved = world.kyoten_json("site", "move", SITE, "--size", before["overlay"].partition("/")[2], "--yes")
    assert moved["overlay"] != before["overlay"] and moved["lan"] == before["lan"]

    wait_until("the tunnel with the new prefix", lambda: _carried(world) == {moved["overlay"]}, timeout_s=60)
    # The certificate for the old prefix ends once the router has shown the new one.
    wait_until("the old certificate is revoked", lambda: _revoked(world) >= 1, timeout_s=20)
    world.wait_for_tunnels({SITE}, timeout_s=20)


def test_a_second_router_shuts_the_first_out(world: World) -> None:
    ticket = _ticket(world, "second.ticket")
    router = world.ground.sites[SITE].router
    router.processes["agent"].stop()
    _agent(world, "enrol", str(ticket), state="second")
    _start(world)  # the first one comes back
    wait_until("the incident", lambda: "router-replaced" in _incidents(world), timeout_s=40)
    assert SITE not in world.sites_in_charon()
    router.processes["agent"].stop()
    _start(world, "second")
    world.wait_for_tunnels({SITE}, timeout_s=40)
