"""A queue of its own for each test. A test that takes ``place`` or ``queue`` runs on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from queue_places import Place, PostgresqlPlace, SqlitePlace

from cloudside.mail.store.queue import Queue
from lab.postgresql import PostgresqlServer, postgresql_server


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresqlServer]:
    with postgresql_server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        yield SqlitePlace(tmp_path)
        return
    made = PostgresqlPlace(request.getfixturevalue("server"), tmp_path)
    yield made
    made.drop()


@pytest.fixture
def queue(place: Place) -> Iterator[Queue]:
    opened = place.open()
    yield opened
    opened.close()
