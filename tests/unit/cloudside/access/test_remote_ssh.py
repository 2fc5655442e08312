"""SSH held to a pinned host key: the right one, a wrong one, none of its kind; logins; commands and their status."""

import io
import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import paramiko
import pytest
from ssh_server import PASSWORD, SshServer

from cloudside.access import ssh, terminal
from cloudside.errors import ConfigurationError, InputError, RefusedError, UnavailableError
from cloudside.pki.ssh_keys import SshKeyPair, make_pair

LOOPBACK = ip_address("127.0.0.1")


def _key(pair: SshKeyPair) -> paramiko.PKey:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(pair.private.decode()))


def _pinned(pair: SshKeyPair) -> ssh.PinnedKey:
    return ssh.PinnedKey.read(pair.public, owner="tokyo-1/plc")


@pytest.fixture
def host_pair() -> SshKeyPair:
    return make_pair("host")


@pytest.fixture
def operator(tmp_path: Path) -> tuple[SshKeyPair, Path]:
    pair = make_pair("operator")
    path = tmp_path / "operator"
    path.write_bytes(pair.private)
    return pair, path


@pytest.fixture
def server(host_pair: SshKeyPair, operator: tuple[SshKeyPair, Path]) -> Iterator[SshServer]:
    with SshServer(_key(host_pair), _key(operator[0])) as running:
        yield running


def _run(
    server: SshServer, pinned: ssh.PinnedKey, login: ssh.Login, *command: str, stdin: int | None = None
) -> tuple[int, bytes, bytes]:
    out, err = io.BytesIO(), io.BytesIO()
    with ssh.connected("tokyo-1/plc", LOOPBACK, pinned, login, source=LOOPBACK, port=server.port) as transport:
        status = terminal.run_command(transport, "tokyo-1/plc", command, stdin=stdin, stdout=out, stderr=err)
    return status, out.getvalue(), err.getvalue()


def test_a_command_runs_with_the_operators_key(
    server: SshServer, host_pair: SshKeyPair, operator: tuple[SshKeyPair, Path]
) -> None:
    login = ssh.Login("root", identity=operator[1])
    assert _run(server, _pinned(host_pair), login, "echo", "two words") == (0, b"echo 'two words'", b"")
    assert _run(server, _pinned(host_pair), login, "echo $HOME") == (0, b"echo $HOME", b"")
    assert set(server.logins) == {"root"}


def test_a_command_runs_with_a_password(server: SshServer, host_pair: SshKeyPair) -> None:
    assert _run(server, _pinned(host_pair), ssh.Login("plc", password=PASSWORD), "stderr") == (0, b"", b"complaint")


def test_the_far_sides_exit_status_is_ours(server: SshServer, host_pair: SshKeyPair) -> None:
    assert _run(server, _pinned(host_pair), ssh.Login("plc", password=PASSWORD), "fail", "7")[0] == 7


def test_input_reaches_the_command_and_ends(server: SshServer, host_pair: SshKeyPair) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"line\n" * 1000)
    os.close(writing)
    try:
        status, out, _ = _run(server, _pinned(host_pair), ssh.Login("p", password=PASSWORD), "cat", stdin=reading)
    finally:
        os.close(reading)
    assert (status, out) == (0, b"line\n" * 1000)


def test_another_host_key_is_refused_before_anybody_logs_in(server: SshServer, host_pair: SshKeyPair) -> None:
    other = make_pair("someone else")
    with pytest.raises(RefusedError) as refused:
        _run(server, _pinned(other), ssh.Login("plc", password=PASSWORD), "echo")
    assert refused.value.key == "access.host-key-differs"
    assert refused.value.params["pinned"] == _pinned(other).fingerprint
    assert refused.value.params["shown"] == _pinned(host_pair).fingerprint
    assert server.logins == []


def test_a_host_without_a_key_of_the_pinned_kind_is_refused(server: SshServer) -> None:
    ecdsa = paramiko.ECDSAKey.generate()
    pinned = ssh.PinnedKey.read(f"{ecdsa.get_name()} {ecdsa.get_base64()}", owner="tokyo-1/plc")
    with pytest.raises(RefusedError) as refused:
        _run(server, pinned, ssh.Login("plc", password=PASSWORD), "echo")
    assert refused.value.key == "access.host-key-kind"
    assert server.logins == []


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 %%%"])
def test_a_damaged_pinned_key_is_our_configuration(line: str) -> None:
    with pytest.raises(ConfigurationError):
        ssh.PinnedKey.read(line, owner="tokyo-1/plc")


def test_a_wrong_password_is_refused(server: SshServer, host_pair: SshKeyPair) -> None:
    with pytest.raises(RefusedError) as refused:
        _run(server, _pinned(host_pair), ssh.Login("plc", password="wrong"), "echo")
    assert refused.value.key == "access.login-refused"
    assert "wrong" not in str(refused.value)


def test_another_private_key_is_refused(server: SshServer, host_pair: SshKeyPair, tmp_path: Path) -> None:
    path = tmp_path / "stranger"
    path.write_bytes(make_pair("stranger").private)
    with pytest.raises(RefusedError) as refused:
        _run(server, _pinned(host_pair), ssh.Login("root", identity=path), "echo")
    assert refused.value.key == "access.login-refused"


def test_a_file_that_is_no_key_is_named(server: SshServer, host_pair: SshKeyPair, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a key")
    for wrong in (path, tmp_path / "missing"):
        with pytest.raises(InputError) as refused:
            _run(server, _pinned(host_pair), ssh.Login("root", identity=wrong), "echo")
        assert refused.value.params["path"] == str(wrong)


def test_a_connection_that_breaks_off_has_no_status(server: SshServer, host_pair: SshKeyPair) -> None:
    with pytest.raises(UnavailableError) as broken:
        _run(server, _pinned(host_pair), ssh.Login("plc", password=PASSWORD), "hang-up")
    assert broken.value.key == "access.broke-off"


def test_nothing_listening_is_told(host_pair: SshKeyPair, server: SshServer) -> None:
    with (
        pytest.raises(UnavailableError) as refused,
        ssh.connected("x", LOOPBACK, _pinned(host_pair), ssh.Login("x", password="x"), source=None, port=1),
    ):
        pass
    assert refused.value.key == "access.no-answer"


def test_a_login_never_shows_its_password() -> None:
    assert PASSWORD not in repr(ssh.Login("plc", password=PASSWORD))
