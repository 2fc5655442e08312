"""Revocation lists and OCSP over plain HTTP, judged by OpenSSL."""

import asyncio
import base64
import shutil
import subprocess
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID
from fleet_cloud import NOW, Cloud, Enrolled, free_port, until_listening
from pyasn1.codec.der import decoder, encoder
from pyasn1_modules import rfc6960

from cloudside import config as configuration
from cloudside.fleet import public, web
from cloudside.pki import revocation
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from lab import enrolled


@pytest.fixture
async def place(prepared: Path, tmp_path: Path) -> AsyncIterator[tuple[Cloud, Enrolled, str]]:
    """A cloud side that says where its lists are, one router's files, and the address."""
    state = Path(shutil.copytree(prepared, tmp_path / "state"))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    listen = configuration.Listen(address=ip_address("127.0.0.1"), port=port)
    config = configuration.Config(
        state_directory=state,
        runtime_directory=state,
        gateway=configuration.Gateway(public_addresses=("203.0.113.2",)),
        pki=configuration.Pki(public_url=url, public_listen=(listen,)),
    )
    database = Database(config.registry_url)
    cloud = Cloud(config, database)
    with database.write() as session:
        made = enrolled.enrol(session, config, site_id="tokyo-1", output=tmp_path / "b.tar", now=NOW)
    files = tmp_path / "files"
    files.mkdir()
    for name, content in made.files.items():
        (files / name).write_bytes(content)
    stop = asyncio.Event()
    app = public.application(database, config, clock=lambda: NOW)
    serving = asyncio.create_task(web.serve(app, None, config.pki.public_listen, stop))
    await until_listening(port)
    yield cloud, Enrolled("tokyo-1", files, ""), url
    stop.set()
    await serving
    database.close()


async def _run(*argv: str | Path) -> tuple[int, str]:
    done = await asyncio.to_thread(
        subprocess.run, [*map(str, argv)], capture_output=True, text=True, timeout=20, check=False
    )
    return done.returncode, done.stdout + done.stderr


async def _openssl_ocsp(who: Enrolled, url: str, certificate: str = "site.crt") -> str:
    files = who.directory
    status, shown = await _run(
        "openssl", "ocsp", "-issuer", files / "tenant-authority.crt", "-cert", files / certificate,
        "-CAfile", files / "root.crt", "-url", f"{url}/ocsp", "-header", "Host=pki",
    )  # fmt: skip
    assert status == 0, shown
    return shown


async def _get(url: str) -> tuple[int, bytes, str]:
    """Status, body, media type; with a client that is none of ours."""
    host, _, path = url.removeprefix("http://").partition("/")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    kind = next((line.partition(": ")[2] for line in lines if line.startswith("content-type")), "")
    return int(lines[0].split()[1]), body, kind


async def test_openssl_takes_the_word_of_the_responder(place: tuple[Cloud, Enrolled, str]) -> None:
    cloud, tokyo, url = place
    shown = await _openssl_ocsp(tokyo, url)
    assert "Response verify OK" in shown and "site.crt: good" in shown
    assert "no nonce in response" not in shown
    with cloud.database.write() as session:
        revocation.revoke_site(session, cloud.config, OPERATOR, site_id="tokyo-1", now=NOW)
    shown = await _openssl_ocsp(tokyo, url)
    assert "Response verify OK" in shown and "site.crt: revoked" in shown


def _request(tokyo: Enrolled, *, serial: int | None = None, issuer: str = "tenant-authority.crt") -> bytes:
    site, authority = (
        x509.load_pem_x509_certificate((tokyo.directory / name).read_bytes()) for name in ("site.crt", issuer)
    )
    builder = ocsp.OCSPRequestBuilder()
    if serial is None:
        builder = builder.add_certificate(site, authority, hashes.SHA256())
    else:
        key_bits = authority.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        digests = []
        for content in (authority.subject.public_bytes(), key_bits):
            digest = hashes.Hash(hashes.SHA256())
            digest.update(content)
            digests.append(digest.finalize())
        builder = builder.add_certificate_by_hash(digests[0], digests[1], serial, hashes.SHA256())
    return builder.build().public_bytes(serialization.Encoding.DER)


async def _by_get(url: str, request: bytes) -> ocsp.OCSPResponse:
    encoded = quote(base64.b64encode(request).decode(), safe="")
    status, body, kind = await _get(f"{url}/ocsp/{encoded}")
    assert (status, kind) == (200, "application/ocsp-response")
    return ocsp.load_der_ocsp_response(body)


async def test_by_get_with_another_hash_and_of_serials_that_are_nobodys(place: tuple[Cloud, Enrolled, str]) -> None:
    _, tokyo, url = place
    answer = await _by_get(url, _request(tokyo))
    assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
    assert answer.next_update_utc is not None and answer.next_update_utc > NOW
    assert (await _by_get(url, _request(tokyo, serial=4711))).certificate_status is ocsp.OCSPCertStatus.UNKNOWN
    # An authority's certificate is the root's business, and a site's is not the cloud authority's.
    root = x509.load_pem_x509_certificate((tokyo.directory / "tenant-authority.crt").read_bytes()).serial_number
    answer = await _by_get(url, _request(tokyo, serial=root, issuer="root.crt"))
    assert answer.response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED
    site = x509.load_pem_x509_certificate((tokyo.directory / "site.crt").read_bytes()).serial_number
    answer = await _by_get(url, _request(tokyo, serial=site, issuer="cloud-authority.crt"))
    assert answer.certificate_status is ocsp.OCSPCertStatus.UNKNOWN


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x30\x00", bytes(3000)])
async def test_junk_is_called_malformed(place: tuple[Cloud, Enrolled, str], junk: bytes) -> None:
    _, _, url = place
    encoded = quote(base64.b64encode(junk).decode(), safe="")
    _, body, _ = await _get(f"{url}/ocsp/{encoded or '-'}")
    assert ocsp.load_der_ocsp_response(body).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def _distorted(request: bytes, how: str) -> bytes:
    """The same request with two nonces, or about a negative serial."""
    decoded, _ = decoder.decode(request, asn1Spec=rfc6960.OCSPRequest())
    if how == "negative":
        decoded["tbsRequest"]["requestList"][0]["reqCert"]["serialNumber"] = -5
    else:
        for place in range(2):
            extension = decoded["tbsRequest"]["requestExtensions"][place]
            extension["extnID"] = rfc6960.id_pkix_ocsp_nonce
            extension["extnValue"] = b"\x04\x02ab"
    return bytes(encoder.encode(decoded))


@pytest.mark.parametrize("how", ["negative", "two nonces"])
async def test_what_could_not_be_answered_is_called_malformed(place: tuple[Cloud, Enrolled, str], how: str) -> None:
    _, tokyo, url = place
    answer = await _by_get(url, _distorted(_request(tokyo), how))
    assert answer.response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


async def test_lists_are_where_certificates_say_and_openssl_takes_them(
    place: tuple[Cloud, Enrolled, str], tmp_path: Path
) -> None:
    cloud, tokyo, url = place
    site = x509.load_pem_x509_certificate((tokyo.directory / "site.crt").read_bytes())
    points = site.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    (where,) = (name.value for point in points for name in point.full_name or ())
    assert where == f"{url}/crl/tenant-acme.crl"
    (responder,) = site.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert responder.access_method == AuthorityInformationAccessOID.OCSP
    assert responder.access_location.value == f"{url}/ocsp"
    with cloud.database.write() as session:
        revocation.revoke_site(session, cloud.config, OPERATOR, site_id="tokyo-1", now=NOW)
    status, body, kind = await _get(where)
    assert (status, kind) == (200, "application/pkix-crl")
    (tmp_path / "list.der").write_bytes(body)
    authority = tokyo.directory / "tenant-authority.crt"
    status, shown = await _run(
        "openssl", "crl", "-inform", "DER", "-in", tmp_path / "list.der", "-CAfile", authority, "-noout", "-text"
    )
    assert "verify OK" in shown and f"{site.serial_number:X}" in shown.upper().replace(":", "")
    assert (await _get(f"{url}/crl/tenant-nobody.crl"))[0] == 404
    assert (await _get(f"{url}/agent/v1/heartbeat"))[0] == 404


async def test_without_a_public_address_certificates_say_nothing(cloud: Cloud, tokyo: Enrolled) -> None:
    site = x509.load_pem_x509_certificate((tokyo.directory / "site.crt").read_bytes())
    for kind in (x509.CRLDistributionPoints, x509.AuthorityInformationAccess):
        with pytest.raises(x509.ExtensionNotFound):
            site.extensions.get_extension_for_class(kind)
