"""The LAN's settings: what is taken, what is refused, what dnsmasq is told, what is reported of the devices."""

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from cloudside.fleet.settings_keys import SETTING_KEYS
from router_agent.lan import configuration
from router_agent.lan.devices import DEVICES_MAX, Lease, Neighbour, Reservation, Source, known
from router_agent.lan.settings import LanSettings
from router_agent.settings.keys import SettingsError, parse

MAC = "02:4b:59:00:00:30"
LAN = ip_network("192.168.1.0/24")
OWN = (ip_address("192.168.1.1"),)


def settings(**changed: object) -> LanSettings:
    values = {"dhcp": True, "dhcp_range": "192.168.1.100-192.168.1.109", "reservations": [f"{MAC}=192.168.1.30=plc"]}
    return parse({f"lan.{name}": value for name, value in {**values, **changed}.items()}).lan


def rendered(**changed: object) -> str:
    service, _ = configuration.plan(settings(**changed), LAN, OWN)
    assert service is not None
    return configuration.render(
        service, interface="lan0", pid_file=Path("/run/x/dnsmasq.pid"), lease_file=Path("/var/x/dhcp.leases")
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lan.dhcp", "yes"), ("lan.dhcp_range", "192.168.1.9"), ("lan.dhcp_range", "192.168.1.9-192.168.1.2"),
        ("lan.dhcp_range", ["192.168.1.1-192.168.1.2"]), ("lan.dhcp_range", "::1-::2"),
        ("lan.reservations", f"{MAC}=192.168.1.30"), ("lan.reservations", [MAC]),
        ("lan.reservations", [f"{MAC}=192.168.1.30=a b"]),
        ("lan.reservations", [f"{MAC}=192.168.1.30=x\ndhcp-script=/bin/sh"]),
        ("lan.reservations", [f"{MAC}\n=192.168.1.30"]), ("lan.reservations", ["01:00:00:00:00:01=192.168.1.30"]),
        ("lan.reservations", [f"{MAC}=192.168.1.30", f"{MAC.upper()}=192.168.1.31"]),
        ("lan.reservations", [f"{MAC}=192.168.1.30", "02:4b:59:00:00:31=192.168.1.30"]),
        ("lan.reservations", [f"02:4b:59:00:{n // 256:02x}:{n % 256:02x}=10.1.{n // 256}.{n % 256}"
                              for n in range(DEVICES_MAX + 1)]),
        ("lan.devices", ["meter"]), ("lan.devices", ["a=192.168.1.2", "a=192.168.1.3"]), ("lan.devices", [7]),
        ("lan.tomorrow", True),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_its_name(name: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        parse({name: value})
    assert caught.value.names == (name,)


def test_what_the_cloud_takes_the_router_takes() -> None:
    typed = {
        "lan.dhcp": "yes",
        "lan.dhcp_range": "192.168.1.100-192.168.1.109",
        "lan.reservations": f"{MAC.upper()}=192.168.1.30=plc, 02:4b:59:00:00:31=192.168.1.31",
        "lan.devices": "meter=192.168.1.77",
    }
    lan = parse({name: SETTING_KEYS[name].parse(text) for name, text in typed.items()}).lan
    assert lan.reservations[MAC] == Reservation(ip_address("192.168.1.30"), "plc")
    assert lan.devices == {"meter": ip_address("192.168.1.77")}


@pytest.mark.parametrize(
    ("name", "text"),
    [("lan.dhcp", "on"), ("lan.dhcp_range", "a-b"), ("lan.reservations", "plc"), ("lan.devices", "a b=192.168.1.2")],
)
def test_the_cloud_refuses_what_has_another_form(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        SETTING_KEYS[name].parse(text)


def test_dnsmasq_is_told_the_lan_and_nothing_else() -> None:
    lines = rendered().splitlines()
    assert lines[:4] == ["port=0", "interface=lan0", "except-interface=lo", "bind-interfaces"]
    assert "dhcp-range=192.168.1.100,192.168.1.109,255.255.255.0,43200" in lines
    assert f"dhcp-host={MAC},192.168.1.30,plc,43200" in lines
    only_reserved = {"lan.dhcp": True, "lan.reservations": [f"{MAC}=192.168.1.30"]}
    service, _ = configuration.plan(parse(only_reserved).lan, LAN, OWN)
    assert service is not None
    text = configuration.render(service, interface="lan0", pid_file=Path("/p"), lease_file=Path("/l"))
    assert "dhcp-range=192.168.1.0,static,255.255.255.0,43200" in text


@pytest.mark.parametrize(
    "changed",
    [
        {"reservations": [f"{MAC}=192.168.2.30"]}, {"reservations": [f"{MAC}=192.168.1.1"]},
        {"reservations": [f"{MAC}=192.168.1.255"]}, {"dhcp_range": "192.168.0.1-192.168.1.5"},
        {"dhcp_range": "192.168.1.250-192.168.2.5"},
    ],
)  # fmt: skip
def test_what_does_not_lie_in_the_lan_is_left_out_and_told(changed: dict[str, object]) -> None:
    service, problems = configuration.plan(settings(**changed), LAN, OWN)
    assert service is not None, "the rest works"
    assert [problem.key for problem in problems] == ["agent.dhcp-unfit"]


def test_dhcp_without_an_address_or_anything_to_hand_out_is_told() -> None:
    def keys(lan: LanSettings, own: tuple[object, ...]) -> list[str]:
        service, problems = configuration.plan(lan, LAN, own)  # type: ignore[arg-type]
        assert service is None
        return [problem.key for problem in problems]

    assert keys(settings(), ()) == ["agent.dhcp-no-address"]
    assert keys(settings(), (ip_address("10.0.0.1"),)) == ["agent.dhcp-no-address"]
    assert keys(LanSettings(dhcp=True), OWN) == ["agent.dhcp-nothing"]
    assert keys(LanSettings(), OWN) == []


def test_leases_are_read_and_what_is_none_is_left_out() -> None:
    text = (
        f"200 {MAC} 192.168.1.30 plc 01:02\n0 02:4b:59:00:00:31 192.168.1.31 * *\n50 {MAC} 192.168.1.32 old *\n"
        "duid 00:01\n200 x\n200 a b c d\n"
    )
    assert configuration.leases(text, now=100) == (
        Lease(MAC, ip_address("192.168.1.30"), "plc"),
        Lease("02:4b:59:00:00:31", ip_address("192.168.1.31"), ""),
    )


def test_a_device_is_told_once_as_the_best_witness_knows_it() -> None:
    at = [ip_address(f"192.168.1.{number}") for number in (30, 31, 32, 33)]
    found = known(
        reservations={MAC: Reservation(at[0], "plc")},
        stated={"meter": at[1], "plc2": at[0]},
        leases=[Lease(MAC, at[0], "x"), Lease("02:00:00:00:00:01", at[2], "laptop")],
        neighbours=[Neighbour("02:ff:00:00:00:01", at[1], 3.0), Neighbour("02:ff:00:00:00:02", at[3], 4.0)],
    )
    assert [(one.address, one.name, one.source, one.mac, one.seen_s) for one in found] == [
        (at[0], "plc", Source.RESERVATION, MAC, None),
        (at[1], "meter", Source.STATIC, "02:ff:00:00:00:01", 3.0),
        (at[2], "laptop", Source.LEASE, "02:00:00:00:00:01", None),
        (at[3], "", Source.SEEN, "02:ff:00:00:00:02", 4.0),
    ]


def test_a_crowded_lan_is_cut_to_what_the_report_holds_strangers_first() -> None:
    crowd = [Neighbour("02:00:00:00:00:01", ip_address(f"10.0.{n // 200}.{n % 200 + 1}"), 1) for n in range(1000)]
    found = known(reservations={}, stated={"meter": ip_address("10.9.9.9")}, leases=[], neighbours=crowd)
    assert len(found) == DEVICES_MAX
    assert found[0].name == "meter"
