"""The two engines as the queue's tests meet them, and messages to put in."""

import sqlite3
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import psycopg

from cloudside.mail.model import Kind, NewMessage
from cloudside.mail.store.links import SCHEMA
from cloudside.mail.store.postgresql import PostgresqlEngine
from cloudside.mail.store.queue import FILE_NAME, Queue
from lab.postgresql import PostgresqlServer

NOW = 1_800_000_000.0
HEAD = b"Subject: s\r\nFrom: <p@site.test>\r\n"
BODY = b"body\r\n"


class Place(Protocol):
    """Where a queue lies. ``open`` again after a close is a restart."""

    name: str
    directory: Path

    def open(self, relay: str = "relay1") -> Queue: ...

    def rows(self, statement: str) -> list[Any]: ...


class SqlitePlace:
    """A directory."""

    name = "sqlite"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self, relay: str = "relay1") -> Queue:
        return Queue(self.directory, reserve_bytes=0)

    def rows(self, statement: str) -> list[Any]:
        connection = sqlite3.connect(f"file:{self.directory / FILE_NAME}?mode=ro", uri=True)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()


class PostgresqlPlace:
    """A database of a server that all tests share."""

    name = "postgresql"
    _numbers = count()

    def __init__(self, server: PostgresqlServer, directory: Path, *, lease_s: float = 60.0) -> None:
        self.server = server
        self.directory = directory
        self.database = f"queue{next(self._numbers)}"
        self.lease_s = lease_s
        server.execute(f"CREATE DATABASE {self.database}")

    @property
    def url(self) -> str:
        return self.server.url(self.database)

    def open(self, relay: str | None = "relay1") -> Queue:
        directory = self.directory / (relay or "nobody")
        engine = PostgresqlEngine(self.url, relay=relay, lease_s=self.lease_s)
        return Queue(directory, engine=engine, reserve_bytes=0)

    def rows(self, statement: str) -> list[Any]:
        place = self.url.partition("host=")[2]
        with psycopg.connect(f"host={place} user=kyoten dbname={self.database}") as connection:
            connection.execute(f"SET search_path = {SCHEMA}".encode())
            return connection.execute(statement.encode()).fetchall()

    def drop(self) -> None:
        self.server.execute(f"DROP DATABASE {self.database} WITH (FORCE)")


def message(number: int = 1, *, at: float = NOW, **given: Any) -> NewMessage:
    """A mail of site tokyo-1 of acme to one recipient, but for what is ``given``."""
    words: dict[str, Any] = {
        "kind": Kind.MAIL,
        "origin": "tokyo-1",
        "source": "10.0.0.1",
        "sender": "p@site.test",
        "recipients": ("a@x.test",),
        "subject": f"s{number}",
        "head": HEAD,
        "body": BODY,
        "tenant": "acme",
        "device": "10.0.0.1",
    }
    if given.get("kind", Kind.MAIL) is not Kind.MAIL:
        words |= {"origin": "", "source": "", "sender": "", "tenant": "", "device": "", "automatic": True}
    return NewMessage(id=number, accepted_at=at, **(words | given))
