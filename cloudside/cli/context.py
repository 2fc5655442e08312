"""What a command works with: the configuration, the registry, and on whose behalf. All made when first used."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloudside.errors import RefusedError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from cloudside.config import Config
    from cloudside.registry.callers import Caller
    from cloudside.registry.database import Database


@dataclass
class Cli:
    """One run of the command. ``tenant`` None: an operator; else that tenant's administrator, who sees nothing else."""

    config_path: Path
    tenant: str | None = None
    as_json: bool = False
    #: The daemon that this run is, if it is one: then nobody types, and the audit log has the daemon's name.
    daemon: str | None = None

    @cached_property
    def config(self) -> "Config":
        """Raises ConfigurationError."""
        from cloudside.config import load

        return load(self.config_path)

    @cached_property
    def database(self) -> "Database":
        """Raises ConfigurationError: not there, or of another version."""
        from cloudside.registry.database import Database

        database = Database(self.config.registry_url, actor=self.daemon or self.person)
        database.require_current()
        return database

    @cached_property
    def caller(self) -> "Caller":
        """On whose behalf queries run. Raises InputError: no such tenant."""
        from cloudside.registry import tenants
        from cloudside.registry.callers import OPERATOR, Caller

        if self.tenant is None:
            return OPERATOR
        with self.database.read() as session:
            return Caller(tenants.get(session, OPERATOR, self.tenant).id)

    @contextmanager
    def read(self) -> "Iterator[tuple[Session, Caller]]":
        """A reading session and the caller."""
        caller = self.caller
        with self.database.read() as session:
            yield session, caller

    @contextmanager
    def write(self, *ring: str) -> "Iterator[tuple[Session, Caller]]":
        """A writing session and the caller; after the commit the daemons named in ``ring`` are told."""
        from cloudside.registry.database import Doorbell

        caller = self.caller
        with self.database.write() as session:
            yield session, caller
        for process in ring:
            Doorbell(self.config.runtime_directory, process, self.database).ring()

    @property
    def now(self) -> datetime:
        """The clock is read here and nowhere deeper."""
        return datetime.now(UTC)

    @property
    def person(self) -> str:
        """Who types, for the record: behind sudo the one who called it."""
        name = os.environ.get("SUDO_USER")
        if name:
            return name
        try:
            return pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            return f"uid {os.getuid()}"

    def close(self) -> None:
        """Give back what was opened."""
        if "database" in self.__dict__:
            self.database.close()


def cli_of(context: typer.Context) -> Cli:
    """The run that a command belongs to."""
    cli = context.find_root().obj
    if not isinstance(cli, Cli):
        raise TypeError("the command tree was entered without its root")
    return cli


def operators_cli_of(context: typer.Context) -> Cli:
    """The same, for what belongs to the service itself. Raises RefusedError when acting as a tenant's administrator."""
    cli = cli_of(context)
    if cli.tenant is not None:
        raise RefusedError("registry.operators-only", tenant=cli.tenant)
    return cli


def _wants_json(context: typer.Context, value: bool) -> bool:
    if value:
        cli_of(context).as_json = True
    return value


#: ``--json`` after a command means the same as before it.
JsonFlag = Annotated[bool, typer.Option("--json", help="JSON for programs.", callback=_wants_json)]
