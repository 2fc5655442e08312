"""The two engines as tests meet them: where registries come from, and the way past our sessions."""

import shutil
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Protocol

import psycopg
from sqlalchemy import make_url

from lab.postgresql import PostgresqlServer


class Engine(Protocol):
    """Makes registries and takes them away."""

    name: str

    def new(self, base: str | None = None) -> str:
        """The URL of a new registry: a copy of the one at ``base``, which nobody uses; or nothing yet."""
        ...

    def drop(self, url: str) -> None:
        """Take a registry away."""
        ...

    def execute(self, url: str, *statements: str) -> list[tuple[object, ...]]:
        """Statements that no session of ours sees, in one transaction; the rows of the last one."""
        ...


class SqliteEngine:
    """Files in one directory."""

    name = "sqlite"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = count()

    def new(self, base: str | None = None) -> str:
        path = self._directory / f"{next(self._numbers)}.sqlite"
        if base is not None:
            shutil.copy(path_of(base), path)
        return f"sqlite:///{path}"

    def drop(self, url: str) -> None:
        path = path_of(url)
        for left in ("", "-wal", "-shm"):
            path.with_name(path.name + left).unlink(missing_ok=True)

    def execute(self, url: str, *statements: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(path_of(url))) as raw:
            rows: list[tuple[object, ...]] = []
            for statement in statements:
                rows = raw.execute(statement).fetchall()
            raw.commit()
        return rows


class PostgresqlEngine:
    """Databases of one server."""

    name = "postgresql"

    def __init__(self, server: PostgresqlServer, prefix: str = "registry") -> None:
        self._server = server
        self._prefix = prefix
        self._numbers = count()

    def new(self, base: str | None = None) -> str:
        name = f"{self._prefix}{next(self._numbers)}"
        template = "template0" if base is None else make_url(base).database
        self._server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self._server.url(name)

    def drop(self, url: str) -> None:
        self._server.execute(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")

    def execute(self, url: str, *statements: str) -> list[tuple[object, ...]]:
        place = make_url(url)
        with psycopg.connect(f"host={place.query['host']} user={place.username} dbname={place.database}") as connection:
            rows: list[tuple[object, ...]] = []
            for statement in statements:
                cursor = connection.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description is not None else []
        return rows


def path_of(url: str) -> Path:
    """SQLite's file."""
    found = make_url(url).database
    assert found is not None
    return Path(found)
