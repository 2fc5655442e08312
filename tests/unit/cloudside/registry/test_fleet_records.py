"""Inventory, settings, routers, reports, log pulls, SMTP credentials, certificates."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest

from cloudside.errors import InputError, InputErrors
from cloudside.registry import (
    certificates,
    credentials,
    inventory,
    log_requests,
    policies,
    reports,
    routers,
    settings,
    sites,
)
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from rules import model

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
REQUEST = "0" * 32


def test_inventory_speaks_overlay(populated: Database) -> None:
    with populated.read() as session:
        found = inventory.load(session)
    assert found == model.Inventory(
        tenants={"acme": ip_network("10.10.0.0/16"), "zenith": ip_network("10.20.0.0/16")},
        sites=(
            model.Site("osaka-1", "zenith", ip_network("10.20.0.0/24")),
            model.Site("tokyo-1", "acme", ip_network("10.10.0.0/24")),
        ),
        devices=(
            model.Device("osaka-1", "plc", ip_address("10.20.0.20")),
            model.Device("tokyo-1", "plc", ip_address("10.10.0.20")),
        ),
        servers=(
            model.Server("db", "acme", ip_address("10.254.0.11")),
            model.Server("web", None, ip_address("10.254.0.10")),
        ),
    )


def test_revoked_and_retired_sites_are_gone_with_their_devices(populated: Database) -> None:
    with populated.write() as session:
        sites.get(session, OPERATOR, "tokyo-1").revoked_at = NOW
        sites.change(session, OPERATOR, site_id="osaka-1", phase="retired")
    with populated.read() as session:
        found = inventory.load(session)
    assert (found.sites, found.devices) == ((), ())
    assert len(found.tenants) == 2


def test_policy_sources_are_the_highest_versions(populated: Database) -> None:
    with populated.write() as session:
        for text in ("old", "new"):
            policies.add_version(
                session, OPERATOR, tenant_id="acme", text=text, file_name="a.yaml", author="ann", now=NOW
            )
        assert inventory.policy_sources(session) == (model.PolicySource("acme", "a.yaml", "new"),)


def test_settings_run_through_their_states(populated: Database) -> None:
    with populated.write() as s:
        assert settings.latest(s, OPERATOR, "tokyo-1") is None
        settings.add_version(s, OPERATOR, site_id="tokyo-1", values={"a": 1, "b": 2}, author="ann", now=NOW)
        settings.mark_applied(s, OPERATOR, site_id="tokyo-1", version=1)
        settings.mark_applied(s, OPERATOR, site_id="tokyo-1", version=1)  # reports repeat
        second = settings.change(s, OPERATOR, site_id="tokyo-1", changes={"a": 9, "b": None}, author="ann", now=NOW)
        assert (second.version, second.values, second.state) == (2, {"a": 9}, "pending")
        problem = {"key": "fleet.cut-off", "params": {}}
        settings.mark_reverted(s, OPERATOR, site_id="tokyo-1", version=2, problem=problem)
        third = settings.change(s, OPERATOR, site_id="tokyo-1", changes={"c": 3}, author="ann", now=NOW)
        assert third.values == {"a": 1, "b": 2, "c": 3}  # what was undone is no base
    with populated.read() as s:
        newest, working = settings.latest(s, OPERATOR, "tokyo-1"), settings.latest_applied(s, OPERATOR, "tokyo-1")
        assert newest is not None
        assert working is not None
        assert (newest.version, working.version) == (3, 1)
        assert [(v.state, v.problem) for v in settings.versions(s, OPERATOR, "tokyo-1")] == [
            ("pending", None),
            ("reverted", problem),
            ("applied", None),
        ]


def test_illegal_settings_moves(populated: Database) -> None:
    with populated.write() as s:
        settings.add_version(s, OPERATOR, site_id="tokyo-1", values={}, author="ann", now=NOW)
        settings.mark_reverted(s, OPERATOR, site_id="tokyo-1", version=1, problem={})
        with pytest.raises(InputError, match="settings-transition"):
            settings.mark_applied(s, OPERATOR, site_id="tokyo-1", version=1)
        with pytest.raises(InputError, match="unknown-settings"):
            settings.mark_applied(s, OPERATOR, site_id="tokyo-1", version=7)


def test_router_keeps_only_a_hash_of_the_device_id(populated: Database) -> None:
    with populated.write() as s:
        with pytest.raises(InputError, match="not-enrolled"):
            routers.get(s, OPERATOR, "tokyo-1")
        routers.enrol(s, OPERATOR, site_id="tokyo-1", device_id="aa" * 32, ssh_host_key="k1", now=NOW)
        routers.enrol(s, OPERATOR, site_id="tokyo-1", device_id="bb" * 32, ssh_host_key="k2", now=NOW)
    with populated.read() as s:
        router = routers.get(s, OPERATOR, "tokyo-1")
    assert routers.proves_device_id(router, "bb" * 32)
    assert not routers.proves_device_id(router, "aa" * 32)
    assert not routers.proves_device_id(router, "é")
    assert router.ssh_host_key == "k2"
    assert "bb" * 32 not in str(vars(router))


def test_reports_keep_the_newest(populated: Database) -> None:
    later = NOW + timedelta(minutes=1)
    with populated.write() as s:
        for moment in (NOW, later):
            reports.record_heartbeat(
                s,
                OPERATOR,
                site_id="tokyo-1",
                received_at=moment,
                source=ip_address("10.10.0.1"),
                report={"at": moment.minute},
            )
            reports.record_tunnel(s, OPERATOR, site_id="tokyo-1", gateway="gw1", up=True, since=moment, peer="p")
            reports.record_gateway(s, OPERATOR, name="gw1", seen_at=moment, rule_set="abc")
    with populated.read() as s:
        heartbeat = reports.heartbeat(s, OPERATOR, "tokyo-1")
        assert heartbeat is not None
        assert (heartbeat.received_at, heartbeat.report) == (later, {"at": 1})
        assert reports.heartbeat(s, OPERATOR, "osaka-1") is None
        (tunnel,) = reports.tunnels(s, OPERATOR, gateway="gw1")
        assert tunnel.since == NOW  # still the same tunnel
        assert reports.tunnels(s, OPERATOR, gateway="gw2") == []
        assert [state.seen_at for state in reports.gateways(s, OPERATOR)] == [later]
    with populated.write() as s:
        down = reports.record_tunnel(s, OPERATOR, site_id="tokyo-1", gateway="gw1", up=False, since=later)
        assert (down.up, down.since) == (False, later)


def test_log_pull_is_answered_once(populated: Database) -> None:
    with populated.write() as s:
        for lines in (0, log_requests.MAX_LINES + 1):
            with pytest.raises(InputError, match="bad-log-lines"):
                log_requests.ask(
                    s, OPERATOR, request_id=REQUEST, site_id="tokyo-1", lines=lines, requested_by="ann", now=NOW
                )
        log_requests.ask(s, OPERATOR, request_id=REQUEST, site_id="tokyo-1", lines=9, requested_by="ann", now=NOW)
        assert [request.id for request in log_requests.waiting(s, OPERATOR, "tokyo-1")] == [REQUEST]
        for content in (b"first", b"second"):
            log_requests.answer(s, OPERATOR, request_id=REQUEST, site_id="tokyo-1", content=content, now=NOW)
        assert log_requests.waiting(s, OPERATOR, "tokyo-1") == []
        assert log_requests.get(s, OPERATOR, REQUEST).content == b"first"


def test_smtp_credentials(populated: Database) -> None:
    with populated.write() as s:
        made = credentials.issue(s, OPERATOR, site_id="tokyo-1", user="acme-mail", password="correct horse", now=NOW)
        assert "correct" not in made.password_hash
        assert credentials.proves_password(made, "correct horse")
        assert not credentials.proves_password(made, "correct house")
        with pytest.raises(InputErrors) as caught:
            credentials.issue(s, OPERATOR, site_id="tokyo-1", user="acme-mail", password="short", now=NOW)
        assert [problem.key for problem in caught.value.problems] == [
            "registry.smtp-user-exists",
            "registry.short-password",
        ]
        assert "short'" not in str(caught.value)  # no password in an error
        for user in ("", "ü", "a\nb", "a" * 65):
            with pytest.raises(InputError, match="bad-smtp-user"):
                credentials.issue(s, OPERATOR, site_id="tokyo-1", user=user, password="correct horse", now=NOW)
        credentials.revoke(s, OPERATOR, user="acme-mail", now=NOW)
        assert credentials.usable(s, OPERATOR, "acme-mail") is None
        assert [found.user for found in credentials.of_site(s, OPERATOR, "tokyo-1")] == ["acme-mail"]


def test_credentials_of_a_revoked_site_are_not_usable(populated: Database) -> None:
    with populated.write() as s:
        credentials.issue(s, OPERATOR, site_id="tokyo-1", user="acme-mail", password="correct horse", now=NOW)
        sites.get(s, OPERATOR, "tokyo-1").revoked_at = NOW
        s.flush()
        assert credentials.usable(s, OPERATOR, "acme-mail") is None


def test_revocation_list_numbers_only_grow(populated: Database) -> None:
    with populated.write() as s:
        certificates.keep_revocation_list(s, authority="root", number=2, der=b"", next_update=NOW)
        with pytest.raises(ValueError, match="after 2"):
            certificates.keep_revocation_list(s, authority="root", number=2, der=b"", next_update=NOW)
