"""Another tenant's object is indistinguishable from one that does not exist, in every module that takes a caller."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from registry_engines import Engine
from sqlalchemy.orm import Session

from cloudside import registry
from cloudside.errors import InputError, RefusedError
from cloudside.registry import (
    credentials,
    devices,
    log_requests,
    mail_holds,
    mail_limits,
    mail_profiles,
    policies,
    reports,
    routers,
    servers,
    settings,
    sites,
    suppressions,
    tenants,
)
from cloudside.registry.callers import OPERATOR, Caller
from cloudside.registry.database import Database

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
ACME, ZENITH = Caller("acme"), Caller("zenith")
REQUEST = "0" * 32
DEFAULTS = mail_limits.Defaults(hourly=60, daily=500)
LATER = NOW + timedelta(days=1)
#: Whose mail statements are about in the filled registry: zenith's, and the operators' own.
MAIL_SUBJECTS = (
    ("tenant", "zenith"),
    ("site", "osaka-1"),
    ("device", "osaka"),
    ("device", "10.20.0.20"),
    ("site", "server/web"),
)


@pytest.fixture(scope="session")
def filled_template(engine: Engine, populated_template: str) -> str:
    url = engine.new(populated_template)
    with closing(Database(url)) as database, database.write() as s:
        policies.add_version(s, OPERATOR, tenant_id="zenith", text="", file_name="", author="", now=NOW)
        settings.add_version(s, OPERATOR, site_id="osaka-1", values={"a": 1}, author="ops", now=NOW)
        routers.enrol(s, OPERATOR, site_id="osaka-1", device_id="d", ssh_host_key="k", now=NOW)
        source = ip_address("10.20.0.1")
        reports.record_heartbeat(s, OPERATOR, site_id="osaka-1", received_at=NOW, source=source, report={})
        reports.record_tunnel(s, OPERATOR, site_id="osaka-1", gateway="gw1", up=True, since=NOW)
        log_requests.ask(s, OPERATOR, request_id=REQUEST, site_id="osaka-1", lines=5, requested_by="o", now=NOW)
        credentials.issue(s, OPERATOR, site_id="osaka-1", user="osaka", password="correct horse", now=NOW)
        mail_profiles.change(s, OPERATOR, site_id="osaka-1", notify="ops@zenith.test")
        for scope, name in MAIL_SUBJECTS:
            mail_limits.set_limit(s, OPERATOR, scope=scope, name=name, hourly=5, daily=9)
            mail_holds.put(s, OPERATOR, scope=scope, name=name, reason="flood", author="ops", now=NOW)
        for tenant in ("zenith", ""):
            suppressions.add(
                s, OPERATOR, tenant_id=tenant, address="a@x.test", cause="manual", reason="r", author="ops", now=NOW
            )
    return url


@pytest.fixture
def filled(engine: Engine, filled_template: str) -> Iterator[Database]:
    """A registry in which zenith's site has one of everything."""
    url = engine.new(filled_template)
    with closing(Database(url)) as database:
        yield database
    engine.drop(url)


#: Each takes the caller and a site: zenith's "osaka-1", or "nowhere-1", which nobody has.
_ON_SITE: dict[str, Callable[[Session, Caller, str], object]] = {
    "sites.get": lambda s, c, site: sites.get(s, c, site),
    "sites.change": lambda s, c, site: sites.change(s, c, site_id=site, phase="retired"),
    "devices.add": lambda s, c, site: devices.add(s, c, site_id=site, name="x", lan_address="192.168.1.9"),
    "devices.every": lambda s, c, site: devices.every(s, c, site_id=site),
    "devices.get": lambda s, c, site: devices.get(s, c, site, "plc"),
    "devices.remove": lambda s, c, site: devices.remove(s, c, site_id=site, name="plc"),
    "settings.add_version": lambda s, c, site: settings.add_version(s, c, site_id=site, values={}, author="a", now=NOW),
    "settings.change": lambda s, c, site: settings.change(s, c, site_id=site, changes={}, author="a", now=NOW),
    "settings.versions": lambda s, c, site: settings.versions(s, c, site),
    "settings.latest": lambda s, c, site: settings.latest(s, c, site),
    "settings.latest_applied": lambda s, c, site: settings.latest_applied(s, c, site),
    "settings.mark_applied": lambda s, c, site: settings.mark_applied(s, c, site_id=site, version=1),
    "settings.mark_reverted": lambda s, c, site: settings.mark_reverted(s, c, site_id=site, version=1, problem={}),
    "routers.get": lambda s, c, site: routers.get(s, c, site),
    "routers.enrol": lambda s, c, site: routers.enrol(s, c, site_id=site, device_id="e", ssh_host_key="k", now=NOW),
    "reports.heartbeat": lambda s, c, site: reports.heartbeat(s, c, site),
    "reports.record_heartbeat": lambda s, c, site: reports.record_heartbeat(
        s, c, site_id=site, received_at=NOW, source=ip_address("10.0.0.1"), report={}
    ),
    "reports.record_tunnel": lambda s, c, site: reports.record_tunnel(
        s, c, site_id=site, gateway="gw1", up=False, since=NOW
    ),
    "log_requests.ask": lambda s, c, site: log_requests.ask(
        s, c, request_id="1" * 32, site_id=site, lines=1, requested_by="a", now=NOW
    ),
    "log_requests.waiting": lambda s, c, site: log_requests.waiting(s, c, site),
    "credentials.issue": lambda s, c, site: credentials.issue(
        s, c, site_id=site, user="new", password="correct horse", now=NOW
    ),
    "credentials.of_site": lambda s, c, site: credentials.of_site(s, c, site),
    "mail_profiles.get": lambda s, c, site: mail_profiles.get(s, c, site),
    "mail_profiles.change": lambda s, c, site: mail_profiles.change(s, c, site_id=site, old_tls=True),
    "mail_limits.set_limit": lambda s, c, site: mail_limits.set_limit(s, c, scope="site", name=site, hourly=1, daily=2),
    "mail_limits.raise_limit": lambda s, c, site: mail_limits.raise_limit(
        s, c, scope="site", name=site, times=2, until=LATER, now=NOW, defaults=DEFAULTS
    ),
    "mail_limits.default_hourly": lambda s, c, site: mail_limits.default_hourly(s, c, site, DEFAULTS),
}


@pytest.mark.parametrize("name", _ON_SITE)
def test_foreign_site_is_an_unknown_site(filled: Database, name: str) -> None:
    act = _ON_SITE[name]
    answers = []
    for site in ("osaka-1", "nowhere-1"):
        with pytest.raises(InputError) as caught, filled.write() as session:
            act(session, ACME, site)
        answers.append((type(caught.value), caught.value.key, caught.value.params["known"]))
    assert answers[0] == answers[1]
    assert answers[0][1] == "registry.unknown-site"
    assert "osaka" not in str(answers[0][2])
    with filled.write() as session:  # the owner is let in: the refusal above was about the caller
        act(session, ZENITH, "osaka-1")


def test_foreign_tenant_is_an_unknown_tenant(filled: Database) -> None:
    acts: list[Callable[[Session], object]] = [
        lambda s: tenants.get(s, ACME, "zenith"),
        lambda s: policies.in_force(s, ACME, "zenith"),
        lambda s: policies.versions(s, ACME, "zenith"),
        lambda s: policies.add_version(s, ACME, tenant_id="zenith", text="", file_name="", author="", now=NOW),
        lambda s: sites.add(s, ACME, site_id="new", tenant_id="zenith", now=NOW),
    ]
    for act in acts:
        with pytest.raises(InputError) as caught, filled.write() as session:
            act(session)
        assert caught.value.key == "registry.unknown-tenant"
        assert caught.value.params["known"] == "acme"


def test_lists_hold_only_the_callers_own(filled: Database) -> None:
    with filled.read() as session:
        assert [tenant.id for tenant in tenants.every(session, ACME)] == ["acme"]
        assert [site.id for site in sites.every(session, ACME)] == ["tokyo-1"]
        assert sites.every(session, ACME, tenant_id="zenith") == []
        assert {device.site_id for device in devices.every(session, ACME)} == {"tokyo-1"}
        assert [server.id for server in servers.every(session, ACME)] == ["db", "web"]
        assert [server.id for server in servers.every(session, ZENITH)] == ["web"]
        assert policies.all_in_force(session, ACME) == []
        assert reports.heartbeats(session, ACME) == {}
        assert reports.tunnels(session, ACME) == []
        assert list(reports.heartbeats(session, ZENITH)) == ["osaka-1"]
        assert [tunnel.site_id for tunnel in reports.tunnels(session, ZENITH)] == ["osaka-1"]
        assert mail_profiles.every(session, ACME) == []
        assert [profile.site_id for profile in mail_profiles.every(session, ZENITH)] == ["osaka-1"]


def test_foreign_server_request_and_credential(filled: Database) -> None:
    with filled.write() as session:
        with pytest.raises(InputError, match="unknown-server"):
            servers.get(session, ZENITH, "db")
        with pytest.raises(InputError, match="unknown-log-request"):
            log_requests.get(session, ACME, REQUEST)
        with pytest.raises(InputError, match="unknown-log-request"):
            log_requests.answer(session, ACME, request_id=REQUEST, site_id="osaka-1", content=b"", now=NOW)
        with pytest.raises(InputError, match="unknown-log-request"):  # another site, even of the service itself
            log_requests.answer(session, OPERATOR, request_id=REQUEST, site_id="tokyo-1", content=b"", now=NOW)
        with pytest.raises(InputError, match="unknown-smtp-user"):
            credentials.revoke(session, ACME, user="osaka", now=NOW)
        assert credentials.usable(session, ACME, "osaka") is None
        assert credentials.usable(session, ZENITH, "osaka") is not None
        with pytest.raises(RefusedError):
            reports.gateways(session, ACME)
        with pytest.raises(RefusedError):
            reports.record_gateway(session, ACME, name="gw1", seen_at=NOW)


def test_foreign_mail_logins_are_unknown_ones(filled: Database) -> None:
    acts: list[Callable[[Session, Caller, str], object]] = [
        lambda s, c, user: credentials.get(s, c, user),
        lambda s, c, user: credentials.rotate(s, c, user=user, password="another password", now=NOW),
        lambda s, c, user: credentials.restrict(s, c, user=user, senders=["@x.test"]),
        lambda s, c, user: credentials.revoke(s, c, user=user, now=NOW),
        lambda s, c, user: mail_limits.set_limit(s, c, scope="device", name=user, hourly=1, daily=2),
    ]
    for act in acts:
        answers = []
        for user in ("osaka", "nobody"):
            with pytest.raises(InputError) as caught, filled.write() as session:
                act(session, ACME, user)
            answers.append(str(caught.value).replace(user, "USER"))
        assert answers[0] == answers[1]
        assert "registry.unknown-smtp-user" in answers[0]
    with filled.write() as session:
        assert credentials.every(session, ACME) == []
        for act in acts:
            act(session, ZENITH, "osaka")


@pytest.mark.parametrize("module", [mail_limits, mail_holds], ids=["mail_limits", "mail_holds"])
def test_mail_statements_of_others_do_not_exist(filled: Database, module: Any) -> None:
    take_away = module.remove if module is mail_limits else module.take_away
    with filled.write() as session:
        assert module.every(session, ACME) == []
        assert [(row.scope, row.name) for row in module.every(session, ZENITH)] == [
            ("device", "10.20.0.20"),
            ("device", "osaka"),
            ("site", "osaka-1"),
            ("tenant", "zenith"),
        ]
        for scope, name in MAIL_SUBJECTS:
            assert module.find(session, ACME, scope=scope, name=name) is None
            with pytest.raises(InputError, match="no-mail"):
                take_away(session, ACME, scope=scope, name=name)
        with pytest.raises(InputError, match="no-mail"):  # a cloud server's is nobody's but the operators'
            take_away(session, ZENITH, scope="site", name="server/web")
        assert len(module.every(session, OPERATOR)) == len(MAIL_SUBJECTS)


def test_nobody_states_anything_about_others_mail(filled: Database) -> None:
    acts: list[Callable[[Session, Caller, str, str], object]] = [
        lambda s, c, scope, name: mail_limits.set_limit(s, c, scope=scope, name=name, hourly=1, daily=2),
        lambda s, c, scope, name: mail_limits.raise_limit(
            s, c, scope=scope, name=name, times=2, until=LATER, now=NOW, defaults=DEFAULTS
        ),
        lambda s, c, scope, name: mail_holds.put(s, c, scope=scope, name=name, reason="r", author="a", now=NOW),
    ]
    for act in acts:
        for scope, name in MAIL_SUBJECTS:
            with pytest.raises((InputError, RefusedError)) as caught, filled.write() as session:
                act(session, ACME, scope, name)
            wanted = "registry.operators-only" if name == "server/web" else "registry.unknown-"
            assert caught.value.key.startswith(wanted), (scope, name)


def test_suppressed_addresses_are_their_tenants_own(filled: Database) -> None:
    with filled.write() as session:
        assert suppressions.every(session, ACME) == []
        assert [row.tenant_id for row in suppressions.every(session, ZENITH)] == ["zenith"]
        assert suppressions.every(session, ZENITH, tenant_id="") == []
        with pytest.raises(InputError, match="unknown-tenant"):
            suppressions.remove(session, ACME, tenant_id="zenith", address="a@x.test")
        with pytest.raises(InputError, match="unknown-tenant"):
            suppressions.add(
                session, ACME, tenant_id="zenith", address="b@x.test", cause="manual", reason="", author="", now=NOW
            )
        with pytest.raises(InputError, match="not-suppressed"):
            suppressions.remove(session, ACME, tenant_id="acme", address="a@x.test")
        with pytest.raises(RefusedError, match="operators-only"):
            suppressions.remove(session, ZENITH, tenant_id="", address="a@x.test")
        with pytest.raises(RefusedError, match="operators-only"):
            suppressions.prune(session, ZENITH, now=NOW)
        suppressions.remove(session, ZENITH, tenant_id="zenith", address="a@x.test")
        assert [row.tenant_id for row in suppressions.every(session, OPERATOR)] == [""]


#: Functions that take a session and no caller, and why that is right. All others start at the caller's tenant.
_WITHOUT_CALLER = {
    "tenants.taken": "a prefix is taken whoever asks and whoever may see its owner; for checks only",
    "routers.elsewhere": "a device id is looked for at all sites: that is how a router that was moved is noticed",
    "tokens.find": "who has a token has proved nothing else yet; its hash names one row",
    "certificates.by_serial": "the PKI's own records, as all of certificates: what the peer showed names one row",
    "certificates.counting": "the PKI's own records; the subject comes from a site that was looked up for a caller",
    "certificates.current": "the same",
    "certificates.issued_since": "the same",
    "certificates.record": "the same",
    "certificates.revoke_all": "the same",
    "certificates.keep_revocation_list": "revocation lists are public (RFC 5280 section 5)",
    "certificates.revocation_list": "the same",
    "certificates.revocation_lists": "the same",
    "certificates.revoked_by": "what such a list says",
    "certificates.last_revocations": "gateways end tunnels of all tenants",
    "certificates.standing": "as counting",
    "certificates.still_certified": "a prefix is taken whoever asks; for checks only",
    "inventory.load": "the compiler of everybody's rules reads it; what a person is told of it is cut to the caller's",
    "inventory.load_shared": "what each tenant may use",
    "inventory.load_tenant": "the tenant is the argument; it was looked up for a caller",
    "inventory.platform_source": "stands above all tenants; its text is shown to operators only",
    "inventory.policy_sources": "as inventory.load",
    "inventory.revisions": "random numbers, for daemons",
    "releases.every": "releases are everybody's; publishing and yanking them is the operators'",
    "rollouts.at_work": "the worker's: two gateways of a site exclude each other, whichever rollout they are in",
    "rollouts.offered_to": "the heartbeat's: the site proved who it is, and the row found is its own",
    "rollouts.open_visits": "the heartbeat's, for the same site; it says yes or no",
    "rollouts.record_progress": "the worker's, about a rollout that it has looked up",
    "rollouts.record_targets": "the same; an abort's are those of a rollout that was looked up for a caller",
    "rollouts.seen": "the worker's, about a rollout that it has looked up; shown to nobody",
    "rollouts.taken": "a site is in one rollout at a time, whoever's; for checks of sites looked up for a caller",
    "upserts.upsert": "writes rows that a function with a caller has made",
}


def _querying() -> dict[str, inspect.Signature]:
    """Every public function of the registry that takes a session."""
    found = {}
    for module in pkgutil.iter_modules(registry.__path__):
        if module.name in ("migrations", "tables"):
            continue
        loaded = importlib.import_module(f"{registry.__name__}.{module.name}")
        for name, function in inspect.getmembers(loaded, inspect.isfunction):
            signature = inspect.signature(function)
            if (
                function.__module__ == loaded.__name__
                and not name.startswith("_")
                and "session" in signature.parameters
            ):
                found[f"{module.name}.{name}"] = signature
    return found


def test_every_query_starts_at_a_caller_or_has_a_reason_not_to() -> None:
    querying = _querying()
    assert len(querying) > 50
    assert {name for name, signature in querying.items() if "caller" not in signature.parameters} == set(
        _WITHOUT_CALLER
    )
    for name, signature in querying.items():
        if "caller" in signature.parameters:
            # Nobody is let in by being left out.
            assert signature.parameters["caller"].default is inspect.Parameter.empty, name
