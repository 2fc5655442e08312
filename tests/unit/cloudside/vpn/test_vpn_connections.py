from ipaddress import ip_network

from cloudside.vpn.connections import CHILD, charon_options, site_connection
from linux.dataplane import Dataplane


def _connection(dataplane: Dataplane = Dataplane.USERLAND) -> dict[str, object]:
    return site_connection(
        identity="vpn.kyoten", certificate="CERT", root="ROOT", overlay=ip_network("10.0.0.0/8"), dpd_delay_s=20,
        dataplane=dataplane,
    )  # fmt: skip


def test_one_connection_takes_every_site_and_trusts_the_root_alone() -> None:
    connection = _connection()
    assert connection["version"] == "2"
    assert connection["remote"] == {"auth": "pubkey", "id": "%any", "cacerts": ["ROOT"], "revocation": "relaxed"}
    assert connection["local"] == {"auth": "pubkey", "id": "vpn.kyoten", "certs": ["CERT"]}
    assert connection["unique"] == "replace"
    child = connection["children"][CHILD]
    assert (child["local_ts"], child["remote_ts"]) == (["10.0.0.0/8"], ["0.0.0.0/0"])
    assert child["start_action"] == "none"  # the router always initiates


def test_only_authenticated_encryption_is_offered() -> None:
    connection = _connection()
    assert all("gcm16" in proposal for proposal in connection["proposals"])
    assert all("gcm16" in proposal for proposal in connection["children"][CHILD]["esp_proposals"])


def test_interface_id_only_where_the_kernel_encrypts() -> None:
    assert "if_id_in" not in _connection()["children"][CHILD]
    child = _connection(Dataplane.KERNEL)["children"][CHILD]
    assert child["if_id_in"] == child["if_id_out"]


def test_carrier_nat_is_not_blocked_and_charons_routes_decide_nothing() -> None:
    options = charon_options()
    assert options["block_threshold"] == "0"
    assert int(str(options["routing_table_prio"])) > 219
