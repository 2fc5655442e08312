"""Renewal by the router: when, how often, what ends with it; and a site's move to another prefix."""

import asyncio
import json
import ssl
from datetime import datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from fleet_cloud import NOW, Answer, Cloud, Endpoint, Enrolled, heartbeat_document
from sqlalchemy import select

from cloudside.errors import InputError
from cloudside.pki import address_blocks, moving, renewal, revocation
from cloudside.pki.authority import is_due
from cloudside.registry import certificates, devices, sites
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.tables import Certificate
from router_agent.enrolment.request import Request, make_request

PATH = "/agent/v1/certificate"
BEAT = "/agent/v1/heartbeat"
#: Issued at NOW for 365 days.
DUE = NOW + timedelta(days=244)


async def _renew(endpoint: Endpoint, who: Enrolled, request: Request) -> Answer:
    return await endpoint.post(PATH, json.dumps({"csr": request.csr_pem.decode()}), router=who)


def _taken(who: Enrolled, answer: Answer, request: Request, directory: Path) -> Enrolled:
    """The router as it is with the answer installed."""
    directory.mkdir()
    files = answer.document["files"]
    (directory / "chain.crt").write_text(files["site.crt"] + files["tenant-authority.crt"])
    (directory / "site.key").write_bytes(request.key_pem)
    return Enrolled(who.site, directory, who.device_id)


def _certificate(answer: Answer) -> x509.Certificate:
    assert answer.status == 200, answer.body
    return x509.load_pem_x509_certificate(answer.document["files"]["site.crt"].encode())


def _counting(cloud: Cloud, site: str = "tokyo-1") -> list[Certificate]:
    with cloud.database.read() as session:
        return certificates.counting(session, authority="tenant-acme", kind="site", subject=site, now=cloud.now)


async def _wanted(endpoint: Endpoint, who: Enrolled) -> bool:
    answer = await endpoint.post(BEAT, heartbeat_document(who.site), router=who)
    assert answer.status == 200, answer.body
    return bool(answer.document["renew_certificate"])


async def test_before_its_time_the_certificate_stays(cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled) -> None:
    cloud.now = DUE - timedelta(days=2)
    assert not await _wanted(endpoint, tokyo)
    kept = _certificate(await _renew(endpoint, tokyo, make_request("tokyo-1")))
    assert kept == x509.load_pem_x509_certificate((tokyo.directory / "site.crt").read_bytes())
    assert len(_counting(cloud)) == 1


async def test_in_its_last_third_it_is_renewed_and_both_count(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, tmp_path: Path
) -> None:
    cloud.now = DUE
    assert await _wanted(endpoint, tokyo)
    request = make_request("tokyo-1")
    answer = await _renew(endpoint, tokyo, request)
    made = _certificate(answer)
    assert set(answer.document["files"]) == {"site.crt", "tenant-authority.crt", "bundle.json"}
    assert made.not_valid_after_utc == DUE + timedelta(days=365)
    again = await _renew(endpoint, tokyo, request)  # the first answer was lost
    assert _certificate(again) == made
    with cloud.database.read() as session:
        kept = certificates.revocation_list(session, "tenant-acme")
    assert kept is not None and kept.number == 1  # nothing was revoked
    assert len(_counting(cloud)) == 2
    assert await _wanted(endpoint, tokyo)  # the old one still counts, and still is to be replaced
    # TLS looks at the real clock, to which the new one has not begun: here the handshake is not the point.
    assert not is_due(made, DUE)


async def test_a_router_that_loses_every_answer_keeps_the_one_in_use_and_is_stopped(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled
) -> None:
    cloud.now = DUE
    in_use = _counting(cloud)[0].serial
    statuses = [(await _renew(endpoint, tokyo, make_request("tokyo-1"))).status for _ in range(7)]
    assert statuses == [200] * 6 + [429]
    left = [record.serial for record in _counting(cloud)]
    assert len(left) == renewal.COUNTING_AT_MOST and in_use in left
    cloud.now = DUE + timedelta(days=1, hours=2)
    assert (await _renew(endpoint, tokyo, make_request("tokyo-1"))).status == 200


async def test_a_revoked_site_or_certificate_is_never_renewed(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, kobe: Enrolled
) -> None:
    with cloud.database.write() as session:
        revocation.revoke_site(session, cloud.config, OPERATOR, site_id="tokyo-1", now=NOW)
        revocation.release_router(session, cloud.config, OPERATOR, site_id="kobe-1", now=NOW)
    cloud.now = DUE
    for who in (tokyo, kobe):
        assert (await _renew(endpoint, who, make_request(who.site))).status == 403
    assert _counting(cloud) == []


async def test_a_router_that_was_replaced_while_its_request_came_in_gets_nothing(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, tmp_path: Path
) -> None:
    cloud.now = DUE
    (tmp_path / "second").mkdir()
    context = ssl.create_default_context(cafile=str(endpoint.root))
    context.load_cert_chain(tokyo.directory / "chain.crt", tokyo.directory / "site.key")
    body = json.dumps({"csr": make_request("tokyo-1").csr_pem.decode()}).encode()
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", endpoint.port, ssl=context, server_hostname="agent.kyoten"
    )
    head = f"POST {PATH} HTTP/1.1\r\nHost: agent.kyoten\r\nAuthorization: KyotenDevice {tokyo.device_id}\r\n"
    # "100 Continue" comes when the body is wanted: both factors have been looked at by then.
    writer.write(f"{head}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    async with asyncio.timeout(5):
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        await asyncio.to_thread(cloud.enrol, "tokyo-1", tmp_path / "second", now=DUE)
        writer.write(body)
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    assert answer.startswith(b"HTTP/1.1 403")
    assert len(_counting(cloud)) == 1


async def test_a_request_must_prove_its_key_and_needs_the_second_factor(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled
) -> None:
    cloud.now = DUE
    answer = await endpoint.post(PATH, json.dumps({"csr": "junk"}), router=tokyo)
    assert (answer.status, answer.document["key"]) == (422, "pki.request-damaged")
    body = json.dumps({"csr": make_request("tokyo-1").csr_pem.decode()})
    assert (await endpoint.post(PATH, body, router=tokyo, device_id="0" * 64)).status == 403
    assert len(_counting(cloud)) == 1


@pytest.mark.parametrize("year", [-1, 1])
async def test_a_router_whose_clock_is_a_year_off_changes_nothing(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, year: int
) -> None:
    sent = (NOW + year * timedelta(days=365)).isoformat()
    answer = await endpoint.post(BEAT, heartbeat_document(sent_at=sent), router=tokyo)
    assert (answer.status, answer.document["renew_certificate"]) == (200, False)


async def test_a_full_disk_costs_a_try(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.now = DUE
    request = make_request("tokyo-1")
    with cloud.database.read() as session:
        pages = session.connection().exec_driver_sql("PRAGMA page_count").scalar()
    # SQLite says "database or disk is full" at its page limit too; the limit is each connection's.
    from sqlalchemy import event

    def limit(connection, _record) -> None:  # type: ignore[no-untyped-def]
        connection.execute(f"PRAGMA max_page_count={pages}")

    event.listen(cloud.database.engine, "connect", limit)
    statuses = set()
    for _ in range(6):
        statuses.add((await _renew(endpoint, tokyo, make_request("tokyo-1"))).status)
    event.remove(cloud.database.engine, "connect", limit)
    assert 503 in statuses and statuses <= {200, 503}
    assert (
        _certificate(await _renew(endpoint, tokyo, request)).public_key()
        == x509.load_pem_x509_csr(request.csr_pem).public_key()
    )


def _move(cloud: Cloud, *, now: datetime = NOW, caller: Caller = OPERATOR, **where: object) -> sites.Move:
    with cloud.database.write() as session:
        return moving.move_site(session, cloud.config, caller, site_id="tokyo-1", now=now, **where)  # type: ignore[arg-type]


async def test_a_moved_site_fetches_its_certificate_and_the_old_one_ends_when_it_has_it(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled, tmp_path: Path
) -> None:
    moved = _move(cloud, overlay="10.0.7.0/24")
    assert (str(moved.overlay_before), str(moved.site.overlay)) == ("10.0.0.0/24", "10.0.7.0/24")
    reissued = [record for record in _counting(cloud) if record.overlay == moved.site.overlay]
    key = x509.load_pem_x509_certificate((tokyo.directory / "site.crt").read_bytes()).public_key()
    assert [x509.load_pem_x509_certificate(record.pem.encode()).public_key() for record in reissued] == [key]
    assert await _wanted(endpoint, tokyo)
    request = make_request("tokyo-1")
    answer = await _renew(endpoint, tokyo, request)
    assert address_blocks.read(_certificate(answer)) == (ip_network("10.0.7.0/24"),)
    assert json.loads(answer.document["files"]["bundle.json"])["overlay"] == "10.0.7.0/24"
    assert await _wanted(endpoint, tokyo)  # with the old one it may still ask
    fresh = _taken(tokyo, answer, request, tmp_path / "fresh")
    assert not await _wanted(endpoint, fresh)
    assert {str(record.overlay) for record in _counting(cloud)} == {"10.0.7.0/24"}
    assert (await endpoint.post(BEAT, heartbeat_document(), router=tokyo)).status == 403


async def test_the_key_it_has_gets_the_certificate_that_was_reissued(
    cloud: Cloud, endpoint: Endpoint, tokyo: Enrolled
) -> None:
    _move(cloud, overlay="10.0.7.0/24")
    from router_agent.enrolment.request import request_for

    key = (tokyo.directory / "site.key").read_bytes()
    got = _certificate(await _renew(endpoint, tokyo, Request(key, request_for("tokyo-1", key))))
    assert f"{got.serial_number:x}" in {record.serial for record in _counting(cloud)}
    assert len(_counting(cloud)) == 2


def test_a_prefix_that_a_certificate_still_speaks_for_is_nobody_elses(cloud: Cloud, tokyo: Enrolled) -> None:
    _move(cloud, overlay="10.0.7.0/24")
    with cloud.database.write() as session:
        assert str(sites.add(session, OPERATOR, site_id="osaka-1", tenant_id="acme", now=NOW).overlay) == "10.0.1.0/24"
    with pytest.raises(InputError, match="overlay-overlaps"), cloud.database.write() as session:
        sites.add(session, OPERATOR, site_id="nara-1", tenant_id="acme", overlay="10.0.0.0/25", now=NOW)
    later = NOW + renewal.GRACE + timedelta(seconds=1)
    with cloud.database.write() as session:
        assert renewal.retire_left_behind(session, cloud.config, now=later - timedelta(minutes=1)) == []
        assert renewal.retire_left_behind(session, cloud.config, now=later) == ["tokyo-1"]
        assert str(sites.add(session, OPERATOR, site_id="nara-1", tenant_id="acme", now=later).overlay) == "10.0.0.0/24"
    assert _move(cloud, overlay="10.0.8.0/24").site.overlay == ip_network("10.0.8.0/24")


def test_a_certificate_older_than_the_record_of_prefixes_ends_with_its_prefix_too(
    cloud: Cloud, tokyo: Enrolled
) -> None:
    with cloud.database.write() as session:
        for record in session.scalars(select(Certificate).where(Certificate.subject == "tokyo-1")):
            record.overlay = None
    _move(cloud, overlay="10.0.7.0/24")
    with pytest.raises(InputError, match="overlay-overlaps"), cloud.database.write() as session:
        sites.add(session, OPERATOR, site_id="nara-1", tenant_id="acme", overlay="10.0.0.0/24", now=NOW)
    with cloud.database.write() as session:
        later = NOW + renewal.GRACE + timedelta(seconds=1)
        assert renewal.retire_left_behind(session, cloud.config, now=later) == ["tokyo-1"]


@pytest.mark.parametrize(
    ("where", "key"),
    [
        ({}, "registry.move-where"),
        ({"overlay": "10.0.7.0/24", "length": 24}, "registry.move-where"),
        ({"overlay": "10.1.7.0/24"}, "registry.overlay-outside-block"),
        ({"overlay": "10.0.0.0/24"}, "registry.move-same"),
        ({"overlay": "10.0.5.0/24"}, "registry.overlay-overlaps"),
        ({"overlay": "10.0.5.0/25"}, "registry.overlay-overlaps"),
        ({"overlay": "10.0.7.1/24"}, "registry.prefix-host-bits"),
        ({"length": 27}, "registry.move-devices-outside"),
        ({"length": 31}, "registry.lan-unfit"),
        ({"length": 8}, "registry.block-full"),
        ({"length": 25, "lan": "192.168.1.0/24"}, "registry.lan-length"),
        (
            {"length": 24, "lan": "10.255.255.0/24", "reserved": (ip_network("10.255.255.1/32"),)},
            "registry.lan-reserved",
        ),
    ],
)
def test_a_move_that_cannot_be_changes_nothing(
    cloud: Cloud, tokyo: Enrolled, where: dict[str, object], key: str
) -> None:
    with cloud.database.write() as session:
        site = sites.get(session, OPERATOR, "tokyo-1")
        address = site.lan.network_address + 40
        devices.add(session, OPERATOR, site_id="tokyo-1", name="plc", lan_address=address)
        sites.add(session, OPERATOR, site_id="osaka-1", tenant_id="acme", overlay="10.0.5.0/24", now=NOW)
    before = (site.overlay, site.lan, [record.serial for record in _counting(cloud)])
    with pytest.raises(InputError) as refused:
        _move(cloud, **where)
    assert refused.value.key == key
    with cloud.database.read() as session:
        site = sites.get(session, OPERATOR, "tokyo-1")
    assert (site.overlay, site.lan, [record.serial for record in _counting(cloud)]) == before


def test_a_site_grows_where_it_is_when_its_lan_can(cloud: Cloud, tokyo: Enrolled) -> None:
    assert _move(cloud, overlay="10.0.0.0/23").site.lan == ip_network("10.0.0.0/23")
    _move(cloud, overlay="10.0.7.0/24", lan="192.168.7.0/24")
    with pytest.raises(InputError, match="move-lan-wanted"):
        _move(cloud, length=23)
    assert _move(cloud, length=23, lan="192.168.8.0/23").site.overlay == ip_network("10.0.0.0/23")


def test_another_tenant_cannot_move_a_site(cloud: Cloud, tokyo: Enrolled) -> None:
    with pytest.raises(InputError, match="unknown-site"):
        _move(cloud, caller=Caller("birch"), overlay="10.0.7.0/24")
    assert _move(cloud, caller=Caller("acme"), length=24).site.overlay == ip_network("10.0.1.0/24")
