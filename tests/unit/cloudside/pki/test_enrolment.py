import hashlib
import json
import stat
import tarfile
from pathlib import Path

import pytest
from cryptography import x509
from pki_installation import Installation, RouterKeys, router_keys, unpack

from cloudside.config import Gateway, Listen, Web
from cloudside.errors import ConfigurationError, InputError, RefusedError
from cloudside.pki import address_blocks, revocation
from cloudside.pki.enrolment import Enrolment, enrol
from cloudside.registry import certificates, routers, sites
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.tables import Certificate, Router

_MEMBERS = (
    "bundle.json",
    "site.crt",
    "tenant-authority.crt",
    "cloud-authority.crt",
    "root.crt",
    "authorized_keys",
    "console.pub",
)


def _enrol(
    installation: Installation,
    output: Path,
    *,
    site_id: str = "tokyo-1",
    caller: Caller = OPERATOR,
    force: bool = False,
    router: RouterKeys | None = None,
) -> Enrolment:
    with installation.database.write() as session:
        return enrol(
            session,
            installation.config,
            caller,
            site_id=site_id,
            applicant=(router or router_keys()).applicant,
            output=output,
            now=installation.now,
            force=force,
        )


def test_bundle_holds_what_a_router_needs(installation: Installation, tmp_path: Path) -> None:
    output = tmp_path / "tokyo-1.tar"
    keys = router_keys()
    done = _enrol(installation, output, router=keys)
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    with tarfile.open(output, "r:") as tar:
        assert {member.name: (member.mode, member.uid) for member in tar} == dict.fromkeys(_MEMBERS, (0o600, 0))
    router = tmp_path / "router"
    unpack(output, router)
    assert json.loads((router / "bundle.json").read_text()) == {
        "format": 1,
        "site": "tokyo-1",
        "tenant": "acme",
        "overlay": "10.10.0.0/24",
        "lan": "192.168.1.0/24",
        "gateways": ["203.0.113.2", "vpn.example.net"],
        "gateway_identity": "vpn.kyoten",
        "service_address": "10.255.255.1",
        "reachable": "10.0.0.0/8",
        "endpoints": [
            {"address": "10.255.255.1", "port": 8443, "in_tunnel": True},
            {"address": "203.0.113.2", "port": 8443, "in_tunnel": False},
        ],
        "endpoint_name": "agent.kyoten",
        "heartbeat_s": 30.0,
    }
    certificate = x509.load_pem_x509_certificate((router / "site.crt").read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=tokyo-1"
    assert [str(block) for block in address_blocks.read(certificate) or ()] == ["10.10.0.0/24"]
    assert (certificate.not_valid_after_utc - installation.now).days in (364, 365)
    assert (done.site, done.path, done.replaced) == ("tokyo-1", output, 0)
    assert certificate.public_key() == keys.applicant.key
    with installation.database.read() as session:
        pinned = routers.get(session, OPERATOR, "tokyo-1")
        record = certificates.by_serial(session, f"{certificate.serial_number:x}")
    assert pinned.device_id_sha256 == hashlib.sha256(keys.device_id.encode()).hexdigest()
    assert pinned.ssh_host_key == keys.host_key.replace(" any-name", " tokyo-1")
    assert record is not None
    assert (record.authority, record.kind, record.subject) == ("tenant-acme", "site", "tokyo-1")
    operator = installation.config.state_directory / "ssh" / "operator_ed25519.pub"
    assert (router / "authorized_keys").read_bytes() == operator.read_bytes()


def test_no_secret_of_the_router_stays_in_the_cloud(installation: Installation, tmp_path: Path) -> None:
    keys = router_keys()
    _enrol(installation, tmp_path / "b.tar", router=keys)
    installation.database.close()
    secrets = [keys.key.strip(), keys.device_id.encode()]
    for path in (tmp_path / "b.tar", *installation.config.state_directory.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret in content], path


def test_enrolling_again_shuts_the_old_router_out(installation: Installation, tmp_path: Path) -> None:
    _enrol(installation, tmp_path / "one.tar")
    with installation.database.read() as session:
        first = routers.get(session, OPERATOR, "tokyo-1").device_id_sha256
        number = certificates.revocation_list(session, "tenant-acme")
    done = _enrol(installation, tmp_path / "two.tar")
    assert done.replaced == 1
    with installation.database.read() as session:
        assert routers.get(session, OPERATOR, "tokyo-1").device_id_sha256 != first
        kept = certificates.revocation_list(session, "tenant-acme")
        assert kept is not None
        assert number is not None
        assert kept.number == number.number + 1
        assert len(x509.load_der_x509_crl(kept.der)) == 1
        assert certificates.current(session, authority="tenant-acme", kind="site", subject="tokyo-1") is not None


def test_existing_file_is_only_overwritten_with_force(installation: Installation, tmp_path: Path) -> None:
    output = tmp_path / "b.tar"
    output.write_text("the only copy of another router")
    with pytest.raises(InputError) as caught:
        _enrol(installation, output)
    assert (caught.value.key, caught.value.params) == ("pki.output-exists", {"path": str(output)})
    assert output.read_text() == "the only copy of another router"
    _enrol(installation, output, force=True)
    assert tarfile.is_tarfile(output)


def test_file_that_cannot_be_written_leaves_the_old_router_in(installation: Installation, tmp_path: Path) -> None:
    _enrol(installation, tmp_path / "one.tar")
    with installation.database.read() as session:
        before = vars(session.get(Router, "tokyo-1"))["device_id_sha256"]
    with pytest.raises(InputError, match="output-unwritable"):
        _enrol(installation, tmp_path / "missing" / "two.tar")
    with installation.database.read() as session:
        router = session.get(Router, "tokyo-1")
        assert router is not None
        assert router.device_id_sha256 == before
        assert session.query(Certificate).filter_by(kind="site").count() == 1
        assert certificates.current(session, authority="tenant-acme", kind="site", subject="tokyo-1") is not None


def test_bundle_of_an_enrolment_that_was_rolled_back_does_not_exist(installation: Installation, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    output.write_bytes(b"the one before")

    def enrol_and_fail() -> None:
        with installation.database.write() as session:
            enrol(
                session,
                installation.config,
                OPERATOR,
                site_id="tokyo-1",
                applicant=router_keys().applicant,
                output=output,
                now=installation.now,
                force=True,
            )
            raise RuntimeError("the commit fails, the process dies")

    with pytest.raises(RuntimeError):
        enrol_and_fail()
    assert output.read_bytes() == b"the one before"
    assert list(tmp_path.glob(".bundle*")) == []
    _enrol(installation, output, force=True)
    unpack(output, tmp_path / "router")
    assert {path.name for path in (tmp_path / "router").iterdir()} == set(_MEMBERS)
    assert stat.S_IMODE(output.stat().st_mode) == 0o600


def test_directory_in_the_files_place_is_refused_before_anything_is_done(
    installation: Installation, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="output-unwritable"):
        _enrol(installation, tmp_path, force=True)


def test_refusals(installation: Installation, tmp_path: Path) -> None:
    with installation.database.write() as session:
        revocation.revoke_site(session, installation.config, OPERATOR, site_id="tokyo-1", now=installation.now)
        sites.change(session, OPERATOR, site_id="osaka-1", phase="retired")
    for site, key in (("tokyo-1", "pki.site-revoked"), ("osaka-1", "pki.site-retired")):
        with pytest.raises(RefusedError) as caught:
            _enrol(installation, tmp_path / "b.tar", site_id=site)
        assert caught.value.key == key
    assert not (tmp_path / "b.tar").exists()


def test_another_tenants_site_is_unknown(installation: Installation, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown-site"):
        _enrol(installation, tmp_path / "b.tar", site_id="osaka-1", caller=Caller("acme"))
    _enrol(installation, tmp_path / "b.tar", caller=Caller("acme"))


def test_needs_public_address_and_initialised_pki(installation: Installation, tmp_path: Path) -> None:
    mute = Installation(
        installation.config.model_copy(update={"gateway": Gateway()}), installation.database, installation.now
    )
    with pytest.raises(ConfigurationError, match="no-public-address"):
        _enrol(mute, tmp_path / "b.tar")
    (installation.config.state_directory / "ssh" / "operator_ed25519.pub").unlink()
    with pytest.raises(ConfigurationError, match="key-missing"):
        _enrol(installation, tmp_path / "b.tar")
    with installation.database.write() as session:
        for record in session.query(Certificate):
            session.delete(record)
    with pytest.raises(ConfigurationError, match="not-initialised"):
        _enrol(installation, tmp_path / "b.tar")


def test_listening_everywhere_names_service_and_public_addresses(installation: Installation, tmp_path: Path) -> None:
    everywhere = Web.model_validate({"listen": [{"address": "0.0.0.0", "port": 443}]})
    assert everywhere.listen == (Listen.model_validate({"address": "0.0.0.0", "port": 443}),)
    open_to_all = Installation(
        installation.config.model_copy(update={"web": everywhere}), installation.database, installation.now
    )
    _enrol(open_to_all, tmp_path / "b.tar")
    unpack(tmp_path / "b.tar", tmp_path / "router")
    assert json.loads((tmp_path / "router" / "bundle.json").read_text())["endpoints"] == [
        {"address": "10.255.255.1", "port": 443, "in_tunnel": True},
        {"address": "203.0.113.2", "port": 443, "in_tunnel": False},
    ]
