"""Grants: what is taken in, what is refused, who sees which, and when they hold. And the platform's file."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from sqlalchemy.orm import Session

from cloudside.errors import InputError, InputErrors, RefusedError
from cloudside.registry import grants, inventory, platform_policies, policies, servers, sites, tenants
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.database import Database
from cloudside.registry.tables import Grant
from rules.model import PlatformSource, Protocol, Service

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
OVERLAY = ip_network("10.0.0.0/8")
ACME, ZENITH = Caller("acme"), Caller("zenith")


def _add(session: Session, caller: Caller = OPERATOR, **given: Any) -> Grant:
    arguments: dict[str, Any] = {
        "grant_id": "01",
        "tenant_id": "acme",
        "source": "web",
        "destination": "tokyo-1/plc",
        "services": "ssh, tcp/8000-8010",
        "starts_at": NOW,
        "ends_at": NOW + 2 * HOUR,
        "reason": "Pump replaced, Sato",
        "author": "ann",
        "overlay": OVERLAY,
        "reserved": (ip_network("10.255.255.1/32"),),
        "now": NOW,
    }
    return grants.add(session, caller, **{**arguments, **given})


def _refused(database: Database, caller: Caller = OPERATOR, **given: Any) -> list[InputError]:
    with pytest.raises(InputError) as caught, database.write() as session:
        _add(session, caller, **given)
    with database.read() as session:
        assert grants.every(session, OPERATOR) == []
    return list(caught.value.problems) if isinstance(caught.value, InputErrors) else [caught.value]


def test_grant_is_kept_as_it_was_given(populated: Database) -> None:
    with populated.write() as session:
        _add(session, ACME)
    with populated.read() as session:
        kept = grants.get(session, ACME, "01")
    assert (kept.tenant_id, kept.source, kept.destination) == ("acme", "web", "tokyo-1/plc")
    assert (kept.services, kept.reason, kept.author) == ("ssh, tcp/8000-8010", "Pump replaced, Sato", "ann")
    assert (kept.starts_at, kept.ends_at, kept.created_at, kept.ended_at) == (NOW, NOW + 2 * HOUR, NOW, None)
    assert grants.services_of(kept.services) == (Service(Protocol.TCP, 22, 22), Service(Protocol.TCP, 8000, 8010))


@pytest.mark.parametrize(
    "source", ["db", "web", "kobe-1", "10.10.1.7", "10.254.0.11", "10.254.0.10", "10.200.0.7", " 10.200.0.7 "]
)
def test_sources(populated: Database, source: str) -> None:
    with populated.write() as session:
        sites.add(session, OPERATOR, site_id="kobe-1", tenant_id="acme", now=NOW)
        assert _add(session, ACME, source=source).source == source.strip()


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("osaka-1", "registry.grant-unknown-name"),  # another tenant's
        ("osaka-1/plc", "registry.grant-unknown-name"),
        ("nowhere-1", "registry.grant-unknown-name"),
        ("tokyo-1", "registry.grant-passes-nothing"),  # the destination is a device of it
        ("10.10.0.9", "registry.grant-passes-nothing"),
        ("10.20.0.20", "registry.grant-address"),  # at another tenant's site
        ("10.20.77.1", "registry.grant-address"),  # in another tenant's block
        ("10.10.77.1", "registry.grant-address"),  # in the tenant's own, at no site
        ("10.254.0.13", "registry.grant-address"),  # another tenant's server
        ("10.255.255.1", "registry.grant-address"),  # the gateways' own
        ("192.0.2.1", "registry.grant-address"),  # outside the overlay
        ("10.200.0.0/24", "registry.grant-unknown-name"),
        ("2001:db8::1", "registry.grant-unknown-name"),
        ("", "registry.grant-unknown-name"),
    ],
)
@pytest.mark.parametrize("caller", [OPERATOR, ACME])
def test_sources_that_are_refused(populated: Database, source: str, key: str, caller: Caller) -> None:
    with populated.write() as session:
        servers.add(session, OPERATOR, server_id="z", address="10.254.0.13", tenant_id="zenith", overlay=OVERLAY)
    problems = _refused(populated, caller, source=source)
    assert [problem.key for problem in problems] == [key]
    assert not {"osaka", "zenith"} & set(str(problems[0].params.get("known")).replace("-", " ").split())


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({"destination": "osaka-1"}, ["registry.grant-unknown-name"]),
        ({"destination": "10.10.0.20"}, ["registry.grant-unknown-name"]),  # only a source may be an address
        ({"destination": "db"}, ["registry.grant-passes-nothing"]),
        ({"tenant_id": "nobody"}, ["registry.unknown-tenant"]),
        ({"services": " , "}, ["registry.grant-services"]),
        ({"services": "ssh," * 126}, ["registry.grant-services"]),
        ({"services": "ssh, sssh, tcp/0"}, ["registry.grant-unknown-service"] * 2),
        ({"ends_at": NOW}, ["registry.grant-ends-first"]),
        ({"starts_at": NOW - HOUR, "ends_at": NOW}, ["registry.grant-is-over"]),
        ({"ends_at": NOW + timedelta(days=7, seconds=1)}, ["registry.grant-too-long"]),
        ({"reason": " "}, ["registry.grant-reason"]),
        ({"reason": "x" * 501}, ["registry.grant-reason"]),
        (
            {"source": "x", "destination": "y", "services": "z", "ends_at": NOW, "reason": ""},
            ["registry.grant-unknown-name"] * 2
            + ["registry.grant-unknown-service", "registry.grant-ends-first", "registry.grant-reason"],
        ),
    ],
)
def test_wrong_grants(populated: Database, given: dict[str, Any], keys: list[str]) -> None:
    assert [problem.key for problem in _refused(populated, **given)] == keys


def test_longest_grant_is_a_week(populated: Database) -> None:
    with populated.write() as session:
        _add(session, ends_at=NOW + grants.LONGEST)
    assert timedelta(days=7) == grants.LONGEST


@pytest.mark.parametrize("phase", ["retired", "revoked"])
def test_site_that_is_gone_cannot_be_granted(populated: Database, phase: str) -> None:
    with populated.write() as session:
        site = sites.add(session, OPERATOR, site_id="kobe-1", tenant_id="acme", now=NOW)
        overlay_host = str(site.overlay.network_address + 7)
        if phase == "revoked":
            site.revoked_at = NOW
        else:
            site.phase = phase
    assert [problem.key for problem in _refused(populated, source="kobe-1")] == ["registry.grant-unknown-name"]
    assert [problem.key for problem in _refused(populated, source=overlay_host)] == ["registry.grant-address"]


def test_grant_holds_from_its_start_until_just_before_its_end(populated: Database) -> None:
    with populated.write() as session:
        _add(session, grant_id="01", starts_at=NOW + HOUR, ends_at=NOW + 2 * HOUR)
        _add(session, grant_id="02", starts_at=NOW - HOUR, ends_at=NOW + 3 * HOUR)
    step = timedelta(microseconds=1)
    with populated.read() as session:
        for moment, holding in [
            (NOW - HOUR - step, []),
            (NOW, ["02"]),
            (NOW + HOUR - step, ["02"]),
            (NOW + HOUR, ["01", "02"]),
            (NOW + 2 * HOUR - step, ["01", "02"]),
            (NOW + 2 * HOUR, ["02"]),
            (NOW + 3 * HOUR, []),
        ]:
            assert [grant.id for grant in grants.active(session, OPERATOR, now=moment)] == holding
        assert grants.next_start(session, OPERATOR, now=NOW) == NOW + HOUR
        assert grants.next_start(session, ZENITH, now=NOW) is None
        assert grants.next_start(session, OPERATOR, now=NOW + HOUR) is None


def test_grant_that_is_ended_holds_no_more_and_is_not_forgotten(populated: Database) -> None:
    with populated.write() as session:
        _add(session, grant_id="01")
        _add(session, grant_id="02", starts_at=NOW + HOUR)
        for later in (HOUR / 2, HOUR):  # the first end stays
            assert grants.end(session, ACME, grant_id="01", now=NOW + later).ended_at == NOW + HOUR / 2
        grants.end(session, ACME, grant_id="02", now=NOW)
    with populated.read() as session:
        assert grants.active(session, OPERATOR, now=NOW + HOUR) == []
        assert grants.next_start(session, OPERATOR, now=NOW) is None
        assert [grant.id for grant in grants.every(session, OPERATOR)] == ["02", "01"]


def test_grant_that_is_over_is_not_ended_again(populated: Database) -> None:
    with populated.write() as session:
        _add(session)
        assert grants.end(session, ACME, grant_id="01", now=NOW + 2 * HOUR).ended_at is None


def test_grants_of_another_tenant_do_not_exist(populated: Database) -> None:
    with populated.write() as session:
        _add(session)
        _add(session, grant_id="02", tenant_id="zenith", destination="osaka-1")
    with populated.write() as session:
        assert [grant.id for grant in grants.every(session, ACME)] == ["01"]
        assert [grant.id for grant in grants.active(session, ZENITH, now=NOW)] == ["02"]
        assert [grant.id for grant in grants.every(session, OPERATOR, tenant_id="zenith")] == ["02"]
        assert grants.every(session, ACME, tenant_id="zenith") == []
        refusals = []
        for grant_id in ("02", "03"):
            with pytest.raises(InputError) as caught:
                grants.get(session, ACME, grant_id)
            refusals.append((caught.value.key, set(caught.value.params)))
            with pytest.raises(InputError) as caught:
                grants.end(session, ACME, grant_id=grant_id, now=NOW)
            refusals.append((caught.value.key, set(caught.value.params)))
        assert refusals == [("registry.unknown-grant", {"grant"})] * 4
        with pytest.raises(InputError, match="unknown-tenant"):
            _add(session, ACME, grant_id="04", tenant_id="zenith", destination="osaka-1")
        assert grants.end(session, ZENITH, grant_id="02", now=NOW).ended_at == NOW


def test_services_that_no_grant_has_are_our_error() -> None:
    for text in ("sssh", "tcp/70000"):
        with pytest.raises(ValueError, match=text):
            grants.services_of(text)


def test_platform_file_keeps_every_version_and_the_highest_is_in_force(populated: Database) -> None:
    with populated.write() as session:
        assert platform_policies.in_force(session, OPERATOR) is None
        assert inventory.platform_source(session) is None
        for text in ("one", "two"):
            platform_policies.add_version(
                session, OPERATOR, text=text, file_name="platform.yaml", author="ann", now=NOW
            )
    with populated.read() as session:
        kept = platform_policies.in_force(session, OPERATOR)
        assert kept is not None
        assert (kept.version, kept.text, kept.author, kept.applied_at) == (2, "two", "ann", NOW)
        assert [version.text for version in platform_policies.versions(session, OPERATOR)] == ["two", "one"]
        assert inventory.platform_source(session) == PlatformSource("platform.yaml", "two")


def test_platform_file_is_the_operators_business(populated: Database) -> None:
    with populated.write() as session:
        for act in (
            lambda: platform_policies.add_version(session, ACME, text="", file_name="", author="", now=NOW),
            lambda: platform_policies.versions(session, ACME),
            lambda: platform_policies.in_force(session, ACME),
        ):
            with pytest.raises(RefusedError) as caught:
                act()
            assert (caught.value.key, caught.value.params) == ("registry.operators-only", {"tenant": "acme"})
        assert platform_policies.versions(session, OPERATOR) == []


def test_policy_in_force_says_who_wrote_it_and_when(populated: Database) -> None:
    with populated.write() as session:
        for author, later in (("ann", 0), ("bob", 1)):
            policies.add_version(
                session, ACME, tenant_id="acme", text=author, file_name="a", author=author, now=NOW + later * HOUR
            )
    with populated.read() as session:
        for caller in (OPERATOR, ACME):
            kept = policies.in_force(session, caller, "acme")
            assert kept is not None
            assert (kept.text, kept.author, kept.applied_at) == ("bob", "bob", NOW + HOUR)
            assert [(one.text, one.author) for one in policies.all_in_force(session, caller)] == [("bob", "bob")]


def test_what_is_taken_of_the_overlay(populated: Database) -> None:
    with populated.read() as session:
        assert {(owner, str(prefix)) for owner, prefix in tenants.taken(session)} == {
            ("acme", "10.10.0.0/16"),
            ("zenith", "10.20.0.0/16"),
            ("web", "10.254.0.10/32"),
            ("db", "10.254.0.11/32"),
        }
