"""A `kyoten` on a temporary installation; what it prints comes back as a Result."""

import json
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudside.cli import main
from router_agent.enrolment.request import make_host_key, make_request


@dataclass(frozen=True)
class Result:
    """What one command line did."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err)["error"]


Kyoten = Callable[..., Result]


def _configuration(directory: Path) -> Path:
    path = directory / "kyoten.toml"
    path.write_text(
        f'state_directory = "{directory / "state"}"\nruntime_directory = "{directory}"\n'
        '[gateway]\npublic_addresses = ["203.0.113.2"]\n'
    )
    return path


def _add_world(path: Path) -> None:
    lines = [["server", "add", "web", "10.255.0.10"]]
    for tenant, sites in (("acme", ("tokyo-1", "osaka-1")), ("birch", ("kobe-1", "nagoya-1"))):
        lines.append(["tenant", "add", tenant])
        lines += [["site", "add", site, "--tenant", tenant, "--lan", "192.168.1.0/24"] for site in sites]
    lines.append(["device", "add", "tokyo-1/plc", "192.168.1.20"])
    for line in lines:
        assert main.run(["--config", str(path), *line]) == 0


@pytest.fixture(scope="session")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory after `kyoten init`; made once and copied."""
    directory = tmp_path_factory.mktemp("installation")
    assert main.run(["--config", str(_configuration(directory)), "init"]) == 0
    return directory / "state"


@pytest.fixture(scope="session")
def populated(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two tenants of two sites each, a device and a server."""
    directory = tmp_path_factory.mktemp("populated")
    shutil.copytree(initialised, directory / "state")
    _add_world(_configuration(directory))
    return directory / "state"


@pytest.fixture
def kyoten(
    initialised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Kyoten:
    """Run one command line, the way the entry point does, on a new installation."""
    return _runner(initialised, tmp_path, capsys, monkeypatch)


@pytest.fixture
def world(
    populated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Kyoten:
    """The same where tenants acme and birch have two sites each, tokyo-1/plc and the server web."""
    return _runner(populated, tmp_path, capsys, monkeypatch)


def _write_request(path: Path) -> None:
    """What `kyoten-agent request --output` leaves for `kyoten site enroll --csr`."""
    path.write_bytes(make_request("any").csr_pem)
    path.with_name(f"{path.name}.device-id").write_text(f"{secrets.token_hex(32)}\n")
    path.with_name(f"{path.name}.ssh-host-key").write_text(f"{make_host_key('any').public}\n")


def _runner(
    state: Path, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Kyoten:
    shutil.copytree(state, directory / "state")
    path = _configuration(directory)
    for variable in ("LC_ALL", "LC_MESSAGES", "KYOTEN_CONFIG", "KYOTEN_DEBUG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LANG", "en_GB.UTF-8")
    monkeypatch.setenv("SUDO_USER", "alice")
    monkeypatch.chdir(directory)
    _write_request(directory / "router.csr")

    def run(*arguments: str, status: int | None = 0) -> Result:
        capsys.readouterr()
        ended = main.run(["--config", str(path), *arguments])
        shown = capsys.readouterr()
        result = Result(ended, shown.out, shown.err)
        assert status is None or ended == status, result
        return result

    return run
