"""Twenty live tunnels while the registry changes, sites are revoked, and the daemon is killed. Who notices?

The same in numbers: `make bench NAME=vpn`.
"""

from collections.abc import Iterator

import pytest

from tests.bench import vpn_changes, vpn_faults, vpn_world
from tests.bench.vpn_world import VpnWorld

LIVE = 20


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[VpnWorld]:
    built = vpn_world.build(f"gc{request.node.name[5:8]}", registered=2 * LIVE, connecting=LIVE)
    try:
        yield built
    finally:
        built.close()


def test_sites_that_come_go_and_move_end_no_other_tunnel(world: VpnWorld) -> None:
    found = vpn_changes.changes(world, 12, rest_s=6)
    assert found["sa_live"] == LIVE
    assert found["sa_ended_of_changed_sites"] == 4
    assert found["sa_lost_on_change"] == 0


def test_revoked_sites_are_cut_off_and_never_get_in_again_though_they_try(world: VpnWorld) -> None:
    found = vpn_changes.revoked(world, 6, tries_s=4)
    assert (found["revoked"], found["revoked_back_in"], found["sa_lost_of_others"]) == (6, 0, 0)
    assert isinstance(found["revoke_to_cut_s"], float)
    assert found["revoke_to_cut_s"] <= 2
    assert isinstance(found["revoked_tries"], int)
    assert found["revoked_tries"] >= 6


def test_killed_daemon_loses_no_tunnel_and_no_packet(world: VpnWorld) -> None:
    found = vpn_faults.restart(world)
    assert found["gateway_restart_live"] == LIVE
    assert (found["gateway_restart_tunnels_lost"], found["gateway_restart_ways_lost"]) == (0, 0)
    assert isinstance(found["gateway_restart_pings"], int)
    assert found["gateway_restart_pings"] > 300
    assert found["gateway_restart_pings_lost"] == 0
