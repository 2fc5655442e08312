"""Tenants, sites, devices, servers, logins, incidents: right input, wrong input, another tenant's."""

import io
import json
import re
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloudside.pki.ssh_keys import make_pair
from cloudside.registry import credentials
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database, Doorbell
from cloudside.registry.tables import Incident

Kyoten = Callable[..., Any]


def test_a_tenant_and_a_site_get_their_prefixes(kyoten: Kyoten) -> None:
    block = kyoten("tenant", "add", "acme", "--json").document["block"]
    added = kyoten("site", "add", "tokyo-1", "--tenant", "acme", "--lan", "192.168.1.0/24", "--json").document
    assert block == "10.0.0.0/16"
    assert (added["overlay"], added["lan"]) == ("10.0.0.0/24", "192.168.1.0/24")
    assert "tokyo-1" in kyoten("site", "list").out


def test_a_sentence_for_people(kyoten: Kyoten) -> None:
    assert kyoten("tenant", "add", "acme").out == "Tenant acme has the block 10.0.0.0/16.\n"


def test_a_japanese_terminal_is_spoken_to_in_japanese(kyoten: Kyoten, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "ja_JP.UTF-8")
    assert "テナント acme" in kyoten("tenant", "add", "acme").out


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("site", "add", "tokyo-1", "--tenant", "acme"), "registry.site-exists"),
        (("site", "add", "Tokyo_2", "--tenant", "acme"), "registry.bad-site-name"),
        (("site", "add", "tokyo-2"), "cli.tenant-wanted"),
        (("site", "add", "tokyo-2", "--tenant", "acne"), "registry.unknown-tenant"),
        (("site", "add", "tokyo-2", "--tenant", "acme", "--overlay", "10.0.0.0/24"), "registry.overlay-overlaps"),
        (("site", "add", "tokyo-2", "--tenant", "acme", "--overlay", "10.0.0.1/24"), "registry.prefix-host-bits"),
        (("site", "show", "tokio-1"), "registry.unknown-site"),
        (("site", "phase", "tokyo-1", "done"), "registry.bad-phase"),
        (("site", "set", "tokyo-1"), "cli.nothing-to-set"),
        (("site", "set", "tokyo-1", "log.levle=debug"), "fleet.unknown-setting"),
        (("tenant", "add", "acme"), "registry.tenant-exists"),
        (("tenant", "show", "acne"), "registry.unknown-tenant"),
        (("device", "add", "tokyo-1", "192.168.1.21"), "cli.device-wanted"),
        (("device", "add", "tokyo-1/hmi", "192.168.2.21"), "registry.device-outside-lan"),
        (("device", "add", "tokyo-1/hmi", "192.168.1.20"), "registry.device-address-used"),
        (("device", "set-host-key", "tokyo-1/plc", "ssh-ed25519", "nonsense"), "registry.bad-host-key"),
        (("server", "add", "db", "10.0.0.9"), "registry.server-in-block"),
        (("server", "add", "db", "10.255.255.1"), "registry.server-address-reserved"),
        (("incident", "ack", "12"), "registry.unknown-incident"),
        (("logs", "tokyo-1", "--lines", "0"), "registry.bad-log-lines"),
        (("serve", "--without", "relays"), "cli.unknown-daemon"),
    ],
)
def test_wrong_input_is_named_and_exits_2(world: Kyoten, arguments: tuple[str, ...], key: str) -> None:
    result = world(*arguments, "--json", status=2) if arguments[0] != "serve" else world("--json", *arguments, status=2)
    assert result.error["key"] == key
    assert not re.search(r"[{}]", result.error["text"])  # every parameter is filled in
    assert result.out == ""


def test_an_unknown_name_comes_with_the_closest(world: Kyoten) -> None:
    assert "tokyo-1" in world("site", "show", "tokio-1", status=2).err


def test_a_usage_error_is_an_error_for_programs_too(kyoten: Kyoten) -> None:
    assert kyoten("--json", "site", "add", status=2).error["key"] == "cli.usage"
    assert kyoten("frobnicate", status=2).err.startswith("error: ")


def test_a_missing_registry_is_told_with_the_remedy(kyoten: Kyoten, tmp_path: Path) -> None:
    (tmp_path / "state" / "registry.sqlite").unlink()
    assert "kyoten init" in kyoten("status", status=4).err


def test_a_locked_registry_is_told(world: Kyoten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    monkeypatch.setattr("cloudside.registry.database.LOCK_WAIT_S", 0.1)
    defaults = {**(Database.__init__.__kwdefaults__ or {}), "lock_wait_s": 0.1}
    monkeypatch.setattr(Database.__init__, "__kwdefaults__", defaults)
    locker = sqlite3.connect(tmp_path / "state" / "registry.sqlite", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    assert world("tenant", "add", "cedar", "--json", status=5).error["key"] == "registry.unavailable"
    locker.close()
    world("tenant", "add", "cedar")


def test_a_wrong_configuration_names_the_key(kyoten: Kyoten, tmp_path: Path) -> None:
    (tmp_path / "kyoten.toml").write_text("[gatewy]\n")
    assert "gatewy" in kyoten("status", status=4).err


def test_a_bug_is_one_sentence_and_a_file(kyoten: Kyoten, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("the secret")

    monkeypatch.setattr("cloudside.registry.tenants.every", broken)
    shown = kyoten("tenant", "list", status=1).err
    assert "Traceback" not in shown and "the secret" not in shown
    path = Path(str(re.search(r"(/\S+\.log)", shown)[1]))  # type: ignore[index]
    assert "ZeroDivisionError: the secret" in path.read_text()
    path.unlink()


def test_initialising_again_changes_nothing(kyoten: Kyoten) -> None:
    assert kyoten("init", "--json").document["made"] == []


def test_an_enrolment_is_a_bundle_that_is_not_written_over(world: Kyoten, tmp_path: Path) -> None:
    made = world("site", "enroll", "tokyo-1", "--csr", "router.csr", "--json").document
    bundle = tmp_path / made["bundle"]
    assert bundle.stat().st_mode & 0o777 == 0o600
    with tarfile.open(bundle) as archive:
        assert not {"site.key", "device_id", "ssh_host_ed25519_key"} & set(archive.getnames())
    assert (
        world("site", "enroll", "tokyo-1", "--csr", "router.csr", "--json", status=2).error["key"]
        == "pki.output-exists"
    )
    assert (
        world("site", "enroll", "tokyo-1", "--csr", "router.csr", "--force", "--json").document["certificates_revoked"]
        == 1
    )
    assert world("site", "show", "tokyo-1", "--json").document["host_key"].startswith("ssh-ed25519 ")


def test_a_revoked_site_is_revoked_after_a_question(
    world: Kyoten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world("site", "enroll", "tokyo-1", "--csr", "router.csr")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    world("site", "revoke", "tokyo-1", status=130)
    assert world("site", "show", "tokyo-1", "--json").document["revoked"] is None
    with Doorbell(tmp_path, "gateway").listen() as bell:
        bell.setblocking(False)
        world("site", "revoke", "tokyo-1", "--yes")
        assert bell.recv(1) == b"\0"
    assert (
        world("site", "enroll", "tokyo-1", "--csr", "router.csr", "--force", "--json", status=3).error["key"]
        == "pki.site-revoked"
    )


def test_reading_rings_no_bell(world: Kyoten, tmp_path: Path) -> None:
    with Doorbell(tmp_path, "gateway").listen() as bell:
        bell.setblocking(False)
        world("status")
        with pytest.raises(BlockingIOError):
            bell.recv(1)


def test_a_host_key_is_pinned_from_standard_input(world: Kyoten, monkeypatch: pytest.MonkeyPatch) -> None:
    line = make_pair("plc").public
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{line}\n"))
    world("device", "set-host-key", "tokyo-1/plc")
    shown = world("device", "list", "tokyo-1", "--json").document["devices"]
    assert [(row["device"], row["host_key"]) for row in shown] == [("tokyo-1/plc", line)]


def test_a_mail_login_is_kept_as_a_hash(world: Kyoten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a long enough password\n"))
    world("smtp", "add-user", "tokyo-1", "tokyo-mail")
    database = Database(f"sqlite:///{tmp_path / 'state' / 'registry.sqlite'}")
    with database.read() as session:
        kept = credentials.usable(session, OPERATOR, "tokyo-mail")
    database.close()
    assert kept is not None and kept.password_hash.startswith("$argon2id$")
    assert credentials.proves_password(kept, "a long enough password")
    world("smtp", "revoke-user", "tokyo-mail")
    assert world("smtp", "list", "tokyo-1", "--json").document["smtp-users"][0]["revoked"] is not None


def test_a_short_password_is_refused_and_not_repeated(world: Kyoten, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hunter2\n"))
    assert "hunter2" not in world("smtp", "add-user", "tokyo-1", "m", status=2).err


def test_an_incident_is_listed_and_acknowledged_once(world: Kyoten, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'state' / 'registry.sqlite'}")
    with database.write() as session:
        for subject in ("tokyo-1", "kobe-1"):
            session.add(
                Incident(
                    kind="site-silent",
                    subject=subject,
                    open_key=f"site-silent/{subject}",
                    params={},
                    opened_at=datetime(2026, 11, 21, tzinfo=UTC),
                )
            )
    database.close()
    shown = world("incident", "list", "--json").document["incidents"]
    assert [row["subject"] for row in shown] == ["kobe-1", "tokyo-1"]
    world("incident", "ack", "1")
    assert world("incident", "list", "--json").document["incidents"][1]["acknowledged_by"] == "alice"
    theirs = world("--tenant", "birch", "incident", "list", "--json").document["incidents"]
    assert [row["subject"] for row in theirs] == ["kobe-1"]
    assert (
        world("--tenant", "birch", "incident", "ack", "1", "--json", status=2).error["key"]
        == "registry.unknown-incident"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("site", "show", "tokyo-1"),
        ("site", "phase", "tokyo-1", "retired"),
        ("site", "set", "tokyo-1", "log.level=debug", "--no-wait"),
        ("site", "enroll", "tokyo-1", "--csr", "router.csr"),
        ("site", "revoke", "tokyo-1", "--yes"),
        ("site", "add", "tokyo-9", "--tenant", "acme"),
        ("device", "list", "tokyo-1"),
        ("device", "remove", "tokyo-1/plc"),
        ("device", "add", "tokyo-1/hmi", "192.168.1.30"),
        ("status", "tokyo-1"),
        ("logs", "tokyo-1"),
        ("ssh", "tokyo-1", "true"),
        ("ssh", "--user", "x", "tokyo-1/plc", "true"),
        ("policy", "history", "acme"),
        ("policy", "show", "acme"),
        ("tenant", "show", "acme"),
        ("why", "tokyo-1", "web", "ping"),
    ],
)
def test_another_tenants_things_do_not_exist(world: Kyoten, arguments: tuple[str, ...]) -> None:
    refused = world("--tenant", "birch", *arguments, status=2).err
    assert "no" in refused.lower() and "osaka-1" not in refused


def test_a_tenants_administrator_sees_their_own_and_gives_out_nothing(world: Kyoten) -> None:
    shown = world("--tenant", "birch", "site", "list", "--json").document["sites"]
    assert [row["site"] for row in shown] == ["kobe-1", "nagoya-1"]
    world("--tenant", "birch", "site", "add", "sapporo-1")
    for arguments in (("tenant", "add", "cedar"), ("server", "add", "db", "10.255.0.20"), ("server", "remove", "web")):
        assert world("--tenant", "birch", *arguments, "--json", status=3).error["key"] == "registry.operators-only"


@pytest.mark.parametrize("command", ["init", "gateway", "relay", "web", "worker", "serve"])
def test_what_belongs_to_the_service_is_not_a_tenants(world: Kyoten, command: str) -> None:
    refused = world("--tenant", "acme", command, status=3)
    assert "operators" in refused.err


def test_a_ticket_is_a_secret_file_that_can_be_taken_back(world: Kyoten, tmp_path: Path) -> None:
    made = world("site", "ticket", "tokyo-1", "--valid", "12h", "--json").document
    path = tmp_path / made["ticket"]
    document = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    assert set(document) == {"format", "site", "token", "endpoints", "endpoint_name", "root"}
    again = world("site", "ticket", "tokyo-1", "--force").out
    assert document["token"] not in again and "web.listen" in again
    with (tmp_path / "kyoten.toml").open("a") as stream:
        stream.write('[web]\nlisten = [{ address = "0.0.0.0", port = 8443 }]\n')
    assert "web.listen" not in world("site", "ticket", "tokyo-1", "--force").out
    document = world("site", "ticket", "tokyo-1", "--withdraw", "--json").document
    assert document == {"site": "tokyo-1", "withdrawn": 1}
    for words, key in (
        (("tokyo-1",), "pki.ticket-exists"),
        (("osaka-1", "--valid", "7"), "cli.bad-duration"),
        (("osaka-1", "--valid", "91d"), "pki.ticket-validity"),
        (("osako-1",), "registry.unknown-site"),
    ):
        assert world("site", "ticket", *words, "--json", status=2).error["key"] == key
    assert not (tmp_path / "osaka-1.ticket").exists()


def test_a_ticket_lists_endpoints_outside_the_tunnel_first(world: Kyoten, tmp_path: Path) -> None:
    path = tmp_path / "kyoten.toml"
    listen = '[{ address = "10.255.255.1", port = 8443 }, { address = "203.0.113.2", port = 443 }]'
    path.write_text(f"{path.read_text()}[web]\nlisten = {listen}\n")
    world("site", "ticket", "tokyo-1")
    places = json.loads((tmp_path / "tokyo-1.ticket").read_text())["endpoints"]
    assert places == [{"address": "203.0.113.2", "port": 443}, {"address": "10.255.255.1", "port": 8443}]


def test_a_device_stands_at_one_site_until_it_is_released(world: Kyoten) -> None:
    world("site", "enroll", "tokyo-1", "--csr", "router.csr")
    again = ("site", "enroll", "osaka-1", "--csr", "router.csr", "--json")
    refused = world(*again, status=3).error
    assert (refused["key"], refused["params"]["other"]) == ("cli.device-elsewhere", "tokyo-1")
    others = world("--tenant", "birch", "site", "enroll", "kobe-1", "--csr", "router.csr", "--json", status=3).error
    assert others["key"] == "pki.device-elsewhere" and "tokyo-1" not in str(others)
    assert world("site", "release", "tokyo-1", "--yes", "--json").document["certificates_revoked"] == 1
    assert world(*again).document["certificates_revoked"] == 0


def test_a_site_is_moved_after_a_question_and_the_gateway_is_told(
    world: Kyoten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world("site", "enroll", "tokyo-1", "--csr", "router.csr")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert "Nothing was changed" in world("site", "move", "tokyo-1", "--size", "24", status=130).err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    unanswered = world("site", "move", "tokyo-1", "--size", "24", "--json", status=130)
    assert json.loads(unanswered.err.splitlines()[-1])["error"]["key"] == "cli.not-confirmed"
    assert world("site", "show", "tokyo-1", "--json").document["overlay"] == "10.0.0.0/24"
    with Doorbell(tmp_path, "gateway").listen() as bell:
        bell.setblocking(False)
        moved = world("site", "move", "tokyo-1", "--size", "24", "--yes", "--json").document
        assert bell.recv(1) == b"\0"
    assert (moved["before"], moved["overlay"], moved["lan"]) == ("10.0.0.0/24", "10.0.2.0/24", "192.168.1.0/24")
    # Rules and devices go with it.
    assert "10.0.2.20" in world("device", "list", "tokyo-1").out
    refused = world("site", "move", "tokyo-1", "--size", "28", "--yes", "--json", status=2).error
    assert refused["key"] == "registry.move-devices-outside" and "plc" in refused["params"]["devices"]


def test_an_authority_by_way_of_a_root_on_another_machine(world: Kyoten, tmp_path: Path) -> None:
    pki = tmp_path / "state" / "pki"
    root = (pki / "root.key").rename(tmp_path / "root.key")
    refused = world("site", "enroll", "tokyo-1", "--csr", "router.csr", "--json", status=4).error
    assert refused["key"] == "pki.root-absent" and "kyoten authority request" in refused["text"]
    world("authority", "request", "acme", "--output", "acme.request")
    signing = ("--root-certificate", str(pki / "root.crt"), "--root-key", str(root), "--yes")
    world("authority", "sign", "acme.request", *signing, "--output", "acme.answer")
    assert world("authority", "install", "acme.answer", "--json").document == {"authority": "tenant-acme"}
    rows = {row["authority"]: row for row in world("authority", "list", "--json").document["authorities"]}
    assert rows["tenant-acme"]["blocks"] == ["10.0.0.0/16"] and rows["root"]["list"] == 2
    world("site", "enroll", "tokyo-1", "--csr", "router.csr")
    assert world("--tenant", "acme", "authority", "list", "--json", status=3).error["key"] == "registry.operators-only"
