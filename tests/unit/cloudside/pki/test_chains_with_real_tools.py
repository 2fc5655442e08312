"""Certificates and revocation lists, judged by OpenSSL's command line and by a TLS server."""

import socket
import ssl
import subprocess
import threading
from datetime import datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pki_installation import Installation, router_keys, unpack

from cloudside.pki import authority, issuing, revocation
from cloudside.pki.authority import CLIENT_AUTH, Leaf
from cloudside.pki.enrolment import enrol
from cloudside.pki.published import endpoint_files
from cloudside.pki.store import KeyStore, key_to_pem
from cloudside.registry import certificates
from cloudside.registry.callers import OPERATOR


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _openssl(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *map(str, argv)], capture_output=True, text=True, timeout=20, check=False)


def _write_lists(installation: Installation, path: Path) -> None:
    with installation.database.read() as session:
        lists = [x509.load_der_x509_crl(kept.der) for kept in certificates.revocation_lists(session)]
    path.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in lists))


@pytest.fixture
def router(installation: Installation, tmp_path: Path) -> Path:
    """The files of tokyo-1's router."""
    keys = router_keys()
    with installation.database.write() as session:
        enrol(
            session,
            installation.config,
            OPERATOR,
            site_id="tokyo-1",
            applicant=keys.applicant,
            output=tmp_path / "tokyo-1.tar",
            now=installation.now,
        )
    unpack(tmp_path / "tokyo-1.tar", tmp_path / "router")
    (tmp_path / "router" / "site.key").write_bytes(keys.key)
    return tmp_path / "router"


def _leaf_of_acme(
    installation: Installation,
    directory: Path,
    *,
    block: str,
    now: datetime,
    usage: x509.ObjectIdentifier = CLIENT_AUTH,
) -> Path:
    """A certificate that acme's authority signed, with any block and any begin."""
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = Leaf("tokyo-1", ("tokyo-1",), (usage,), blocks=(ip_network(block),))
    with installation.database.read() as session:
        acme = issuing.load_authority(session, KeyStore(installation.config.state_directory), "tenant-acme")
    made = authority.make_leaf(acme, leaf, key=key.public_key(), now=now, serial=77)
    directory.mkdir()
    (directory / "site.crt").write_bytes(_pem(made))
    (directory / "site.key").write_bytes(key_to_pem(key))
    (directory / "tenant-authority.crt").write_bytes(_pem(acme.certificate))
    return directory


def test_chain_stands_until_the_site_is_revoked(installation: Installation, router: Path, tmp_path: Path) -> None:
    def verify() -> subprocess.CompletedProcess[str]:
        _write_lists(installation, tmp_path / "lists.pem")
        return _openssl(
            *("verify", "-x509_strict", "-crl_check_all", "-CRLfile", tmp_path / "lists.pem"),
            *("-CAfile", router / "root.crt", "-untrusted", router / "tenant-authority.crt", router / "site.crt"),
        )

    assert verify().stdout.endswith("site.crt: OK\n")
    with installation.database.write() as session:
        revocation.revoke_site(session, installation.config, OPERATOR, site_id="tokyo-1", now=installation.now)
    refused = verify()
    assert refused.returncode != 0
    assert "certificate revoked" in refused.stderr


@pytest.mark.parametrize("name", ["gateway-gw1", "endpoint"])
def test_cloud_certificates_chain_to_the_root(installation: Installation, name: str) -> None:
    pki = installation.pki
    done = _openssl(
        *("verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", pki / "root.crt"),
        *("-untrusted", pki / "cloud.crt", pki / f"{name}.crt"),
    )
    assert done.stdout.endswith(f"{name}.crt: OK\n"), done.stderr


def test_openssl_reads_the_blocks_as_critical(installation: Installation, router: Path) -> None:
    for path, block in (
        (router / "site.crt", "10.10.0.0/24"),
        (router / "tenant-authority.crt", "10.10.0.0/16"),
        (installation.pki / "gateway-gw1.crt", "10.0.0.0/8"),
        (installation.pki / "root.crt", "0.0.0.0/0"),
    ):
        lines = [line.strip() for line in _openssl("x509", "-in", path, "-noout", "-text").stdout.splitlines()]
        place = lines.index("sbgp-ipAddrBlock: critical")
        assert lines[place + 1 : place + 3] == ["IPv4:", block]
    assert (
        "sbgp-ipAddrBlock" not in _openssl("x509", "-in", installation.pki / "endpoint.crt", "-noout", "-text").stdout
    )


def test_tenant_authority_cannot_give_out_a_foreign_block(installation: Installation, tmp_path: Path) -> None:
    thief = _leaf_of_acme(installation, tmp_path / "thief", block="10.20.0.0/24", now=installation.now)
    refused = _openssl(
        *("verify", "-CAfile", installation.pki / "root.crt"),
        *("-untrusted", thief / "tenant-authority.crt", thief / "site.crt"),
    )
    assert refused.returncode != 0
    assert "RFC 3779 resource not subset of parent's resources" in refused.stderr


def _handshake(installation: Installation, client: Path) -> str:
    """What a TLS server that wants a client certificate sees: the client's common name. Raises SSLError: refused."""
    files = endpoint_files(installation.config)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.root))
    server.load_cert_chain(files.chain, files.key)
    server.verify_mode = ssl.CERT_REQUIRED
    chain = client / "chain.crt"
    chain.write_bytes((client / "site.crt").read_bytes() + (client / "tenant-authority.crt").read_bytes())
    agent = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(files.root))
    agent.load_cert_chain(chain, client / "site.key")

    def connect(near: socket.socket) -> None:
        try:
            with near, agent.wrap_socket(near, server_hostname="agent.kyoten") as stream:
                stream.recv(1)
        except OSError:
            return  # the server's refusal, seen from here; the test looks at the server's side

    far, near = socket.socketpair()
    far.settimeout(10)
    near.settimeout(10)
    thread = threading.Thread(target=connect, args=(near,))
    thread.start()
    try:
        with far, server.wrap_socket(far, server_side=True) as stream:
            subject = stream.getpeercert() or {}
            stream.sendall(b"!")
    finally:
        thread.join()
    names = dict(pair[0] for pair in subject["subject"])  # type: ignore[union-attr,misc]
    return str(names["commonName"])


def test_tls_server_takes_a_sites_chain(installation: Installation, router: Path) -> None:
    assert _handshake(installation, router) == "tokyo-1"


def test_tls_server_refuses_an_expired_certificate(installation: Installation, tmp_path: Path) -> None:
    old = _leaf_of_acme(
        installation, tmp_path / "old", block="10.10.0.0/24", now=installation.now - timedelta(days=366)
    )
    with pytest.raises(ssl.SSLError, match="certificate has expired"):
        _handshake(installation, old)


def test_tls_server_refuses_a_foreign_block(installation: Installation, tmp_path: Path) -> None:
    thief = _leaf_of_acme(installation, tmp_path / "thief", block="10.20.0.0/24", now=installation.now)
    with pytest.raises(ssl.SSLError, match="resource not subset"):
        _handshake(installation, thief)


def test_tls_server_refuses_a_certificate_that_is_no_clients(installation: Installation, tmp_path: Path) -> None:
    server = _leaf_of_acme(
        installation,
        tmp_path / "server",
        block="10.10.0.0/24",
        now=installation.now,
        usage=authority.SERVER_AUTH,
    )
    with pytest.raises(ssl.SSLError, match=r"certificate purpose|unsuitable"):
        _handshake(installation, server)
