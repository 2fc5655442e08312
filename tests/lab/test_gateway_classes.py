"""Classes of routers: IKEv1 is refused unless the configuration has a class for it and permits the site."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Network

import gateway_world
import pytest
from gateway_world import WEB, GatewayWorld, Router, pause

from cloudside.config import OldRouters, Vpn
from cloudside.vpn import suites
from lab.network import wait_until
from linux.charon import Charon, IkeSa
from linux.charon_process import socket_path
from linux.errors import CharonRefusedError

OLD = OldRouters(sites=("tokyo",))


@pytest.fixture(scope="module")
def world() -> Iterator[GatewayWorld]:
    with gateway_world.running("gk") as built:
        yield built


def _speaks_ikev1(router: Router) -> None:
    router._connection |= {"version": "1", "proposals": ["aes256-sha256-modp2048"]}
    router._child |= {"esp_proposals": ["aes256-sha256"]}


def _sas(world: GatewayWorld, connection: str = "old-routers") -> tuple[IkeSa, ...]:
    charon = Charon(socket_path(world.config.runtime_directory / "charon"))
    try:
        return tuple(sa for sa in charon.sas(connection=connection) if sa.state == "ESTABLISHED")
    finally:
        charon.close()


def _restart(world: GatewayWorld, vpn: Vpn) -> None:
    """Another configuration: the daemon starts anew, charon stays."""
    assert world.daemon is not None
    pid = world.charon_pid()
    world.daemon.stop()
    world.config = world.config.model_copy(update={"vpn": vpn})
    starts = world.daemon.log.read_text().count("how=adopted")
    log = world.start().log
    wait_until("the daemon", lambda: log.read_text().count("how=adopted") > starts, timeout_s=15)
    pause(1.0)
    assert world.charon_pid() == pid


def test_ikev1_is_refused_unless_there_is_a_class_for_it(world: GatewayWorld) -> None:
    router = world.routers["tokyo"]
    _speaks_ikev1(router)
    assert not router.connect(wait_s=3)


def test_permitted_site_connects_by_ikev1_and_the_other_is_expelled(
    world: GatewayWorld, record_property: Callable[[str, object], None]
) -> None:
    _restart(world, Vpn(old_routers=OLD))
    tokyo, osaka = world.routers["tokyo"], world.routers["osaka"]
    assert tokyo.connect()
    wait_until("the way", lambda: tokyo.ping(WEB), timeout_s=5)
    found = _sas(world)
    assert [(sa.remote_id, sa.ike_version) for sa in found] == [("tokyo", 1)]
    assert "AES_CBC-256/HMAC_SHA2_256_128" in found[0].children[0].suite
    _speaks_ikev1(osaka)
    osaka.connect(wait_s=3)
    took_s = wait_until("osaka's end", lambda: {sa.remote_id for sa in _sas(world)} == {"tokyo"}, timeout_s=3)
    record_property("not_permitted_lived_s", took_s)
    wait_until("the report", lambda: "vpn.old-class-not-permitted" in world.problem_keys(), timeout_s=5)
    assert tokyo.ping(WEB)


@pytest.mark.parametrize("selector", ["10.10.2.0/24", "10.20.1.0/24", "0.0.0.0/0", "10.10.0.0/16"])
def test_certificate_pins_the_prefix_with_ikev1_too(world: GatewayWorld, selector: str) -> None:
    tokyo = world.routers["tokyo"]
    tokyo.connect(selector=selector, wait_s=3)
    carried = {str(one) for sa in _sas(world) for child in sa.children for one in child.remote}
    assert all(IPv4Network(one).subnet_of(tokyo.prefix) for one in carried)
    pause(0.5)
    assert "10.10.2.0/24" not in world.routes()
    assert "10.20.1.0/24" not in world.routes()


def test_modern_sites_are_not_moved_into_the_old_class(world: GatewayWorld) -> None:
    assert world.routers["nagoya"].connect()
    assert [(sa.remote_id, sa.ike_version) for sa in _sas(world, "sites")] == [("nagoya", 2)]


def test_class_that_is_switched_off_ends_its_tunnels_and_no_other(world: GatewayWorld) -> None:
    nagoya = world.charon_sas()["nagoya"]
    assert world.routers["tokyo"].connect()
    _restart(world, Vpn())
    wait_until("the end of tokyo's", lambda: not _sas(world), timeout_s=3)
    assert not world.routers["tokyo"].connect(wait_s=2)
    assert world.charon_sas()["nagoya"] == nagoya


@pytest.mark.parametrize(
    ("cipher", "beside"),
    [
        *((one, "prfsha256-ecp256") for one in sorted(suites._AEAD)),
        *((one, "sha256-ecp256") for one in sorted(suites._CBC | suites._OLD_CBC)),
        *(("aes256", f"{one}-ecp256") for one in sorted(suites._INTEGRITY | suites._OLD_INTEGRITY)),
        *(("aes256gcm16", f"{one}-ecp256") for one in sorted(suites._PRF | suites._OLD_PRF)),
        *(("aes256gcm16", f"prfsha256-{one}") for one in sorted(suites._GROUPS | suites._OLD_GROUPS)),
    ],
)
def test_charon_knows_every_algorithm_that_a_configuration_may_name(
    world: GatewayWorld, cipher: str, beside: str
) -> None:
    charon = world.routers["nagoya"].charon
    charon.load_connection("trial", {"version": "2", "proposals": [f"{cipher}-{beside}"]})
    with pytest.raises(CharonRefusedError):
        charon.load_connection("trial", {"version": "2", "proposals": [f"{cipher}x-{beside}"]})
