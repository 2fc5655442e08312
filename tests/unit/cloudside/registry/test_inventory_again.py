"""Tenants that are looked at again, whatever the marks of writing sessions say."""

from sqlalchemy import text

from cloudside.registry import inventory
from cloudside.registry.database import Database
from cloudside.registry.inventory import InventoryReader
from cloudside.registry.revisions import SHARED
from rules.parts import parts_of


def _behind_its_back(database: Database, statement: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(text(statement))


def test_only_the_tenant_that_is_looked_at_again_is_compared(populated: Database) -> None:
    reader = InventoryReader()
    with populated.read() as session:
        reader.read(session)
    _behind_its_back(populated, "UPDATE sites SET phase = 'retired' WHERE id = 'osaka-1'")
    with populated.read() as session:
        assert reader.read(session, again=["acme"]).changed == set()
        found = reader.read(session, again=["zenith"])
        assert found.changed == {"zenith"}
        assert found.parts == parts_of(inventory.load(session))


def test_what_is_shared_is_compared_too(populated: Database) -> None:
    reader = InventoryReader()
    with populated.read() as session:
        reader.read(session)
    _behind_its_back(populated, "UPDATE servers SET address = '10.254.0.99' WHERE id = 'web'")
    with populated.read() as session:
        assert reader.read(session).changed == set()
        assert reader.read(session, again=[]).changed == {SHARED}


def test_a_tenant_that_came_without_a_mark_is_found(populated: Database) -> None:
    reader = InventoryReader()
    with populated.read() as session:
        reader.read(session)
    _behind_its_back(
        populated, "INSERT INTO tenants (id, block, created_at) VALUES ('new', '10.77.0.0/16', '2026-11-22 00:00:00')"
    )
    with populated.read() as session:
        assert reader.read(session, again=[]).changed == {"new"}
