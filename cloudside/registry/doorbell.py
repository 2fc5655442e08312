"""The doorbell: tells daemons that the registry changed. A lost ring costs one resync interval, not correctness.

On one machine it is a datagram socket in the runtime directory. With a PostgreSQL registry a ring goes to every node
as well (NOTIFY): whoever listens keeps a connection for it in a thread, which passes rings on to the socket. So a
daemon waits for one descriptor, whichever engine there is.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cloudside.errors import KyotenError

if TYPE_CHECKING:
    from cloudside.registry.database import Database

#: Seconds until a listener whose connection broke tries again.
RECONNECT_S = 1.0
#: Seconds between looks whether to stop; also how long a dead connection goes unnoticed at most without TCP's help.
LOOK_UP_S = 0.5

log = structlog.get_logger("kyoten.registry")


class Doorbell:
    """The bell of one kind of daemon (``process``). Without ``database`` it is heard on this machine only."""

    def __init__(self, runtime_directory: Path, process: str, database: "Database | None" = None) -> None:
        self.path = runtime_directory / f"{process}.doorbell"
        self._process = process
        self._database = database if database is not None and database.is_shared else None

    def ring(self) -> None:
        """Wake the daemons that listen, here and on other machines; silence is fine."""
        self._ring_here()
        if self._database is not None:
            with contextlib.suppress(KyotenError, SQLAlchemyError):
                self._database.notify(self._process)

    @contextlib.contextmanager
    def listen(self) -> Iterator[socket.socket]:
        """A datagram socket that becomes readable at each ring. Replaces one left by a dead process."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        with contextlib.ExitStack() as cleanup:
            receiver = cleanup.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            receiver.bind(str(self.path))
            if self._database is not None:
                stopped = threading.Event()
                thread = threading.Thread(
                    target=self._pass_on, args=(self._database, stopped), name="doorbell", daemon=True
                )
                thread.start()
                cleanup.callback(thread.join)
                cleanup.callback(stopped.set)
            yield receiver

    def _pass_on(self, database: "Database", stopped: threading.Event) -> None:
        """Rings of other machines become rings here. After a broken connection one at once: some may be lost."""
        told = False
        while not stopped.is_set():
            try:
                for _ in database.notifications(self._process, stopped, look_up_s=LOOK_UP_S):
                    told = False
                    self._ring_here()
            except (KyotenError, SQLAlchemyError, OSError) as error:
                if not told:
                    log.warning("doorbell-not-heard", reason=str(error))
                told = True
                stopped.wait(RECONNECT_S)

    def _ring_here(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            with contextlib.suppress(OSError):  # nobody listens, or its queue is full of rings already
                sender.sendto(b"\0", str(self.path))
