"""The agents' endpoint over real mutual TLS on loopback: who gets in, what is kept, what is refused and how."""

import asyncio
import gzip
import json
import sqlite3
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from fleet_cloud import NOW, Cloud, Endpoint, Enrolled, heartbeat_document, tls_refusal

from cloudside.fleet import tls
from cloudside.pki import published, revocation
from cloudside.pki.store import KeyStore
from cloudside.registry import log_requests, reports, settings
from cloudside.registry.callers import OPERATOR

BEAT = "/agent/v1/heartbeat"


async def test_a_heartbeat_is_kept_and_answered(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    answer = await endpoint.post(BEAT, heartbeat_document(), router=tokyo)
    assert (answer.status, answer.document) == (
        200,
        {
            "protocol": 1,
            "heartbeat_s": 30.0,
            "settings": None,
            "log_requests": [],
            "renew_certificate": False,
            "timezone": "UTC",
            "firmware": None,
            "repository": None,
            "log_pulls": [],
            "commands": [],
            "console_key": None,
        },
    )
    with cloud.database.read() as session:
        kept = reports.heartbeat(session, OPERATOR, "tokyo-1")
    assert kept is not None
    assert (kept.received_at, str(kept.source), kept.report["uplink"]["kind"]) == (NOW, "127.0.0.1", "wired")


async def test_a_mobile_uplink_is_asked_for_fewer_heartbeats(endpoint: Endpoint, tokyo: Enrolled) -> None:
    answer = await endpoint.post(BEAT, heartbeat_document(uplink={"kind": "mobile"}), router=tokyo)
    assert answer.document["heartbeat_s"] == 120.0


async def test_unknown_fields_of_a_newer_router_are_ignored(endpoint: Endpoint, tokyo: Enrolled) -> None:
    assert (await endpoint.post(BEAT, heartbeat_document(weather="rain"), router=tokyo)).status == 200


@pytest.mark.parametrize("device_id", ["", "f" * 64, "not hexadecimal", "0" * 63])
async def test_a_wrong_or_missing_device_id_is_refused_and_nothing_kept(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, device_id: str
) -> None:
    answer = await endpoint.post(BEAT, heartbeat_document(), router=tokyo, device_id=device_id)
    assert answer.status == (403 if len(device_id) == 64 else 401)
    assert set(answer.document) == {"key", "params", "text"}
    assert answer.document["text"] and answer.document["params"] == {}
    assert answer.headers["connection"] == "close"
    with cloud.database.read() as session:
        assert reports.heartbeat(session, OPERATOR, "tokyo-1") is None


async def test_one_sites_certificate_with_anothers_device_id_is_refused(
    endpoint: Endpoint, tokyo: Enrolled, kobe: Enrolled
) -> None:
    answer = await endpoint.post(BEAT, heartbeat_document(), router=tokyo, device_id=kobe.device_id)
    assert (answer.status, answer.document["key"]) == (403, "fleet.device-refused")


async def test_a_site_cannot_report_for_another(cloud: Cloud, endpoint: Endpoint, kobe: Enrolled) -> None:
    answer = await endpoint.post(BEAT, heartbeat_document("tokyo-1"), router=kobe)
    assert (answer.status, answer.document["key"]) == (403, "fleet.other-site")
    with cloud.database.read() as session:
        assert reports.heartbeats(session, OPERATOR) == {}


async def test_a_revoked_site_is_refused(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    with cloud.database.write() as session:
        revocation.revoke_site(session, cloud.config, OPERATOR, site_id="tokyo-1", now=NOW)
    answer = await endpoint.post(BEAT, heartbeat_document(), router=tokyo)
    assert (answer.status, answer.document["key"]) == (403, "fleet.certificate-refused")


async def test_the_certificate_before_a_new_enrolment_is_refused(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, tmp_path: Path
) -> None:
    again = cloud.enrol("tokyo-1", tmp_path, now=NOW + timedelta(seconds=1))
    stale = await endpoint.post(BEAT, heartbeat_document(), router=tokyo, device_id=again.device_id)
    assert (stale.status, stale.document["key"]) == (403, "fleet.certificate-refused")
    assert (await endpoint.post(BEAT, heartbeat_document(), router=again)).status == 200


#: What a router sees when TLS refuses it: asyncio closes without the alert.
_CUT = (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError)


async def test_an_expired_certificate_fails_in_tls(cloud: Cloud, endpoint: Endpoint, tmp_path: Path) -> None:
    old = cloud.enrol("tokyo-1", tmp_path, now=NOW - timedelta(days=400))
    assert "certificate has expired" in tls_refusal(_server_context(cloud), endpoint.root, old)
    with pytest.raises(_CUT):
        await endpoint.post(BEAT, heartbeat_document(), router=old)


@pytest.mark.parametrize("path", [BEAT, "/agent/v1/logs/1", "/agent/v1/certificate"])
async def test_no_certificate_is_good_for_nothing_but_enrolment(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, path: str
) -> None:
    assert tls_refusal(_server_context(cloud), endpoint.root, tokyo) == ""
    answer = await endpoint.post(path, heartbeat_document(), router=None, device_id=tokyo.device_id)
    assert (answer.status, answer.document["key"]) == (403, "fleet.certificate-refused")
    with cloud.database.read() as session:
        assert reports.heartbeat(session, OPERATOR, "tokyo-1") is None


async def test_the_endpoints_own_certificate_is_no_sites(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    # It chains to the same root but says server: OpenSSL refuses its purpose before our own check would.
    store = KeyStore(cloud.config.state_directory)
    (tokyo.directory / "chain.crt").write_bytes(store.certificate_path("endpoint").read_bytes())
    (tokyo.directory / "site.key").write_bytes(store.key_path("endpoint").read_bytes())
    assert "unsuitable certificate purpose" in tls_refusal(_server_context(cloud), endpoint.root, tokyo)
    with pytest.raises(_CUT):
        await endpoint.post(BEAT, heartbeat_document(), router=tokyo)


def _server_context(cloud: Cloud) -> ssl.SSLContext:
    files = published.endpoint_files(cloud.config)
    return tls.server_context(files.chain, files.key, files.root)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("", "document"),
        ("{", "document"),
        ("[]", "document"),
        (b"\xff\xfe", "document"),
        (heartbeat_document(uplink={"kind": "pigeon"}), "uplink.kind"),
        (heartbeat_document(protocol=9), "protocol"),
        (heartbeat_document(tunnel={"up": True, "since_s": float("nan")}), "tunnel.since_s"),
        (heartbeat_document(problems=[{"key": "k", "params": {"n": float("inf")}}]), "problems.0.params.n"),
    ],
)
async def test_a_malformed_document_is_refused_by_field(
    endpoint: Endpoint, tokyo: Enrolled, body: str | bytes, named: str
) -> None:
    answer = await endpoint.post(BEAT, body, router=tokyo)
    assert (answer.status, answer.document["key"]) == (422, "fleet.bad-document")
    assert named in answer.document["params"]["problems"]


async def test_an_announced_oversize_is_refused_before_it_is_sent(endpoint: Endpoint, tokyo: Enrolled) -> None:
    answer = await endpoint.post(BEAT, "", router=tokyo, extra="Content-Length: 65537\r\n", headers_only=True)
    assert (answer.status, answer.document["key"]) == (413, "fleet.body-too-large")


async def test_an_unannounced_oversize_is_cut_off(endpoint: Endpoint, tokyo: Enrolled) -> None:
    piece = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    context_body = piece * 3 + b"0\r\n\r\n"
    answer = await endpoint.post(
        BEAT, context_body, router=tokyo, extra="Transfer-Encoding: chunked\r\nX-Content-Length: none\r\n"
    )
    assert (answer.status, answer.document["key"]) == (413, "fleet.body-too-large")


async def test_a_locked_registry_answers_503_and_the_next_heartbeat_gets_through(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled
) -> None:
    locker = sqlite3.connect(cloud.config.state_directory / "registry.sqlite", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    try:
        answer = await endpoint.post(BEAT, heartbeat_document(), router=tokyo)
        assert (answer.status, answer.document["key"]) == (503, "fleet.cloud-trouble")
        assert "sqlite" not in answer.body.decode()
        assert answer.headers["retry-after"] == "10"
    finally:
        locker.execute("ROLLBACK")
        locker.close()
    assert (await endpoint.post(BEAT, heartbeat_document(), router=tokyo)).status == 200


async def test_desired_settings_go_out_until_they_are_applied(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled
) -> None:
    with cloud.database.write() as session:
        settings.change(session, OPERATOR, site_id="tokyo-1", changes={"log.level": "debug"}, author="ops", now=NOW)
    wanted = {"version": 1, "values": {"log.level": "debug"}, "confirm_s": 60.0}
    assert (await endpoint.post(BEAT, heartbeat_document(), router=tokyo)).document["settings"] == wanted
    applied = await endpoint.post(BEAT, heartbeat_document(settings={"version": 1}), router=tokyo)
    assert applied.document["settings"] is None
    with cloud.database.read() as session:
        row = settings.latest(session, OPERATOR, "tokyo-1")
    assert row is not None and row.state == "applied"


async def test_undone_settings_are_marked_and_not_sent_again(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    with cloud.database.write() as session:
        settings.change(
            session, OPERATOR, site_id="tokyo-1", changes={"tunnel.gateways": ["192.0.2.1"]}, author="ops", now=NOW
        )
    undone = {"version": 0, "reverted_version": 1, "problem": {"key": "agent.cloud-lost", "params": {"seconds": 60}}}
    for _ in range(2):  # routers repeat themselves
        answer = await endpoint.post(BEAT, heartbeat_document(settings=undone), router=tokyo)
        assert (answer.status, answer.document["settings"]) == (200, None)
    with cloud.database.read() as session:
        row = settings.latest(session, OPERATOR, "tokyo-1")
    assert row is not None and (row.state, row.problem) == (
        "reverted",
        {"key": "agent.cloud-lost", "params": {"seconds": 60}},
    )


async def test_a_version_that_does_not_exist_does_not_stop_heartbeats(endpoint: Endpoint, tokyo: Enrolled) -> None:
    claims = {"version": 77, "reverted_version": 78}
    assert (await endpoint.post(BEAT, heartbeat_document(settings=claims), router=tokyo)).status == 200


async def test_a_log_is_asked_for_handed_over_and_kept_once(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    with cloud.database.write() as session:
        log_requests.ask(
            session, OPERATOR, request_id="a" * 32, site_id="tokyo-1", lines=50, requested_by="ops", now=NOW
        )
    asked = await endpoint.post(BEAT, heartbeat_document(), router=tokyo)
    assert asked.document["log_requests"] == [{"id": "a" * 32, "lines": 50}]
    first = await endpoint.post(f"/agent/v1/logs/{'a' * 32}", gzip.compress(b"first"), router=tokyo)
    again = await endpoint.post(f"/agent/v1/logs/{'a' * 32}", gzip.compress(b"again"), router=tokyo)
    assert (first.status, again.status) == (204, 204)
    with cloud.database.read() as session:
        kept = log_requests.get(session, OPERATOR, "a" * 32)
    assert kept.content is not None and gzip.decompress(kept.content) == b"first"
    assert (await endpoint.post(BEAT, heartbeat_document(), router=tokyo)).document["log_requests"] == []


async def test_another_sites_log_request_does_not_exist(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, kobe: Enrolled
) -> None:
    with cloud.database.write() as session:
        log_requests.ask(
            session, OPERATOR, request_id="b" * 32, site_id="kobe-1", lines=50, requested_by="ops", now=NOW
        )
    foreign = await endpoint.post(f"/agent/v1/logs/{'b' * 32}", gzip.compress(b"mine"), router=tokyo)
    unknown = await endpoint.post(f"/agent/v1/logs/{'c' * 32}", gzip.compress(b"mine"), router=tokyo)
    assert (foreign.status, foreign.document["key"]) == (unknown.status, unknown.document["key"]) == (
        422, "registry.unknown-log-request",
    )  # fmt: skip
    with cloud.database.read() as session:
        assert log_requests.get(session, OPERATOR, "b" * 32).content is None


async def test_a_zip_bomb_is_refused(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    with cloud.database.write() as session:
        log_requests.ask(
            session, OPERATOR, request_id="d" * 32, site_id="tokyo-1", lines=50, requested_by="ops", now=NOW
        )
    bomb = gzip.compress(bytes(60_000_000), compresslevel=1)
    answer = await endpoint.post(f"/agent/v1/logs/{'d' * 32}", bomb, router=tokyo)
    assert (answer.status, answer.document["key"]) == (422, "fleet.log-too-large")


async def test_an_unknown_path_is_keyed_json(endpoint: Endpoint, tokyo: Enrolled) -> None:
    answer = await endpoint.post("/admin", "{}", router=tokyo)
    assert (answer.status, json.loads(answer.body)["key"]) == (404, "fleet.no-such-path")
