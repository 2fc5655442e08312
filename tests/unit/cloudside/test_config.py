from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from cloudside.config import Config, load
from cloudside.errors import ConfigurationError


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "kyoten.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_empty_file_means_the_defaults(tmp_path: Path) -> None:
    config = load(_write(tmp_path, ""))
    assert config == Config()
    assert config.registry_url == "sqlite:////var/lib/kyoten/registry.sqlite"
    assert config.queue_directory == Path("/var/lib/kyoten/mail")


def test_values_become_typed_objects(tmp_path: Path) -> None:
    config = load(
        _write(
            tmp_path,
            """
            state_directory = "/srv/kyoten"
            [registry]
            url = "postgresql://db/kyoten"
            [gateway]
            overlay = "2001:db8::/32"
            public_addresses = ["203.0.113.2", "vpn.example.net"]
            [[web.listen]]
            address = "203.0.113.2"
            port = 8443
            [relay]
            queue_directory = "/srv/mail"
            """,
        )
    )
    assert config.gateway.overlay == ip_network("2001:db8::/32")
    assert config.web.listen[0].address == ip_address("203.0.113.2")
    assert config.registry_url == "postgresql://db/kyoten"
    assert config.queue_directory == Path("/srv/mail")


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        """
        stat_directory = "/srv"
        [gateway]
        overlay = "10.0.0.1/8"
        resync_s = 0
        [relay]
        smarthost_port = 70000
        """,
    )
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert caught.value.key == "config.invalid"
    assert caught.value.params["path"] == str(path)
    for place in ("stat_directory", "gateway.overlay", "gateway.resync_s", "relay.smarthost_port"):
        assert f"{place}: " in str(caught.value.params["problems"])


@pytest.mark.parametrize(
    ("content", "key"), [(b"[gateway", "config.not-toml"), (b"name = '\xff'", "config.unreadable")]
)
def test_files_that_cannot_be_understood(tmp_path: Path, content: bytes, key: str) -> None:
    path = tmp_path / "kyoten.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert caught.value.key == key
    assert caught.value.params["path"] == str(path)


def test_missing_file_and_directory_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path / "none.toml")
    assert caught.value.key == "config.missing"
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path)
    assert caught.value.key == "config.unreadable"


def test_wrong_address_is_named_once_by_the_key_in_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, "[[web.listen]]\naddress = 'here'\nport = 1\n[gateway]\nservice_address = 'x'\n")
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    places = [problem.split(": ")[0] for problem in str(caught.value.params["problems"]).split("; ")]
    assert places == ["gateway.service_address", "web.listen.0.address"]
