"""The root's key in a PKCS#11 token (SoftHSM), or on another machine: what works without it, and what says so."""

import json
import subprocess
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from pki_installation import Installation, configure, router_keys

from cloudside.config import Config, Pki
from cloudside.errors import ConfigurationError, InputError
from cloudside.pki import address_blocks, issuing, offline, token_key
from cloudside.pki.authority import Authority
from cloudside.pki.enrolment import admit, prepare_tenant
from cloudside.pki.initialise import initialise
from cloudside.pki.store import KeyStore, read_root_key
from cloudside.registry import certificates, sites, tenants
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database

MODULE = "/usr/lib/softhsm/libsofthsm2.so"


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token "kyoten" with the PIN 1234; SoftHSM reads its configuration once a process."""
    directory = tmp_path_factory.mktemp("token")
    (directory / "tokens").mkdir()
    (directory / "softhsm.conf").write_text(f"directories.tokendir = {directory / 'tokens'}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(directory / "softhsm.conf"))
        argv = ["softhsm2-util", "--init-token", "--free", "--label", "kyoten", "--pin", "1234", "--so-pin", "4321"]
        subprocess.run(argv, check=True, capture_output=True)
    return directory


@pytest.fixture
def plugged(token: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The token's URI."""
    monkeypatch.setenv("SOFTHSM2_CONF", str(token / "softhsm.conf"))
    pin = tmp_path / "pin"
    pin.touch(mode=0o600)
    pin.write_text("1234\n")
    return f"pkcs11:token=kyoten;object=root-{tmp_path.name}?module-path={MODULE}&pin-source=file:{pin}"


def _install(directory: Path, uri: str) -> Config:
    return configure(directory).model_copy(update={"pki": Pki(root_key=uri)})


def test_an_installation_whose_root_never_left_its_token(plugged: str, tmp_path: Path, now) -> None:  # type: ignore[no-untyped-def]
    config = _install(tmp_path / "state", plugged)
    database = Database(config.registry_url)
    database.migrate()
    with database.write() as session:
        assert "root" in initialise(session, config, now=now).made
        tenants.add(session, OPERATOR, tenant_id="acme", overlay=config.gateway.overlay, block="10.10.0.0/16", now=now)
        prepare_tenant(session, config, OPERATOR, tenant_id="acme", now=now)
        root = issuing.load_authority_certificate(session, issuing.ROOT)
        acme = issuing.load_authority_certificate(session, "tenant-acme")
    acme.verify_directly_issued_by(root)
    assert not (tmp_path / "state" / "pki" / "root.key").exists()
    # The token is taken away: everything but a new authority goes on.
    away = config.model_copy(update={"pki": Pki(root_key=plugged.replace("token=kyoten", "token=elsewhere"))})
    with database.write() as session:
        assert "root" in initialise(session, away, now=now).kept
        sites.add(session, OPERATOR, site_id="tokyo-1", tenant_id="acme", now=now)
        admit(session, away, OPERATOR, site_id="tokyo-1", applicant=router_keys().applicant, now=now)
        tenants.add(session, OPERATOR, tenant_id="birch", overlay=config.gateway.overlay, now=now)
    with pytest.raises(ConfigurationError) as refused, database.write() as session:
        prepare_tenant(session, away, OPERATOR, tenant_id="birch", now=now)
    assert refused.value.key == "pki.root-absent" and "elsewhere" in str(refused.value.params["where"])
    database.close()


def test_a_wrong_pin_an_open_pin_file_and_another_key_are_told(plugged: str, tmp_path: Path) -> None:
    read_root_key(plugged, make=True)
    pin = tmp_path / "pin"
    pin.chmod(0o644)
    with pytest.raises(ConfigurationError, match="key-permissions"):
        read_root_key(plugged)
    pin.chmod(0o600)
    pin.write_text("999999")
    with pytest.raises(ConfigurationError, match="root-absent") as refused:
        read_root_key(plugged)
    assert "999999" not in str(refused.value)
    pin.write_text("1234")
    with pytest.raises(ConfigurationError, match="root-absent"):
        read_root_key(plugged.replace("object=root", "object=other"))


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("pkcs11:token=kyoten;object=root", "module-path"),
        (f"pkcs11:token=kyoten?module-path={MODULE}", "object"),
        (f"pkcs11:object=root;slot-id=1?module-path={MODULE}", "slot-id"),
        (f"pkcs11:object=root?module-path={MODULE}&pin-value=1234", "pin-value"),
        (f"pkcs11:object=root;pin-value=1234?module-path={MODULE}", "pin-value"),
        (f"pkcs11:object=root;object=root?module-path={MODULE}", "object"),
        (f"pkcs11:object=root;type=cert?module-path={MODULE}", "type"),
        ("file:root.key", "pkcs11:"),
    ],
)
def test_a_uri_is_read_strictly_and_holds_no_pin(uri: str, name: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        token_key.parse(uri)
    assert (refused.value.key, refused.value.params["name"]) == ("pki.token-uri", name)
    assert "1234" not in str(refused.value)


def test_a_uri_is_decoded() -> None:
    read = token_key.parse("pkcs11:token=My%20token;id=%01%ff?module-path=/lib/a%3Bb.so&pin-source=/run/pin")
    assert (read.token, read.key_id, str(read.module), str(read.pin_source)) == (
        "My token",
        b"\x01\xff",
        "/lib/a;b.so",
        "/run/pin",
    )


@pytest.fixture
def rootless(installation: Installation, tmp_path: Path) -> tuple[Installation, Authority]:
    """An installation whose root is on another machine, and that root."""
    with installation.database.write() as session:
        block = "10.30.0.0/16"
        overlay = installation.config.gateway.overlay
        tenants.add(session, OPERATOR, tenant_id="cedar", overlay=overlay, block=block, now=installation.now)
        certificate = issuing.load_authority_certificate(session, issuing.ROOT)
    key = (installation.pki / "root.key").rename(tmp_path / "root.key")
    return installation, Authority(issuing.ROOT, certificate, read_root_key(str(key)))


def _request(installation: Installation, name: str | None = "tenant-cedar") -> dict[str, object]:
    store = KeyStore.of(installation.config)
    block = None if name is None else ip_network("10.30.0.0/16")
    with installation.database.read() as session:
        return offline.read(offline.request(session, store, name=name, block=block, now=installation.now).encode())


def _install_answer(installation: Installation, answer: str, block: str | None = "10.30.0.0/16") -> str:
    held = None if block is None else ip_network(block)
    with installation.database.write() as session:
        store = KeyStore.of(installation.config)
        return offline.install(session, store, offline.read(answer.encode()), block=held, now=installation.now)


def test_a_tenants_authority_from_a_root_on_another_machine(rootless: tuple[Installation, Authority]) -> None:
    installation, root = rootless
    with pytest.raises(ConfigurationError, match="root-absent"), installation.database.write() as session:
        prepare_tenant(session, installation.config, OPERATOR, tenant_id="cedar", now=installation.now)
    asked = _request(installation)
    assert "PRIVATE" not in json.dumps(asked)
    answer = offline.sign(asked, root, now=installation.now)
    assert _install_answer(installation, answer) == "tenant-cedar"
    with installation.database.read() as session:
        made = issuing.load_authority(session, KeyStore.of(installation.config), "tenant-cedar")
        lists = {kept.authority: kept.number for kept in certificates.revocation_lists(session)}
    assert address_blocks.read(made.certificate) == (ip_network("10.30.0.0/16"),)
    assert (lists["root"], lists["tenant-cedar"]) == (2, 1)
    with pytest.raises(InputError, match="authority-exists"):
        _install_answer(installation, answer)
    with pytest.raises(InputError, match="authority-exists"):
        _request(installation)


def test_only_the_roots_list(rootless: tuple[Installation, Authority]) -> None:
    installation, root = rootless
    assert _install_answer(installation, offline.sign(_request(installation, None), root, now=installation.now)) == ""
    with installation.database.read() as session:
        kept = certificates.revocation_list(session, "root")
    assert kept is not None and kept.number == 2
    assert x509.load_der_x509_crl(kept.der).next_update_utc == kept.next_update


def test_what_does_not_belong_together_is_neither_signed_nor_taken(
    rootless: tuple[Installation, Authority], now
) -> None:  # type: ignore[no-untyped-def]
    from cryptography.hazmat.primitives.asymmetric import ec

    from cloudside.pki import authority

    installation, root = rootless
    asked = _request(installation)
    stranger_key = ec.generate_private_key(ec.SECP256R1())
    made = authority.make_root(stranger_key, now=now, serial=7)
    stranger = Authority(issuing.ROOT, made, stranger_key)
    with pytest.raises(InputError, match="other-root"):
        offline.sign(asked, stranger, now=now)
    forged = offline.sign({**asked, "root_sha256": _fingerprint(made)}, stranger, now=now)
    with pytest.raises(InputError, match="offline-damaged"):
        _install_answer(installation, forged)
    wider = offline.sign({**asked, "block": "10.0.0.0/8"}, root, now=now)
    with pytest.raises(InputError, match="offline-unfit"):
        _install_answer(installation, wider)
    for harm in ({"csr": "junk"}, {"block": "10.30.0.1/16"}, {"revoked": 1}, {"list_number": "x"}):
        with pytest.raises(InputError):
            offline.sign({**asked, **harm}, root, now=now)
    for junk in (b"", b"[]", b"{}", b"{" * 100_000):
        with pytest.raises(InputError, match="offline-damaged"):
            offline.read(junk)
    with installation.database.read() as session:
        assert issuing.find_authority_certificate(session, "tenant-cedar") is None


def _fingerprint(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives import hashes

    return certificate.fingerprint(hashes.SHA256()).hex()
