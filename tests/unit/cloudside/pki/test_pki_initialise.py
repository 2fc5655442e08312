from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pki_installation import Installation, configure

from cloudside.config import Gateway
from cloudside.errors import ConfigurationError
from cloudside.pki import address_blocks, published
from cloudside.pki.initialise import initialise
from cloudside.pki.issuing import load_authority
from cloudside.pki.store import KeyStore
from cloudside.registry import certificates

ALL = ("root", "cloud", "gateway-gw1", "endpoint", "ssh", "console")


def _certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _content(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def test_files_and_their_modes(installation: Installation) -> None:
    state = installation.config.state_directory
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in [*installation.pki.iterdir(), *(state / "ssh").iterdir()]
    }
    secret = {name for name, mode in modes.items() if mode == 0o600}
    assert secret == {
        "root.key",
        "cloud.key",
        "gateway-gw1.key",
        "endpoint.key",
        "tenant-acme.key",
        "tenant-zenith.key",
        "operator_ed25519",
        "console.key",
    }
    assert installation.pki.stat().st_mode & 0o777 == 0o700
    serialization.load_ssh_private_key((state / "ssh" / "operator_ed25519").read_bytes(), password=None)
    assert (state / "ssh" / "operator_ed25519.pub").read_text().startswith("ssh-ed25519 AAAA")


def test_second_run_keeps_everything(installation: Installation) -> None:
    before = _content(installation.pki), _content(installation.config.state_directory / "ssh")
    with installation.database.write() as session:
        done = initialise(session, installation.config, now=installation.now)
    assert (done.made, done.kept) == ((), ALL)
    assert (_content(installation.pki), _content(installation.config.state_directory / "ssh")) == before


def test_names_and_usages(installation: Installation) -> None:
    gateway = _certificate(installation.pki / "gateway-gw1.crt")
    names = gateway.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gw1", "vpn.kyoten"]
    usages = {usage.dotted_string for usage in gateway.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value}
    assert usages == {"1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.17"}
    endpoint = _certificate(installation.pki / "endpoint.crt")
    names = endpoint.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["agent.kyoten"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.255.255.1", "203.0.113.2"]
    assert address_blocks.read(endpoint) is None


def test_leaf_near_its_end_or_with_other_names_is_replaced_with_the_same_key(installation: Installation) -> None:
    before = _certificate(installation.pki / "gateway-gw1.crt")
    later = installation.now + timedelta(days=340)
    with installation.database.write() as session:
        done = initialise(session, installation.config, now=later)
    assert done.made == ("gateway-gw1", "endpoint")
    after = _certificate(installation.pki / "gateway-gw1.crt")
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert after.public_key() == before.public_key()
    narrower = configure(installation.config.state_directory).model_copy(
        update={"gateway": Gateway(name="gw2", public_addresses=("203.0.113.3",))}
    )
    with installation.database.write() as session:
        assert initialise(session, narrower, now=later).made == ("gateway-gw2",)
        assert certificates.current(session, authority="cloud", kind="gateway", subject="gw1") is not None


def test_interrupted_run_is_finished_by_the_next(tmp_path: Path, installation: Installation) -> None:
    class PowerCut(Exception): ...

    config = configure(tmp_path / "new")
    database = type(installation.database)(config.registry_url)
    database.migrate()
    with pytest.raises(PowerCut), database.write() as session:
        initialise(session, config, now=installation.now)
        raise PowerCut
    with database.write() as session:
        done = initialise(session, config, now=installation.now)
    assert done.kept == ("ssh", "console")
    with database.read() as session:
        for name in ("root", "cloud"):
            load_authority(session, KeyStore(config.state_directory), name)
        published.load_gateway(session, config, now=installation.now)
    database.close()


@pytest.mark.parametrize(
    ("harm", "key"),
    [
        (lambda path: path.chmod(0o640), "pki.key-permissions"),
        (lambda path: path.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n"), "pki.key-damaged"),
        (lambda path: path.write_bytes(b""), "pki.key-damaged"),
        (lambda path: path.write_bytes((path.parent / "cloud.key").read_bytes()), "pki.key-mismatch"),
    ],
)
def test_harmed_root_key_is_named_and_never_replaced(installation: Installation, harm: object, key: str) -> None:
    path = installation.pki / "root.key"
    harm(path)  # type: ignore[operator]
    before = _content(installation.pki)
    with pytest.raises(ConfigurationError) as caught, installation.database.write() as session:
        initialise(session, installation.config, now=installation.now)
    assert caught.value.key == key
    assert caught.value.params["path"] == str(path)
    assert _content(installation.pki) == before


def test_gateway_loads_everything_it_needs(installation: Installation) -> None:
    with installation.database.read() as session:
        loaded = published.load_gateway(session, installation.config, now=installation.now)
    assert "PRIVATE KEY" in loaded.private_key
    assert "PRIVATE KEY" not in repr(loaded)
    authorities = [x509.load_pem_x509_certificate(pem.encode()) for pem in loaded.authorities]
    assert [address_blocks.read(one) for one in authorities] == [
        tuple(map(ip_network, blocks)) for blocks in (["10.0.0.0/8"], ["10.10.0.0/16"], ["10.20.0.0/16"])
    ]
    assert len(loaded.revocation_lists) == 4


def test_gateway_without_or_with_expired_certificate(installation: Installation, tmp_path: Path) -> None:
    other = installation.config.model_copy(update={"gateway": Gateway(name="gw9")})
    with installation.database.read() as session:
        with pytest.raises(ConfigurationError, match="not-initialised"):
            published.load_gateway(session, other, now=installation.now)
        with pytest.raises(ConfigurationError, match="expired"):
            published.load_gateway(session, installation.config, now=installation.now + timedelta(days=366))


def test_endpoint_files(installation: Installation) -> None:
    files = published.endpoint_files(installation.config)
    assert len(x509.load_pem_x509_certificates(files.chain.read_bytes())) == 2
    files.chain.write_text("junk")
    with pytest.raises(ConfigurationError, match="certificate-damaged"):
        published.endpoint_files(installation.config)
    files.chain.unlink()
    with pytest.raises(ConfigurationError, match="not-initialised"):
        published.endpoint_files(installation.config)
    with installation.database.write() as session:  # the remedy in the message works
        initialise(session, installation.config, now=installation.now)
    published.endpoint_files(installation.config)


def test_operators_key_is_mended_but_never_replaced(installation: Installation) -> None:
    private = installation.config.state_directory / "ssh" / "operator_ed25519"
    public = private.with_name("operator_ed25519.pub")
    pair = private.read_bytes(), public.read_bytes()

    def run() -> tuple[str, ...]:
        with installation.database.write() as session:
            return initialise(session, installation.config, now=installation.now).kept

    public.unlink()
    assert "ssh" in run()
    assert (private.read_bytes(), public.read_bytes()) == pair
    private.unlink()
    with pytest.raises(ConfigurationError, match="key-missing"):
        run()
    private.write_text("junk")
    private.chmod(0o600)
    with pytest.raises(ConfigurationError, match="key-damaged"):
        run()
    assert public.read_bytes() == pair[1]
