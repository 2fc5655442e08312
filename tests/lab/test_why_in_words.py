"""Why a site is not connected: a real router is turned away, and `kyoten site show` says the right sentence."""

import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import gateway_world
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from gateway_world import SERVICE, GatewayWorld, Router, pause

from cloudside.cli import main
from cloudside.pki import authority, issuing
from cloudside.pki.authority import CLIENT_AUTH, Authority, Leaf
from cloudside.pki.store import KeyStore, key_to_pem
from cloudside.registry import history, reports
from cloudside.registry.callers import OPERATOR
from lab.network import wait_until

OWN = ip_network("10.10.1.0/24")


@pytest.fixture(scope="module")
def world() -> Iterator[GatewayWorld]:
    with gateway_world.running("wy") as built:
        _configuration(built).write_text(
            f'state_directory = "{built.config.state_directory}"\n'
            f'runtime_directory = "{built.config.runtime_directory}"\n'
            f'[gateway]\npublic_addresses = ["{gateway_world.PUBLIC}"]\nresync_s = 1.0\n'
        )
        yield built


@pytest.fixture
def tokyo(world: GatewayWorld) -> Iterator[Router]:
    """The site's router, not connected; what a test changes of it is taken back."""
    router = world.routers["tokyo"]
    if router.sas():
        router.charon.terminate(connection="gw")
    # Or the tunnel of the test before would be taken for the next one's.
    wait_until("no tunnel", lambda: (found := world.tunnels().get("tokyo")) is None or not found.up, timeout_s=10)
    connection, child = dict(router._connection), dict(router._child)
    yield router
    router._connection, router._child = connection, child


def _configuration(world: GatewayWorld) -> Path:
    return world.network.directory / "kyoten.toml"


def _kyoten(world: GatewayWorld, *words: str, status: int = 0) -> str:
    """On the gateway itself."""
    argv = [sys.executable, "-m", "cloudside.cli.main", "--config", str(_configuration(world)), *words]
    ended = world.gateway.run(["env", "LC_ALL=en_GB.UTF-8", *argv], check=False)
    assert ended.status == status, ended
    return ended.stdout


def _shown(world: GatewayWorld, *words: str, language: str = "en_GB") -> str:
    """Anywhere that has the registry: here, which is quicker."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("LC_ALL", f"{language}.UTF-8")
        patch.setenv("KYOTEN_CONFIG", "")  # put back afterwards: the command sets it
        assert main.run(["--config", str(_configuration(world)), *words]) == 0
    return printed.getvalue()


def _show(world: GatewayWorld, site: str = "tokyo") -> dict[str, Any]:
    document: dict[str, Any] = json.loads(_shown(world, "site", "show", site, "--json"))
    return document


def _wait_cause(world: GatewayWorld, key: str, since: datetime, site: str = "tokyo", timeout_s: float = 6) -> None:
    def told() -> bool:
        with world.database.read() as session:
            rows = history.problems(session, OPERATOR, site)
        return any(row.key == key and row.seen_at >= since - timedelta(seconds=1) for row in rows)

    wait_until(f"the gateway says {key}", told, timeout_s=timeout_s)


def _says(world: GatewayWorld, key: str, english: str, japanese: str, site: str = "tokyo") -> None:
    assert _show(world, site)["why"]["key"] == key
    shown = " ".join(_shown(world, "site", "show", site).split())
    assert english in shown and key not in shown, shown
    shown = "".join(_shown(world, "site", "show", site, language="ja_JP").split())
    assert japanese in shown and key not in shown, shown


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _certificate(
    world: GatewayWorld, router: Router, *, now: datetime, block: IPv4Network = OWN, known: bool = True
) -> str:
    """A certificate in the site's name for a new key; of the tenant's authority, or of one that nobody knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    router.charon.load_private_key(key_to_pem(key).decode())
    if known:
        with world.database.write() as session:
            issuer = issuing.load_authority(session, KeyStore(world.config.state_directory), "tenant-acme")
    else:
        own = ec.generate_private_key(ec.SECP256R1())
        made = authority.make_root(own, now=datetime.now(UTC), serial=issuing.new_serial())
        issuer = Authority("root", made, own)
    leaf = Leaf("tokyo", ("tokyo",), (CLIENT_AUTH,), blocks=(block,))
    return _pem(authority.make_leaf(issuer, leaf, key=key.public_key(), now=now, serial=issuing.new_serial()))


def _shows(router: Router, certificate: str) -> None:
    router._connection = {**router._connection, "local": {"auth": "pubkey", "id": "tokyo", "certs": [certificate]}}


def test_a_connected_site_is_shown_with_its_tunnel(world: GatewayWorld, tokyo: Router) -> None:
    assert tokyo.connect()
    wait_until(
        "the report", lambda: world.tunnels().get("tokyo") is not None and world.tunnels()["tokyo"].up, timeout_s=4
    )
    shown = _show(world)
    assert (shown["state"], shown["why"], shown["gateway"]) == ("up", None, "gw1")
    assert (shown["peer"], shown["ike_version"]) == ("198.51.100.11", 2)
    assert "AES_GCM_16-256" in shown["suite"]
    assert 360 <= shown["certificate_days"] <= 365
    assert "connected" in _shown(world, "site", "history", "tokyo")


_YEAR = timedelta(days=365)


@pytest.mark.parametrize(
    ("off", "key", "english", "japanese"),
    [
        (-timedelta(days=400), "causes.certificate-expired", "expired on", "期限切れになりました"),
        (_YEAR, "causes.certificate-not-yet-valid", "is not valid before", "まで有効になりません"),
    ],
    ids=["expired", "clock a year off"],
)
def test_a_certificate_of_another_time(
    world: GatewayWorld, tokyo: Router, off: timedelta, key: str, english: str, japanese: str
) -> None:
    since = datetime.now(UTC)
    _shows(tokyo, _certificate(world, tokyo, now=since + off))
    assert not tokyo.connect()
    _wait_cause(world, key, since)
    _says(world, key, english, japanese)


def test_an_unknown_authority(world: GatewayWorld, tokyo: Router) -> None:
    since = datetime.now(UTC)
    _shows(tokyo, _certificate(world, tokyo, now=since, known=False))
    assert not tokyo.connect()
    _wait_cause(world, "causes.unknown-authority", since)
    _says(world, "causes.unknown-authority", "does not know", "知らない認証局")


def test_a_certificate_for_another_tenants_block(world: GatewayWorld, tokyo: Router) -> None:
    since = datetime.now(UTC)
    _shows(tokyo, _certificate(world, tokyo, now=since, block=IPv4Network("10.20.1.0/24")))
    assert not tokyo.connect()
    _wait_cause(world, "causes.foreign-block", since)
    _says(world, "causes.foreign-block", "10.20.1.0/24", "10.20.1.0/24")


def test_an_ike_proposal_that_nobody_takes(world: GatewayWorld, tokyo: Router) -> None:
    since = datetime.now(UTC)
    tokyo._connection = {**tokyo._connection, "proposals": ["aes128-sha1-modp1024"]}
    assert not tokyo.connect()  # names no site: it is known by where the site came from last
    _wait_cause(world, "causes.ike-proposal", since)
    _says(world, "causes.ike-proposal", "AES_CBC_128", "AES_CBC_128")


def test_an_esp_proposal_that_nobody_takes(world: GatewayWorld, tokyo: Router) -> None:
    since = datetime.now(UTC)
    tokyo._child = {**tokyo._child, "esp_proposals": ["aes128-sha1"]}
    assert not tokyo.connect()
    _wait_cause(world, "causes.esp-proposal", since)
    _says(world, "causes.esp-proposal", "ESP cipher suites", "ESP 暗号スイート".replace(" ", ""))


def test_a_prefix_that_is_not_the_sites(world: GatewayWorld, tokyo: Router) -> None:
    since = datetime.now(UTC)
    assert not tokyo.connect(selector="10.20.1.0/24")
    _wait_cause(world, "causes.traffic-selectors", since)
    _says(world, "causes.traffic-selectors", "10.20.1.0/24", "10.20.1.0/24")


def test_another_gateways_name(world: GatewayWorld, tokyo: Router) -> None:
    since = datetime.now(UTC)
    remote: dict[str, object] = dict(tokyo._connection["remote"])  # type: ignore[call-overload]
    tokyo._connection = {**tokyo._connection, "remote": {**remote, "id": "other.kyoten"}}
    assert not tokyo.connect()
    _wait_cause(world, "causes.wrong-gateway", since)
    _says(world, "causes.wrong-gateway", "other.kyoten", "other.kyoten")


def test_a_router_that_does_not_trust_the_gateway(world: GatewayWorld, tokyo: Router) -> None:
    """As a router does whose clock is a year ahead: to it the gateway's certificate has expired."""
    since = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    root = authority.make_root(key, now=since, serial=issuing.new_serial())
    remote: dict[str, object] = dict(tokyo._connection["remote"])  # type: ignore[call-overload]
    tokyo._connection = {**tokyo._connection, "remote": {**remote, "cacerts": [_pem(root)]}}
    assert not tokyo.connect()
    _wait_cause(world, "causes.router-refused", since)
    wait_until("the loss", lambda: not world.tunnels()["tokyo"].up, timeout_s=4)
    _says(world, "causes.router-refused", "its clock is wrong", "ルーターの時計のずれ")


def test_answers_that_do_not_come_through(world: GatewayWorld, tokyo: Router) -> None:
    since = datetime.now(UTC)
    rule = ["INPUT", "-p", "udp", "-j", "DROP"]
    tokyo.host.run(["iptables-legacy", "-A", *rule])
    try:
        assert not tokyo.connect(wait_s=2)
        _wait_cause(world, "causes.half-open", since, timeout_s=25)  # charon waits 15 s
    finally:
        tokyo.host.run(["iptables-legacy", "-D", *rule])
    _says(world, "causes.half-open", "UDP port 4500", "UDPポート4500")


def test_a_carrier_that_blocks_udp(world: GatewayWorld) -> None:
    """No IKE packet comes, but the agent's reports do, over TCP and outside the tunnel."""
    osaka = world.routers["osaka"]
    rule = ["OUTPUT", "-p", "udp", "-j", "DROP"]
    osaka.host.run(["iptables-legacy", "-A", *rule])
    try:
        assert not osaka.connect(wait_s=2)
        now = datetime.now(UTC)
        with world.database.write() as session:
            reports.record_heartbeat(
                session, OPERATOR, site_id="osaka", received_at=now, source=ip_address("198.51.100.12"),
                report={"sent_at": now.isoformat(), "uplink": {"kind": "mobile"}, "problems": []},
            )  # fmt: skip
    finally:
        osaka.host.run(["iptables-legacy", "-D", *rule])
    _says(world, "causes.udp-blocked", "blocks UDP ports 500 and 4500", "UDPポート500と4500を遮断", site="osaka")
    stops = json.loads(_kyoten(world, "site", "diagnose", "osaka", "--json", status=1))
    assert stops["stops_at"] == "ike"


def test_a_site_that_falls_silent(world: GatewayWorld) -> None:
    nagoya = world.routers["nagoya"]
    assert nagoya.connect()
    wait_until("the report", lambda: "nagoya" in world.tunnels(), timeout_s=4)
    nagoya.host.ip("link", "set", "wan0", "down")
    wait_until("the loss", lambda: not world.tunnels()["nagoya"].up, timeout_s=45)
    _says(world, "causes.dead-peer", "answered no more", "応答がなくなりました", site="nagoya")
    nagoya.host.ip("link", "set", "wan0", "up")


def test_diagnose_walks_to_the_end_and_says_where_a_way_stops(world: GatewayWorld, tokyo: Router) -> None:
    assert tokyo.connect()
    wait_until("the report", lambda: world.tunnels()["tokyo"].up, timeout_s=4)
    wait_until("the route", lambda: "10.10.1.0/24 dev ipsec0" in world.routes(), timeout_s=3)
    stops = json.loads(_kyoten(world, "site", "diagnose", "tokyo", "--json", status=1))
    assert [(step["step"], step["outcome"]) for step in stops["steps"][:-1]] == [
        (name, "ok")
        for name in (
            "registry",
            "certificate",
            "gateway",
            "charon",
            "ike",
            "ike-sa",
            "child-sa",
            "route",
            "rules",
            "ping",
        )
    ]
    assert stops["stops_at"] == "heartbeat"  # a bare charon has no agent
    now = datetime.now(UTC)
    with world.database.write() as session:
        reports.record_heartbeat(
            session, OPERATOR, site_id="tokyo", received_at=now, source=ip_address("10.10.1.1"), report={}
        )
    assert "The whole way of site tokyo holds" in _kyoten(world, "site", "diagnose", "tokyo")
    tokyo.host.run(["iptables-legacy", "-A", "INPUT", "-p", "icmp", "-s", str(SERVICE), "-j", "DROP"])
    try:
        stops = json.loads(_kyoten(world, "site", "diagnose", "tokyo", "--json", status=1))
        assert stops["stops_at"] == "ping"
    finally:
        tokyo.host.run(["iptables-legacy", "-F", "INPUT"])
    assert world.daemon is not None
    os.kill(world.daemon.pid, signal.SIGSTOP)  # it would mend the set within a second
    try:
        world.gateway.run(["ipset", "del", "kyoten-sites", str(OWN)])
        stops = json.loads(_kyoten(world, "site", "diagnose", "tokyo", "--json", status=1))
        assert stops["stops_at"] == "rules"
    finally:
        os.kill(world.daemon.pid, signal.SIGCONT)


def test_a_daemon_that_is_restarted_writes_no_history(world: GatewayWorld, tokyo: Router) -> None:
    assert tokyo.connect()
    wait_until("the report", lambda: world.tunnels()["tokyo"].up, timeout_s=4)

    def changes() -> list[bool]:
        with world.database.read() as session:
            since = datetime.now(UTC) - timedelta(hours=1)
            return [row.up for row in history.changes(session, OPERATOR, "tokyo", since=since)]

    before = changes()
    assert world.daemon is not None
    world.daemon.kill()
    world.start()
    world.wait_ready()
    pause(20)  # longer than a tunnel that was taken over is waited for
    assert changes() == before
    os.kill(world.charon_pid(), signal.SIGKILL)
    wait_until("the loss", lambda: changes() == [*before, False], timeout_s=8)
    assert _show(world)["last_problem"]["key"] == "causes.charon-restarted"


def test_a_revoked_site(world: GatewayWorld, tokyo: Router) -> None:
    wait_until("the connection", lambda: tokyo.connect(), timeout_s=10)
    since = datetime.now(UTC)
    world.revoke("tokyo")
    wait_until("the cut", lambda: "tokyo" not in world.charon_sas(), timeout_s=3)
    wait_until("the router to notice", lambda: not tokyo.sas(), timeout_s=5)
    assert not tokyo.connect()
    _wait_cause(world, "causes.certificate-revoked", since)
    _says(world, "causes.certificate-revoked", "was revoked on", "失効しています")
    assert json.loads(_kyoten(world, "site", "diagnose", "tokyo", "--json", status=1))["stops_at"] == "registry"


def test_a_gateway_that_is_gone_leaves_its_sites_unknown(world: GatewayWorld) -> None:
    assert world.daemon is not None
    world.daemon.kill()
    with world.database.write() as session:
        state = reports.gateways(session, OPERATOR)[0]
        state.seen_at = datetime.now(UTC) - timedelta(seconds=31)
    shown = _show(world, "nagoya")
    assert (shown["state"], shown["why"]["key"]) == ("unknown", "causes.gateway-silent")
    status = json.loads(_shown(world, "status", "--json"))
    assert status["gateways"][0]["silent"] and status["total"]["unknown"] >= 1
    assert json.loads(_kyoten(world, "site", "diagnose", "nagoya", "--json", status=1))["stops_at"] == "gateway"
