"""The endpoint's own certificate: renewed on a clock, shown to new connections without a restart."""

import asyncio
import ssl
from datetime import timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from fleet_cloud import NOW, Cloud, until_listening

from cloudside import config as configuration
from cloudside.fleet import web
from cloudside.pki import initialise, published
from cloudside.registry import certificates


def _shown(cloud: Cloud) -> int:
    """The serial of the certificate that a new connection gets."""
    port = cloud.config.web.listen[0].port
    pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=5)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def _renew(cloud: Cloud, days: int) -> list[str]:
    with cloud.database.write() as session:
        return initialise.renew_own(session, cloud.config, now=NOW + timedelta(days=days))


def test_they_are_renewed_in_their_last_third_and_the_old_ones_go_on(cloud: Cloud) -> None:
    assert _renew(cloud, 240) == []
    assert _renew(cloud, 244) == ["gateway-gw1", "endpoint"]
    assert _renew(cloud, 245) == []
    with cloud.database.read() as session:
        later = NOW + timedelta(days=246)
        for kind, subject in (("gateway", "gw1"), ("server", initialise.ENDPOINT_NAME)):
            both = certificates.counting(session, authority="cloud", kind=kind, subject=subject, now=later)
            assert [record.revoked_at for record in both] == [None, None]
        published.load_gateway(session, cloud.config, now=NOW + timedelta(days=500))  # the new one is what is loaded


async def test_a_renewed_certificate_is_shown_without_a_restart(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "RELOAD_LOOK_S", 0.05)
    stop = asyncio.Event()
    serving = asyncio.create_task(web.run(cloud.config, stop))
    await until_listening(cloud.config.web.listen[0].port)
    before = await asyncio.to_thread(_shown, cloud)
    chain = published.endpoint_files(cloud.config).chain
    good = chain.read_bytes()
    chain.write_text("half a certificate")
    await asyncio.sleep(0.3)
    assert await asyncio.to_thread(_shown, cloud) == before
    chain.write_bytes(good)
    _renew(cloud, 244)
    async with asyncio.timeout(5):
        while await asyncio.to_thread(_shown, cloud) == before:
            await asyncio.sleep(0.05)
    stop.set()
    await asyncio.wait_for(serving, 10)


def test_those_made_while_the_clock_was_ahead_are_given_up_for_those_that_count(cloud: Cloud) -> None:
    with cloud.database.read() as session:
        before = published.load_gateway(session, cloud.config, now=NOW).certificate
    assert _renew(cloud, 400) == ["gateway-gw1", "endpoint"]
    assert _renew(cloud, 0) == ["gateway-gw1", "endpoint"]
    assert _renew(cloud, 0) == []
    with cloud.database.read() as session:
        assert published.load_gateway(session, cloud.config, now=NOW).certificate == before
    shown = x509.load_pem_x509_certificates(published.endpoint_files(cloud.config).chain.read_bytes())[0]
    assert shown.not_valid_before_utc <= NOW


def test_two_machines_keep_their_own_endpoint_certificates(cloud: Cloud) -> None:
    other = cloud.config.model_copy(
        update={
            "gateway": cloud.config.gateway.model_copy(update={"name": "gw2"}),
            "web": configuration.Web(listen=(configuration.Listen(address=ip_address("127.0.0.2"), port=8443),)),
        }
    )
    with cloud.database.write() as session:
        assert initialise.renew_own(session, other, now=NOW) == ["gateway-gw2", "endpoint"]
        for config in (cloud.config, other, cloud.config):
            assert initialise.renew_own(session, config, now=NOW + timedelta(hours=1)) == []
