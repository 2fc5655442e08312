"""A PostgreSQL server of one's own, for tests: in a new directory, on a Unix socket, as a user without rights.

Nothing of it outlives its owner: the server ends when the process that started it does.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

#: Seconds that the server has to start or to end.
_WAIT_S = 30.0
#: Durability is not what is tested: without it a test takes a tenth of the time.
_OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "autovacuum": "off",
}
#: PostgreSQL refuses to run as root; Debian's package brings this user.
_USER = "postgres"


class PostgresqlServer:
    """A server and the databases in it. The superuser is ``kyoten``, without a password."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database."""
        return f"postgresql://kyoten@/{database}?host={self._directory}"

    def execute(self, statement: str, *, database: str = "postgres") -> None:
        """Run one statement outside of a transaction."""
        with psycopg.connect(self._dsn(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def start(self) -> None:
        """Start the server; returns when it takes connections."""
        options = [word for name, value in _OPTIONS.items() for word in ("-c", f"{name}={value}")]
        argv = [str(_programs() / "postgres"), "-D", str(self._data), "-k", str(self._directory), *options]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_as_user("--pdeathsig", "INT"), *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                psycopg.connect(self._dsn("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """End the server as a crash of the machine would: connections break, what was committed is there."""
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: "immediate shutdown", with recovery at the next start
            self._process.wait(_WAIT_S)
            self._process = None

    def initialise(self) -> None:
        """Make the empty cluster. Raises CalledProcessError."""
        argv = [str(_programs() / "initdb"), "-D", str(self._data), "-U", "kyoten", "-A", "trust", "-E", "UTF8"]
        subprocess.run(
            [*_as_user(), *argv, "--locale=C.UTF-8", "--no-sync"],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _dsn(self, database: str) -> str:
        return f"host={self._directory} user=kyoten dbname={database}"


@contextmanager
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A running server that is gone with its data at the end."""
    # Not below pytest's directories: the server's user may not enter them. And a socket's path has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="kyoten-pg-"))
    try:
        if os.getuid() == 0:
            shutil.chown(directory, _USER, _USER)
        server = PostgresqlServer(directory)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _as_user(*options: str) -> list[str]:
    if os.getuid() != 0:
        return ["setpriv", *options]
    user = pwd.getpwnam(_USER)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *options]


def _programs() -> Path:
    """Where Debian keeps the newest installed version's programs: not on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        raise FileNotFoundError("PostgreSQL is not installed: run lab/setup.sh")
    return found[-1]
