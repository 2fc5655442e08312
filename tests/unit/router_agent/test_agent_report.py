"""When the cloud hears of the router, over which TLS, and what becomes of errors."""

import http.server
import secrets
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cloudside.pki import authority
from cloudside.pki.authority import Authority, Leaf
from cloudside.pki.store import key_to_pem
from router_agent.bundle import Endpoint, Enrolment
from router_agent.errors import AgentError, CloudRefusedError, CloudUnreachableError, StateError
from router_agent.identity import Identity
from router_agent.report.cloud import CloudClient, tls_context
from router_agent.report.courier import Courier, HeartbeatErrand, LogErrand, Outcome
from router_agent.report.documents import LogRequest
from router_agent.report.schedule import Schedule

NOW = datetime.now(UTC)
DEVICE_ID = "0f" * 32


class Pki:
    """A root, the cloud's authority and two tenants'."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.root = Authority("root", authority.make_root(key, now=NOW, serial=1), key)
        self.cloud = self.below("cloud", "10.0.0.0/8")
        self.acme = self.below("acme", "10.10.0.0/16")

    def below(self, name: str, block: str) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        made = authority.make_authority(
            self.root, name=name, block=ip_network(block), key=key.public_key(), now=NOW, serial=secrets.randbits(64)
        )
        return Authority(name, made, key)

    def leaf(self, issuer: Authority, name: str, *usages: object) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        what = Leaf(name, (name,), usages, blocks=())  # type: ignore[arg-type]
        made = authority.make_leaf(issuer, what, key=key.public_key(), now=NOW, serial=secrets.randbits(64))
        chain = made.public_bytes(Encoding.PEM) + issuer.certificate.public_bytes(Encoding.PEM)
        return chain, key_to_pem(key)


class Cloud:
    """A TLS server on loopback that answers what it is told and keeps what it heard."""

    def __init__(self, pki: Pki, directory: Path, chain: bytes, key: bytes) -> None:
        self.heard: list[tuple[str, str, str]] = []
        self.status, self.body = 200, b'{"heartbeat_s": 30}'
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"])).decode()
                outer.heard.append((self.path, self.headers["Authorization"], content))
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # a client that breaks off is what some tests are about

        (directory / "server.crt").write_bytes(chain)
        (directory / "server.key").write_bytes(key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "server.crt", directory / "server.key")
        context.load_verify_locations(cadata=pki.root.certificate.public_bytes(Encoding.PEM).decode())
        context.verify_mode = ssl.CERT_REQUIRED
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.endpoint = Endpoint("127.0.0.1", self.server.server_address[1], in_tunnel=False)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


@pytest.fixture
def router(pki: Pki, tmp_path: Path, enrolment: Enrolment) -> Identity:
    chain, key = pki.leaf(pki.acme, "tokyo-1", authority.CLIENT_AUTH)
    leaf, _, rest = chain.partition(b"-----END CERTIFICATE-----\n")
    (tmp_path / "site.crt").write_bytes(leaf + b"-----END CERTIFICATE-----\n")
    (tmp_path / "tenant-authority.crt").write_bytes(rest)
    (tmp_path / "site.key").write_bytes(key)
    (tmp_path / "cloud-authority.crt").write_bytes(pki.cloud.certificate.public_bytes(Encoding.PEM))
    return Identity(enrolment, tmp_path)


@pytest.fixture
def cloud(pki: Pki, tmp_path: Path) -> Iterator[Cloud]:
    started = Cloud(pki, tmp_path, *pki.leaf(pki.cloud, "agent.kyoten", authority.SERVER_AUTH))
    yield started
    started.close()


def client(router: Identity, *, name: str = "agent.kyoten") -> CloudClient:
    context = tls_context(router, router.directory)
    return CloudClient(context, name=name, device_id=DEVICE_ID, source="127.0.0.1", timeout_s=3)


def test_a_heartbeat_carries_certificate_and_device_id(router: Identity, cloud: Cloud) -> None:
    heard = client(router).heartbeat({"site": "tokyo-1"}, (cloud.endpoint,))
    assert heard.answer.heartbeat_s == 30
    assert cloud.heard == [("/agent/v1/heartbeat", f"KyotenDevice {DEVICE_ID}", '{"site": "tokyo-1"}')]


def test_the_next_endpoint_is_tried_when_one_cannot_be_reached(router: Identity, cloud: Cloud) -> None:
    closed = Endpoint("127.0.0.1", 1, in_tunnel=True)
    assert client(router).heartbeat({}, (closed, cloud.endpoint)).endpoint == cloud.endpoint
    with pytest.raises(CloudUnreachableError) as caught:
        client(router).heartbeat({}, (closed,))
    assert caught.value.params["endpoint"] == "127.0.0.1:1"


def test_another_name_is_not_the_cloud(router: Identity, cloud: Cloud) -> None:
    with pytest.raises(CloudUnreachableError):
        client(router, name="other.kyoten").heartbeat({}, (cloud.endpoint,))
    assert cloud.heard == []


def test_a_tenants_authority_cannot_pose_as_the_cloud(pki: Pki, router: Identity, tmp_path: Path) -> None:
    impostor = Cloud(pki, tmp_path, *pki.leaf(pki.acme, "agent.kyoten", authority.SERVER_AUTH))
    try:
        with pytest.raises(CloudUnreachableError):
            client(router).heartbeat({}, (impostor.endpoint,))
        assert impostor.heard == [], "the device id went to an impostor"
    finally:
        impostor.close()


def test_refusals_and_troubles_of_the_cloud_are_told_apart(router: Identity, cloud: Cloud) -> None:
    for status, error in ((403, CloudRefusedError), (404, CloudRefusedError), (503, CloudUnreachableError)):
        cloud.status = status
        with pytest.raises(error):
            client(router).heartbeat({}, (cloud.endpoint,))
    cloud.status, cloud.body = 200, b"<html>"
    with pytest.raises(CloudRefusedError):
        client(router).heartbeat({}, (cloud.endpoint,))
    cloud.body = b"x" * 200_000
    with pytest.raises(CloudRefusedError):
        client(router).heartbeat({}, (cloud.endpoint,))


def test_a_log_goes_to_its_own_path(router: Identity, cloud: Cloud) -> None:
    cloud.status, cloud.body = 204, b""
    client(router).hand_over_log("a-1", b"packed", (cloud.endpoint,))
    assert cloud.heard[0][0] == "/agent/v1/logs/a-1"


def test_a_key_that_is_not_the_certificates_is_our_error(router: Identity, pki: Pki) -> None:
    router.path("site.key").write_bytes(pki.leaf(pki.acme, "x", authority.CLIENT_AUTH)[1])
    with pytest.raises(StateError, match="identity-damaged"):
        tls_context(router, router.directory)


def outcome(courier: Courier) -> Outcome:
    while True:
        if found := courier.outcomes():
            return found[0]
        threading.Event().wait(0.01)


def test_the_courier_brings_back_answers_and_errors_and_survives_bugs(router: Identity, cloud: Cloud) -> None:
    def collect(request: LogRequest) -> bytes:
        raise RuntimeError(f"no log {request.id}")

    courier = Courier(client(router), collect)
    courier.start()
    errand = HeartbeatErrand({}, (cloud.endpoint,), began_at=5)
    courier.send(errand)
    assert courier.busy
    first = outcome(courier)
    assert (first.errand, first.error, courier.busy) == (errand, None, False)
    courier.send(LogErrand(LogRequest("a", 1), (cloud.endpoint,)))
    assert outcome(courier).error is not None
    cloud.status = 403
    courier.send(errand)
    assert isinstance(outcome(courier).error, CloudRefusedError)
    courier.stop(2)
    assert isinstance(AgentError("agent.x"), Exception)


def test_a_log_that_takes_long_holds_up_no_heartbeat(router: Identity, cloud: Cloud) -> None:
    collecting = threading.Event()

    def collect(request: LogRequest) -> bytes:
        collecting.wait(10)
        return b""

    courier = Courier(client(router), collect)
    courier.start()
    courier.send(LogErrand(LogRequest("a", 1), (cloud.endpoint,)))
    assert not courier.busy, "a log under way is no reason to put a heartbeat off"
    errand = HeartbeatErrand({}, (cloud.endpoint,), began_at=5)
    courier.send(errand)
    assert outcome(courier).errand == errand
    collecting.set()
    assert isinstance(outcome(courier).errand, LogErrand)
    courier.stop(2)


def test_heartbeats_are_spread_hurried_and_retried_within_bounds() -> None:
    plan = Schedule(due_at=0).sent(100, 30, 0.5)
    assert 127 <= plan.due_at <= 130
    assert plan.sent(100, 30, 0.0).due_at != plan.sent(100, 30, 0.9).due_at
    assert plan.hurry(100.2).due_at == 101, "two heartbeats within a second"
    assert plan.hurry(110).due_at == 110
    assert 113 <= plan.failed(100, 30, 0.5).due_at <= 116
    assert plan.sent(0, 3600, 0).failed(0, 3600, 0).due_at == 30
    assert Schedule(0).sent(0, 1, 0).failed(0, 1, 0).due_at <= 1
