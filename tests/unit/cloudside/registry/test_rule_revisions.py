"""Each write that changes what the rules read marks the tenants concerned, and nobody else."""

import ast
import inspect as python_inspect
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from registry_engines import Engine
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.orm import Session

import cloudside
from cloudside.registry import (
    counters,
    devices,
    grants,
    inventory,
    platform_policies,
    policies,
    reports,
    servers,
    settings,
    sites,
    tenants,
)
from cloudside.registry.callers import OPERATOR
from cloudside.registry.counted import Refused, StatementUse
from cloudside.registry.database import Database
from cloudside.registry.revisions import SHARED
from cloudside.registry.tables import Device, Heartbeat, Policy, RuleRevision, Server, Site

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
OVERLAY = ip_network("10.0.0.0/8")
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEBExWqSt9qutJ54/n9Cy2zWeGl9ZGHWU4ZNJ919mV92"
EVERYONE = {SHARED, "acme", "zenith"}

Act = Callable[[Session], object]


@pytest.fixture(scope="session")
def stocked_template(engine: Engine, populated_template: str) -> str:
    url = engine.new(populated_template)
    with closing(Database(url)) as database, database.write() as s:
        _grant(s, "01")
        policies.add_version(s, OPERATOR, tenant_id="acme", text="", file_name="a", author="ann", now=NOW)
    return url


@pytest.fixture
def stocked(engine: Engine, stocked_template: str) -> Iterator[Database]:
    """The populated registry with a grant and a policy of acme's."""
    url = engine.new(stocked_template)
    with closing(Database(url)) as database:
        yield database
    engine.drop(url)


def _grant(session: Session, grant_id: str) -> None:
    grants.add(
        session, OPERATOR, grant_id=grant_id, tenant_id="acme", source="web", destination="tokyo-1/plc", services="ssh",
        starts_at=NOW, ends_at=NOW + timedelta(hours=2), reason="visit", author="ann", overlay=OVERLAY, now=NOW,
    )  # fmt: skip


def _revisions(database: Database) -> dict[str, int]:
    with database.read() as session:
        return dict(inventory.revisions(session))


def _marked_by(database: Database, act: Act) -> set[str]:
    before = _revisions(database)
    with database.write() as session:
        act(session)
    after = _revisions(database)
    return {scope for scope in {*before, *after} if before.get(scope) != after.get(scope)}


def _site(session: Session, site_id: str) -> Site:
    return sites.get(session, OPERATOR, site_id)


#: Every function of the registry that writes what the rules read, and whom it marks.
_FUNCTIONS: dict[str, tuple[Act, set[str]]] = {
    "tenants.add": (lambda s: tenants.add(s, OPERATOR, tenant_id="new", overlay=OVERLAY, now=NOW), {"new"}),
    "sites.add": (lambda s: sites.add(s, OPERATOR, site_id="kobe-1", tenant_id="acme", now=NOW), {"acme"}),
    "sites.change": (lambda s: sites.change(s, OPERATOR, site_id="osaka-1", phase="retired"), {"zenith"}),
    "sites.move": (
        lambda s: sites.move(s, OPERATOR, site_id="osaka-1", overlay="10.20.7.0/24", now=NOW),
        {"zenith"},
    ),
    "devices.add": (
        lambda s: devices.add(s, OPERATOR, site_id="osaka-1", name="x", lan_address="192.168.1.9"),
        {"zenith"},
    ),
    "devices.pin_host_key": (
        lambda s: devices.pin_host_key(s, OPERATOR, site_id="osaka-1", name="plc", ssh_host_key=HOST_KEY),
        {"zenith"},
    ),
    "devices.remove": (lambda s: devices.remove(s, OPERATOR, site_id="tokyo-1", name="plc"), {"acme"}),
    "servers.add": (
        lambda s: servers.add(s, OPERATOR, server_id="ntp", address="10.254.0.12", overlay=OVERLAY),
        {SHARED},
    ),
    "servers.remove": (lambda s: servers.remove(s, OPERATOR, server_id="db"), {"acme"}),
    "policies.add_version": (
        lambda s: policies.add_version(s, OPERATOR, tenant_id="zenith", text="", file_name="", author="", now=NOW),
        {"zenith"},
    ),
    "platform_policies.add_version": (
        lambda s: platform_policies.add_version(s, OPERATOR, text="", file_name="", author="", now=NOW),
        {SHARED},
    ),
    "grants.add": (lambda s: _grant(s, "02"), {"acme"}),
    "grants.end": (lambda s: grants.end(s, OPERATOR, grant_id="01", now=NOW), {"acme"}),
}


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_each_writing_function_marks_whose_rules_change(stocked: Database, name: str) -> None:
    act, scopes = _FUNCTIONS[name]
    assert _marked_by(stocked, act) == scopes


def test_no_writing_function_is_left_out_above() -> None:
    modules: list[ModuleType] = [tenants, sites, devices, servers, policies, platform_policies, grants]
    writing = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in modules
        for name, function in python_inspect.getmembers(module, python_inspect.isfunction)
        if function.__module__ == module.__name__ and "session.flush()" in python_inspect.getsource(function)
    }
    assert writing == set(_FUNCTIONS)


_OBJECTS: dict[str, tuple[Act, set[str]]] = {
    "site revoked": (lambda s: setattr(_site(s, "tokyo-1"), "revoked_at", NOW), {"acme"}),
    "site moved": (lambda s: setattr(_site(s, "tokyo-1"), "tenant_id", "zenith"), {"acme", "zenith"}),
    "server offered to all": (
        lambda s: setattr(servers.get(s, OPERATOR, "db"), "tenant_id", None),
        {"acme", SHARED},
    ),
    "server without a word about its tenant": (
        lambda s: s.add(Server(id="ntp", address=ip_address("10.254.0.12"))),
        {SHARED},
    ),
    "device moved": (
        lambda s: setattr(devices.get(s, OPERATOR, "tokyo-1", "plc"), "site_id", "kobe-1"),
        {"acme", "zenith"},
    ),
    "policy deleted": (lambda s: s.delete(policies.in_force(s, OPERATOR, "acme")), {"acme"}),
}


@pytest.mark.parametrize("name", _OBJECTS)
def test_objects_that_change_by_themselves_mark_too(stocked: Database, name: str) -> None:
    act, scopes = _OBJECTS[name]
    if name == "device moved":
        with stocked.write() as session:
            sites.add(session, OPERATOR, site_id="kobe-1", tenant_id="zenith", lan="192.168.1.0/24", now=NOW)
    assert _marked_by(stocked, act) == scopes


def test_owner_before_a_move_is_known_of_an_object_that_was_not_loaded(stocked: Database) -> None:
    def move(session: Session) -> None:
        site = _site(session, "tokyo-1")
        session.expire(site)
        site.tenant_id = "zenith"

    def remove(session: Session) -> None:
        server = servers.get(session, OPERATOR, "db")
        session.expire(server)
        session.delete(server)

    assert _marked_by(stocked, move) == {"acme", "zenith"}
    assert _marked_by(stocked, remove) == {"acme"}


_STATEMENTS: dict[str, Act] = {
    "update": lambda s: s.execute(update(Site).where(Site.id == "tokyo-1").values(phase="retired")),
    "update of a plain table": lambda s: s.execute(update(Site.__table__).values(phase="retired")),  # type: ignore[arg-type]
    "delete": lambda s: s.execute(delete(Device)),
    "insert": lambda s: s.execute(
        insert(Policy),
        [{"tenant_id": "acme", "version": 9, "text": "", "file_name": "", "author": "", "applied_at": NOW}],
    ),
    "text": lambda s: s.execute(text("UPDATE sites SET phase = 'retired'")),
}


@pytest.mark.parametrize("name", _STATEMENTS)
def test_statement_without_objects_is_refused(stocked: Database, name: str) -> None:
    """What it changed would be unknown to the audit log and to the marks."""
    before = _revisions(stocked)
    with pytest.raises(TypeError, match="without objects"), stocked.write() as session:
        _STATEMENTS[name](session)
    assert _revisions(stocked) == before


_HARMLESS: dict[str, Act] = {
    "nothing": lambda _: None,
    "reading": lambda s: (inventory.load(s), tenants.every(s, OPERATOR), s.execute(select(Site.id)).all()),
    "the same value again": lambda s: sites.change(s, OPERATOR, site_id="tokyo-1", phase="operation"),
    "heartbeat": lambda s: reports.record_heartbeat(
        s, OPERATOR, site_id="tokyo-1", received_at=NOW, source=ip_address("10.10.0.1"), report={}
    ),
    "settings": lambda s: settings.add_version(s, OPERATOR, site_id="tokyo-1", values={}, author="a", now=NOW),
    "statement on another table": lambda s: s.execute(delete(Heartbeat)),
    "counters": lambda s: counters.add_uses(s, OPERATOR, [StatementUse("acme/web", NOW.date(), 1, 2, 3, NOW)]),
    "refused": lambda s: counters.add_refused(
        s,
        OPERATOR,
        [Refused("acme", "a", "10.0.0.1", "b", "10.0.0.2", "tcp/1", "rules.denied", {}, (), NOW)],
        gateway="gw1",
    ),
}


@pytest.mark.parametrize("name", _HARMLESS)
def test_what_the_rules_do_not_read_marks_nobody(stocked: Database, name: str) -> None:
    assert _marked_by(stocked, _HARMLESS[name]) == set()


def test_write_that_fails_marks_nobody(stocked: Database) -> None:
    before = _revisions(stocked)
    with pytest.raises(RuntimeError), stocked.write() as session:
        sites.change(session, OPERATOR, site_id="tokyo-1", phase="retired")
        raise RuntimeError
    assert _revisions(stocked) == before


def test_write_that_is_undone_in_part_marks_the_rest(stocked: Database) -> None:
    def act(session: Session) -> None:
        undone = session.begin_nested()
        sites.change(session, OPERATOR, site_id="osaka-1", phase="retired")
        undone.rollback()
        sites.change(session, OPERATOR, site_id="tokyo-1", phase="retired")

    assert _marked_by(stocked, act) == {"acme"}


def test_each_change_gets_a_number_of_its_own(stocked: Database) -> None:
    seen = set()
    for phase in ("retired", "operation", "retired"):
        with stocked.write() as session:
            sites.change(session, OPERATOR, site_id="tokyo-1", phase=phase)
        seen.add(_revisions(stocked)["acme"])
    assert len(seen) == 3
    assert all(0 <= number < 2**63 for number in seen)  # fits a database's integer


def test_tenants_from_before_have_a_revision_after_the_migration(engine: Engine) -> None:
    url = engine.new()
    database = Database(url)
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(inventory.__file__).parent / "migrations"))
    with database.engine.begin() as connection:
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "0001")
        connection.exec_driver_sql("INSERT INTO tenants VALUES ('acme', '10.10.0.0/16', '2026-11-21 00:00:00')")
    database.migrate()
    assert set(_revisions(database)) == {SHARED, "acme"}
    with database.engine.begin() as connection:
        configuration.attributes["connection"] = connection
        command.downgrade(configuration, "0001")
    names = set(sqlalchemy.inspect(database.engine).get_table_names())
    database.close()
    engine.drop(url)
    assert "tenants" in names
    assert not names & {"rule_revisions", "grants", "platform_policies"}


def test_our_sources_never_write_past_the_session() -> None:
    """What no session sees would mark nobody."""
    allowed = {f"cloudside/registry/{name}.py" for name in ("database", "revisions", "inventory", "auditing")}
    root = Path(cloudside.__file__).parent.parent
    passing = {"bulk_save_objects", "bulk_insert_mappings", "bulk_update_mappings", "exec_driver_sql", "connection"}
    found = {
        f"{path.relative_to(root)}:{node.lineno}"
        for path in (root / "cloudside").rglob("*.py")
        if str(path.relative_to(root)) not in allowed
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in passing and ast.unparse(node.value).endswith("session")
    }
    assert found == set()


def test_every_tenant_has_a_revision(stocked: Database) -> None:
    with stocked.read() as session:
        assert set(session.scalars(select(RuleRevision.scope))) == EVERYONE
