"""sshd's configuration and charon's connection as data; paths that others could exchange."""

import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from router_agent.bundle import Enrolment
from router_agent.remote.configuration import sshd_config
from router_agent.remote.keeper import unsafe
from router_agent.tunnel.connection import CHILD, charon_options, connection


def test_sshd_listens_on_one_address_and_takes_keys_only() -> None:
    text = sshd_config(
        ip_address("10.10.1.1"), host_key=Path("/s/host"), authorized_keys=Path("/s/keys"), pid_file=Path("/r/pid")
    )
    options = dict(line.split(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert text.count("ListenAddress") == 1
    assert options["ListenAddress"] == "10.10.1.1"
    assert options["AuthenticationMethods"] == "publickey"
    for name in ("PasswordAuthentication", "KbdInteractiveAuthentication", "PermitTunnel", "GatewayPorts", "UsePAM"):
        assert options[name] == "no", name


def test_the_connection_names_one_gateway_and_leaves_every_decision_to_the_agent(enrolment: Enrolment) -> None:
    made = connection(enrolment, gateway="203.0.113.3", dpd_s=15, site_certificate="SITE", cloud_authority="CLOUD")
    child = made["children"][CHILD]
    assert made["remote_addrs"] == ["203.0.113.3"]
    assert (made["local"]["id"], made["remote"]["id"], made["remote"]["cacerts"]) == (
        "tokyo-1",
        "vpn.kyoten",
        ["CLOUD"],
    )
    assert (child["local_ts"], child["remote_ts"]) == (["10.10.1.0/24"], ["10.0.0.0/8"])
    assert (child["start_action"], child["close_action"], made["keyingtries"]) == ("none", "none", "1")
    assert made["dpd_delay"] == "15s"
    assert charon_options()["retransmit_tries"] == "4"


def test_a_place_that_others_can_write_to_is_not_safe_unless_it_is_sticky(tmp_path: Path) -> None:
    keys = tmp_path / "state" / "keys"
    keys.parent.mkdir(mode=0o700)
    keys.touch(mode=0o600)
    if os.geteuid() != 0:
        assert unsafe(keys) == keys
        return
    # Whatever lies above the test's directory is as the machine has it: /tmp is sticky.
    assert unsafe(keys) is None
    keys.parent.chmod(0o777)
    assert unsafe(keys) == keys.parent
    keys.parent.chmod(0o1777)
    assert unsafe(keys) is None
    keys.chmod(0o666)
    assert unsafe(keys) == keys
    with pytest.raises(FileNotFoundError):
        unsafe(tmp_path / "none")
