"""Tenants, sites, devices, servers and policies: what is taken in, and all that is refused."""

from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_network

import pytest
from sqlalchemy.orm import Session

from cloudside.errors import InputError, InputErrors, RefusedError
from cloudside.registry import devices, policies, servers, sites, tenants
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.database import Database

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
OVERLAY = ip_network("10.0.0.0/8")
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEBExWqSt9qutJ54/n9Cy2zWeGl9ZGHWU4ZNJ919mV92"
ACME = Caller("acme")


def _keys(error: InputError) -> list[str]:
    return [problem.key for problem in error.problems] if isinstance(error, InputErrors) else [error.key]


def _refused(database: Database, act: Callable[[Session], object]) -> list[str]:
    with pytest.raises(InputError) as caught, database.write() as session:
        act(session)
    return _keys(caught.value)


def test_tenant_without_block_gets_the_first_free_one(populated: Database) -> None:
    with populated.write() as session:
        reserved = (ip_network("10.0.0.0/16"),)
        added = tenants.add(session, OPERATOR, tenant_id="new", overlay=OVERLAY, reserved=reserved, now=NOW)
    assert str(added.block) == "10.1.0.0/16"


@pytest.mark.parametrize(
    ("name", "block", "keys"),
    [
        ("acme", None, ["registry.tenant-exists"]),
        ("Bad!", "10.10.4.0/22", ["registry.bad-tenant-name", "registry.block-overlaps"]),
        ("new", "10.10.0.1/16", ["registry.prefix-host-bits"]),
        ("new", "172.16.0.0/16", ["registry.block-outside-overlay"]),
        ("new", "10.254.0.0/24", ["registry.block-overlaps"]),
        ("new", "2001:db8::/48", ["registry.block-outside-overlay"]),
    ],
)
def test_wrong_tenants(populated: Database, name: str, block: str | None, keys: list[str]) -> None:
    found = _refused(
        populated, lambda s: tenants.add(s, OPERATOR, tenant_id=name, overlay=OVERLAY, block=block, now=NOW)
    )
    assert found == keys


def test_overlay_can_be_full(database: Database) -> None:
    small = ip_network("10.0.0.0/16")
    with database.write() as session:
        tenants.add(session, OPERATOR, tenant_id="one", overlay=small, now=NOW)
    assert _refused(database, lambda s: tenants.add(s, OPERATOR, tenant_id="two", overlay=small, now=NOW)) == [
        "registry.overlay-full"
    ]


def test_site_keeps_its_lan_and_gets_an_overlay_prefix_of_the_same_length(populated: Database) -> None:
    with populated.write() as session:
        site = sites.add(session, ACME, site_id="tokyo-2", tenant_id="acme", lan="192.168.1.0/25", now=NOW)
        plain = sites.add(session, ACME, site_id="tokyo-3", tenant_id="acme", overlay="10.10.9.0/24", now=NOW)
    assert (str(site.lan), str(site.overlay)) == ("192.168.1.0/25", "10.10.1.0/25")
    assert plain.lan == plain.overlay


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({"site_id": "tokyo-1"}, ["registry.site-exists"]),
        ({"site_id": "web"}, ["registry.name-is-server"]),
        ({"lan": "192.168.1.1/24"}, ["registry.prefix-host-bits"]),
        ({"overlay": "10.20.1.0/24"}, ["registry.overlay-outside-block"]),
        ({"overlay": "10.10.0.128/25"}, ["registry.overlay-overlaps"]),
        ({"overlay": "10.10.1.0/24", "lan": "192.168.0.0/23"}, ["registry.lan-length"]),
        ({"lan": "fd00::/64"}, ["registry.lan-unfit"]),
        ({"lan": "192.168.1.4/31"}, ["registry.lan-unfit"]),
        ({"lan": "172.16.0.0/12"}, ["registry.block-full"]),
        ({"phase": "open"}, ["registry.bad-phase"]),
        ({"timezone": "Tokyo"}, ["registry.bad-timezone"]),
        ({"timezone": "../etc/passwd"}, ["registry.bad-timezone"]),
        ({"mail_hourly_limit": 0}, ["registry.bad-mail-limit"]),
        (
            {"site_id": "A B", "phase": "?", "timezone": "", "lan": "x", "overlay": "y"},
            [
                "registry.bad-site-name",
                "registry.bad-phase",
                "registry.bad-timezone",
                "registry.not-a-prefix",
                "registry.not-a-prefix",
            ],
        ),
    ],
)
def test_wrong_sites_are_refused_with_all_their_problems(
    populated: Database, given: dict[str, object], keys: list[str]
) -> None:
    arguments: dict[str, object] = {"site_id": "new-1", "tenant_id": "acme", "now": NOW, **given}
    assert _refused(populated, lambda s: sites.add(s, OPERATOR, **arguments)) == keys  # type: ignore[arg-type]
    with populated.read() as session:
        assert len(sites.every(session, OPERATOR)) == 2


def test_a_lan_that_holds_a_gateways_address_is_refused(populated: Database) -> None:
    reserved = (ip_network("10.255.255.1/32"),)
    given = {"site_id": "new-1", "tenant_id": "acme", "now": NOW, "reserved": reserved}
    refused = _refused(populated, lambda s: sites.add(s, OPERATOR, lan="10.255.255.0/24", **given))  # type: ignore[arg-type]
    assert refused == ["registry.lan-reserved"]
    with populated.write() as session:
        assert str(sites.add(session, OPERATOR, lan="10.255.254.0/24", **given).lan) == "10.255.254.0/24"  # type: ignore[arg-type]


def test_site_changes_only_what_is_given(populated: Database) -> None:
    with populated.write() as session:
        sites.change(session, ACME, site_id="tokyo-1", phase="commissioning", timezone="Asia/Tokyo")
    with populated.read() as session:
        site = sites.get(session, ACME, "tokyo-1")
    assert (site.phase, site.timezone, site.mail_hourly_limit) == ("commissioning", "Asia/Tokyo", None)
    assert _refused(populated, lambda s: sites.change(s, ACME, site_id="tokyo-1", phase="x", timezone="y")) == [
        "registry.bad-phase",
        "registry.bad-timezone",
    ]


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({"name": "plc"}, ["registry.device-exists"]),
        ({"lan_address": "10.10.0.20"}, ["registry.device-outside-lan"]),
        ({"lan_address": "192.168.1.0"}, ["registry.device-address-reserved"]),
        ({"lan_address": "192.168.1.255"}, ["registry.device-address-reserved"]),
        ({"lan_address": "192.168.1.1"}, ["registry.device-is-router"]),
        ({"lan_address": "192.168.1.20"}, ["registry.device-address-used"]),
        ({"name": "P", "lan_address": "x"}, ["registry.bad-device-name", "registry.not-an-address"]),
        ({"ssh_host_key": "ssh-ed25519"}, ["registry.bad-host-key"]),
        ({"ssh_host_key": HOST_KEY.replace("ed25519", "rsa")}, ["registry.bad-host-key"]),
        ({"ssh_host_key": "ssh-ed25519 !!!"}, ["registry.bad-host-key"]),
        ({"site_id": "tokyo-9"}, ["registry.unknown-site"]),
    ],
)
def test_wrong_devices(populated: Database, given: dict[str, str], keys: list[str]) -> None:
    arguments = {"site_id": "tokyo-1", "name": "panel", "lan_address": "192.168.1.21", **given}
    assert _refused(populated, lambda s: devices.add(s, OPERATOR, **arguments)) == keys  # type: ignore[arg-type]


def test_device_is_met_at_its_overlay_address_and_can_be_removed(populated: Database) -> None:
    with populated.write() as session:
        added = devices.add(
            session, ACME, site_id="tokyo-1", name="panel", lan_address="192.168.1.21", ssh_host_key=HOST_KEY
        )
        site = sites.get(session, ACME, "tokyo-1")
        assert str(devices.overlay_address_of(site, added)) == "10.10.0.21"
        devices.remove(session, ACME, site_id="tokyo-1", name="panel")
    with populated.read() as session:
        assert [device.name for device in devices.every(session, ACME)] == ["plc"]


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({"server_id": "web"}, ["registry.server-exists"]),
        ({"server_id": "tokyo-1"}, ["registry.name-is-site"]),
        ({"address": "10.10.0.5"}, ["registry.server-in-block"]),
        ({"address": "192.0.2.1"}, ["registry.server-outside-overlay"]),
        ({"address": "10.254.0.10"}, ["registry.server-address-used"]),
        ({"address": "10.255.255.1"}, ["registry.server-address-reserved"]),
        ({"tenant_id": "nobody"}, ["registry.unknown-tenant"]),
        ({"server_id": "W", "address": "x"}, ["registry.bad-server-name", "registry.not-an-address"]),
    ],
)
def test_wrong_servers(populated: Database, given: dict[str, str], keys: list[str]) -> None:
    arguments = {"server_id": "ntp", "address": "10.254.0.12", **given}
    reserved = (ip_network("10.255.255.1/32"),)
    found = _refused(
        populated,
        lambda s: servers.add(s, OPERATOR, overlay=OVERLAY, reserved=reserved, **arguments),  # type: ignore[arg-type]
    )
    assert found == keys


def test_policies_keep_every_version_and_the_highest_is_in_force(populated: Database) -> None:
    with populated.write() as session:
        assert policies.in_force(session, ACME, "acme") is None
        for text in ("one", "two"):
            policies.add_version(
                session, ACME, tenant_id="acme", text=text, file_name="acme.yaml", author="ann", now=NOW
            )
        policies.add_version(session, OPERATOR, tenant_id="zenith", text="z", file_name="z", author="ops", now=NOW)
    with populated.read() as session:
        newest = policies.in_force(session, ACME, "acme")
        assert newest is not None
        assert (newest.version, newest.text) == (2, "two")
        assert [policy.text for policy in policies.versions(session, ACME, "acme")] == ["two", "one"]
        assert [policy.text for policy in policies.all_in_force(session, OPERATOR)] == ["two", "z"]
        assert [policy.text for policy in policies.all_in_force(session, ACME)] == ["two"]


def test_blocks_and_servers_are_the_operators_business(populated: Database) -> None:
    with populated.write() as session:
        with pytest.raises(RefusedError):
            tenants.add(session, ACME, tenant_id="new", overlay=OVERLAY, now=NOW)
        with pytest.raises(RefusedError):
            servers.add(session, ACME, server_id="new", address="10.254.0.12", overlay=OVERLAY)
        with pytest.raises(RefusedError):
            servers.remove(session, ACME, server_id="web")
        servers.remove(session, OPERATOR, server_id="web")
        assert [server.id for server in servers.every(session, OPERATOR)] == ["db"]
