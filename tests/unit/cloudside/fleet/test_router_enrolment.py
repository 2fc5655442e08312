"""Enrolment over the network: a token's one use, a lost answer, strangers, and what a request may not ask for."""

import asyncio
import json
import secrets
import sqlite3
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fleet_cloud import NOW, Answer, Cloud, Endpoint, Enrolled, heartbeat_document
from structlog.testing import capture_logs

from cloudside.fleet import strangers
from cloudside.fleet.attempts import FAILURES_AT_ONCE, ONE_MORE_AFTER_S, Attempts
from cloudside.pki import address_blocks, moving, revocation, tickets
from cloudside.registry import audit, incidents, routers, sites, tokens
from cloudside.registry.callers import OPERATOR
from router_agent.enrolment import certificates as router_certificates
from router_agent.enrolment import ticket as router_ticket
from router_agent.enrolment.request import Request, make_host_key, make_request

PATH = "/enrol/v1/router"


@dataclass
class Router:
    """A router that has made its keys and has no certificate."""

    request: Request = field(default_factory=lambda: make_request("tokyo-1"))
    device_id: str = field(default_factory=lambda: secrets.token_hex(32))
    host_key: str = field(default_factory=lambda: make_host_key("tokyo-1").public)

    def document(self, token: str, site: str = "tokyo-1", **changes: Any) -> str:
        document = {
            "site": site,
            "token": token,
            "csr": self.request.csr_pem.decode(),
            "device_id": self.device_id,
            "ssh_host_key": self.host_key,
        }
        return json.dumps({**document, **changes})

    def enrolled(self, answer: Answer, directory: Path) -> Enrolled:
        directory.mkdir()
        files = {**answer.document["files"], "site.key": self.request.key_pem.decode()}
        for name, content in files.items():
            (directory / name).write_text(content)
        (directory / "chain.crt").write_text(files["site.crt"] + files["tenant-authority.crt"])
        return Enrolled("tokyo-1", directory, self.device_id)


def _ticket(cloud: Cloud, directory: Path, site: str = "tokyo-1", *, valid: timedelta = timedelta(days=7)) -> str:
    output = directory / f"{site}-{secrets.token_hex(4)}.ticket"
    with cloud.database.write() as session:
        tickets.write(
            session, cloud.config, OPERATOR, site_id=site, output=output, valid=valid, author="alice", now=NOW
        )
    assert output.stat().st_mode & 0o777 == 0o600
    return router_ticket.parse(output.read_bytes()).token


async def _post(endpoint: Endpoint, body: str) -> Answer:
    return await endpoint.post(PATH, body, router=None)


def _open(cloud: Cloud) -> dict[tuple[str, str], dict[str, Any]]:
    with cloud.database.read() as session:
        return {(found.kind, found.subject): found.params for found in incidents.still_open(session, OPERATOR)}


async def test_a_router_with_a_ticket_gets_all_it_needs_and_is_in(
    cloud: Cloud, endpoint: Endpoint, tmp_path: Path
) -> None:
    router = Router()
    answer = await _post(endpoint, router.document(_ticket(cloud, tmp_path)))
    assert answer.status == 200
    assert set(answer.document["files"]) == {
        "bundle.json", "site.crt", "tenant-authority.crt", "cloud-authority.crt", "root.crt", "authorized_keys",
        "console.pub",
    }  # fmt: skip
    who = router.enrolled(answer, tmp_path / "router")
    assert (await endpoint.post("/agent/v1/heartbeat", heartbeat_document(), router=who)).status == 200


async def test_the_token_is_kept_nowhere_but_in_the_ticket(cloud: Cloud, endpoint: Endpoint, tmp_path: Path) -> None:
    token = _ticket(cloud, tmp_path)
    cloud.database.close()
    for path in cloud.config.state_directory.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path


async def test_what_the_request_wishes_to_be_does_not_count(cloud: Cloud, endpoint: Endpoint, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kobe-1")]))
        .add_extension(address_blocks.extension([ip_network("10.0.0.0/8")]), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )
    answer = await _post(endpoint, Router().document(_ticket(cloud, tmp_path), csr=greedy))
    made = x509.load_pem_x509_certificate(answer.document["files"]["site.crt"].encode())
    with cloud.database.read() as session:
        overlay = sites.get(session, OPERATOR, "tokyo-1").overlay
    assert made.subject.rfc4514_string() == "CN=tokyo-1"
    assert address_blocks.read(made) == (overlay,)
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


async def test_a_lost_answer_is_given_again_to_the_same_router_only(
    cloud: Cloud, endpoint: Endpoint, tmp_path: Path
) -> None:
    token, router = _ticket(cloud, tmp_path), Router()
    first = await _post(endpoint, router.document(token))
    again = await _post(endpoint, router.document(token))
    assert (again.status, again.document) == (200, first.document)
    for other in (Router(), Router(device_id=router.device_id), Router(request=router.request)):
        refused = await _post(endpoint, other.document(token))
        assert (refused.status, refused.document["error"]) == (403, "fleet.enrolment-refused")
    cloud.now = NOW + timedelta(days=8)
    assert (await _post(endpoint, router.document(token))).status == 403


async def test_a_database_that_is_down_costs_a_try_and_not_the_token(
    cloud: Cloud, endpoint: Endpoint, tmp_path: Path
) -> None:
    token, router = _ticket(cloud, tmp_path), Router()
    locker = sqlite3.connect(cloud.config.state_directory / "registry.sqlite", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    for _ in range(12):  # our own fault is not counted against the address
        answer = await _post(endpoint, router.document(token))
        assert (answer.status, answer.document["error"]) == (503, "fleet.cloud-trouble")
    locker.close()
    assert (await _post(endpoint, router.document(token))).status == 200


async def test_trouble_of_ours_with_a_path_in_it_is_logged_and_not_told(
    cloud: Cloud, endpoint: Endpoint, tmp_path: Path
) -> None:
    token = _ticket(cloud, tmp_path)
    public = cloud.config.state_directory / "ssh" / "operator_ed25519.pub"
    public.unlink()
    with capture_logs() as logs:
        answer = await _post(endpoint, Router().document(token))
    assert (answer.status, answer.document["error"]) == (500, "fleet.cloud-trouble")
    assert [(line["key"], line["params"]) for line in logs if line["event"] == "refused"] == [
        ("pki.key-missing", {"path": str(public)})
    ]


async def test_unknown_expired_withdrawn_and_anothers_token_are_one_answer(
    cloud: Cloud, endpoint: Endpoint, tmp_path: Path
) -> None:
    expired = _ticket(cloud, tmp_path, "kobe-1", valid=timedelta(minutes=5))
    withdrawn = _ticket(cloud, tmp_path)
    anothers = _ticket(cloud, tmp_path)  # and so the one before is withdrawn
    cloud.now = NOW + timedelta(minutes=5)
    answers = [
        await _post(endpoint, Router().document(token, site))
        for token, site in (
            ("a" * 32, "tokyo-1"),
            (expired, "kobe-1"),
            (withdrawn, "tokyo-1"),
            (anothers, "kobe-1"),
            (anothers, "none"),
        )
    ]
    assert {(answer.status, answer.body) for answer in answers} == {(403, answers[0].body)}
    with cloud.database.write() as session:
        assert tokens.withdraw(session, OPERATOR, site_id="tokyo-1", now=cloud.now) == 1
    assert (await _post(endpoint, Router().document(anothers))).status == 403
    with cloud.database.read() as session, pytest.raises(Exception, match="not-enrolled"):
        routers.get(session, OPERATOR, "tokyo-1")


def _rsa_request() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def _unproved_request() -> str:
    der = bytearray(x509.load_pem_x509_csr(make_request("tokyo-1").csr_pem).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"csr": "junk"}, "pki.request-damaged"),
        ({"csr": _rsa_request()}, "pki.request-key"),
        ({"csr": _unproved_request()}, "pki.request-unproved"),
        ({"device_id": "F" * 64}, "pki.bad-device-id"),
        ({"ssh_host_key": "ssh-ed25519 AAAA"}, "pki.bad-ssh-host-key"),
        ({"device_id": None}, "fleet.bad-document"),
        ({"site": "x" * 64}, "fleet.bad-document"),
    ],
)
async def test_what_is_malformed_is_said_and_costs_no_token(
    cloud: Cloud, endpoint: Endpoint, tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    token, router = _ticket(cloud, tmp_path), Router()
    answer = await _post(endpoint, router.document(token, **changes))
    assert (answer.status, answer.document["error"]) == (400, key)
    assert token not in answer.body.decode()
    assert (await _post(endpoint, router.document(token))).status == 200


async def test_guessing_is_slowed_down_for_that_address(cloud: Cloud, endpoint: Endpoint, tmp_path: Path) -> None:
    token, router = _ticket(cloud, tmp_path), Router()
    for _ in range(10):
        assert (await _post(endpoint, router.document("b" * 32))).status == 403
    answer = await _post(endpoint, router.document(token))
    assert (answer.status, answer.document["error"]) == (429, "fleet.enrolment-too-often")
    assert int(answer.headers["retry-after"]) <= 30
    cloud.now = NOW + timedelta(seconds=31)
    assert (await _post(endpoint, router.document(token))).status == 200


async def test_a_router_carried_to_another_site_is_refused_and_told_of(
    cloud: Cloud, endpoint: Endpoint, kobe: Enrolled, tmp_path: Path
) -> None:
    token, router = _ticket(cloud, tmp_path), Router(device_id=kobe.device_id)
    for _ in range(2):
        answer = await _post(endpoint, router.document(token))
        assert (answer.status, answer.document["error"]) == (409, "pki.device-elsewhere")
        assert "kobe" not in answer.body.decode()
    hashed = routers.hash_device_id(kobe.device_id)[:12]
    # Two tenants' sites: neither tenant may see it, the operators do.
    ((kind, subject),) = _open(cloud)
    assert (kind, subject) == ("device-moved", f"device-moved {hashed}")
    assert {key: _open(cloud)[kind, subject][key] for key in ("site", "other")} == {
        "site": "tokyo-1",
        "other": "kobe-1",
    }
    with cloud.database.write() as session:
        revocation.release_router(session, cloud.config, OPERATOR, site_id="kobe-1", now=NOW)
    assert (await _post(endpoint, router.document(token))).status == 200


async def test_the_second_router_of_a_site_shuts_the_first_out_and_staff_are_told(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, tmp_path: Path
) -> None:
    router = Router()
    answer = await _post(endpoint, router.document(_ticket(cloud, tmp_path)))
    assert answer.status == 200
    assert _open(cloud) == {}  # replacing a router is nobody's fault
    for _ in range(3):
        refused = await endpoint.post("/agent/v1/heartbeat", heartbeat_document(), router=tokyo)
        assert (refused.status, refused.document["key"]) == (403, "fleet.certificate-refused")
    assert set(_open(cloud)) == {("router-replaced", "tokyo-1")}
    who = router.enrolled(answer, tmp_path / "second")
    assert (await endpoint.post("/agent/v1/heartbeat", heartbeat_document(), router=who)).status == 200


async def test_two_routers_with_one_token_at_the_same_time_are_one(
    cloud: Cloud, endpoint: Endpoint, tmp_path: Path
) -> None:
    token = _ticket(cloud, tmp_path)
    answers = await asyncio.gather(*(_post(endpoint, Router().document(token)) for _ in range(4)))
    statuses = sorted(answer.status for answer in answers)
    # 503: the fixture's registry waits 0.2 s for its lock, which a loaded machine may need for a signature.
    assert statuses.count(200) == 1 and set(statuses) <= {200, 403, 503}


async def test_a_revoked_or_retired_site_takes_no_router(cloud: Cloud, endpoint: Endpoint, tmp_path: Path) -> None:
    token, other = _ticket(cloud, tmp_path), _ticket(cloud, tmp_path, "kobe-1")
    with cloud.database.write() as session:
        revocation.revoke_site(session, cloud.config, OPERATOR, site_id="tokyo-1", now=NOW)
        sites.change(session, OPERATOR, site_id="kobe-1", phase="retired")
    assert (await _post(endpoint, Router().document(token))).status == 403
    assert (await _post(endpoint, Router().document(other, "kobe-1"))).status == 403


async def test_a_moved_or_unknown_device_is_one_incident_each_and_ends_when_it_is_quiet(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, tmp_path: Path
) -> None:
    with cloud.database.write() as session:
        sites.add(session, OPERATOR, site_id="osaka-1", tenant_id="acme", now=NOW)
    osaka = cloud.enrol("osaka-1", tmp_path)
    for device in (osaka.device_id, "f" * 64) * 3:
        beat = await endpoint.post("/agent/v1/heartbeat", heartbeat_document(), router=tokyo, device_id=device)
        assert (beat.status, beat.document["params"]) == (403, {})
    found = _open(cloud)
    assert set(found) == {("device-moved", "tokyo-1"), ("device-unknown", "tokyo-1")}  # one tenant: it may see it
    assert found["device-moved", "tokyo-1"]["other"] == "osaka-1"
    for later, left in ((NOW + timedelta(minutes=59), 2), (NOW + timedelta(hours=1), 1), (NOW + timedelta(days=1), 0)):
        with cloud.database.write() as session:
            strangers.close_quiet(session, later)
        assert len(_open(cloud)) == left


async def test_a_router_that_makes_up_device_ids_is_written_down_once_in_a_while(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled
) -> None:
    def written() -> int:
        with cloud.database.read() as session:
            return audit.head(session, OPERATOR).number

    before = written()
    for _ in range(5):
        made_up = secrets.token_hex(32)
        beat = await endpoint.post("/agent/v1/heartbeat", heartbeat_document(), router=tokyo, device_id=made_up)
        assert beat.status == 403
    assert written() == before + 1


def test_a_clock_that_is_set_back_locks_nobody_out() -> None:
    attempts, address = Attempts(), ip_address("198.51.100.7")
    year_s = 365 * 86_400.0
    for _ in range(FAILURES_AT_ONCE):
        attempts.failed(address, year_s)
    assert 0 < attempts.wait_s(address, year_s) <= ONE_MORE_AFTER_S
    assert attempts.wait_s(address, 0.0) == 0.0
    attempts.failed(address, 0.0)
    assert attempts.wait_s(address, 0.0) == 0.0


async def test_a_site_that_moved_before_the_answer_came_through_gets_one_that_fits(
    cloud: Cloud, endpoint: Endpoint, tmp_path: Path
) -> None:
    token, router = _ticket(cloud, tmp_path), Router()
    assert (await _post(endpoint, router.document(token))).status == 200
    with cloud.database.write() as session:
        moved = moving.move_site(session, cloud.config, OPERATOR, site_id="tokyo-1", length=25, now=NOW)
    answer = await _post(endpoint, router.document(token))
    assert answer.status == 200
    made = x509.load_pem_x509_certificate(answer.document["files"]["site.crt"].encode())
    assert address_blocks.read(made) == (moved.site.overlay,)


async def test_what_the_router_gets_passes_its_own_check(cloud: Cloud, endpoint: Endpoint, tmp_path: Path) -> None:
    from router_agent import bundle

    router = Router()
    answer = await _post(endpoint, router.document(_ticket(cloud, tmp_path)))
    files = {name: content.encode() for name, content in answer.document["files"].items()}
    taken = bundle.of_files(files)
    root = (cloud.config.state_directory / "pki" / "root.crt").read_bytes()
    key = router.request.key_pem
    assert not router_certificates.check(taken.members, taken.enrolment, site="tokyo-1", key_pem=key, root=root)
