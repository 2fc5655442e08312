"""A relay among several on one queue: its name is its own, and a dead one's mail is taken over.

A thread holds a lock on the name (PostgreSQL's advisory lock, which ends with the connection) and renews a lease by the
server's clock. What a relay was sending when its lease ran out goes back to the queue.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import structlog

from cloudside.errors import ConfigurationError, KyotenError
from cloudside.mail.store import moving
from cloudside.mail.store.engine import Session
from cloudside.mail.store.links import Link

log = structlog.get_logger(__name__)

#: Seconds without a sign of life after which a relay is taken for dead: longer than a restart of the server takes.
LEASE_S = 60.0
#: Seconds that a relay waits for its name, which a predecessor may not have let go of yet.
LOCK_WAIT_S = 3.0

_LIVING = "SELECT name FROM relays WHERE name <> ? AND until > extract(epoch FROM clock_timestamp())"
_RENEW = (
    "INSERT INTO relays (name, until) VALUES (?, extract(epoch FROM clock_timestamp()) + ?)"
    " ON CONFLICT (name) DO UPDATE SET until = excluded.until"
)


class Lease:
    """One relay's name and sign of life."""

    def __init__(
        self, link: Link, relay: str, *, lease_s: float = LEASE_S, clock: Callable[[], float] = time.time
    ) -> None:
        """Raises ConfigurationError: another relay has the name; UnavailableError."""
        self._link = link
        self._relay = relay
        self._lease_s = lease_s
        self._clock = clock
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        deadline = time.monotonic() + LOCK_WAIT_S
        while not self._lock():
            if time.monotonic() > deadline:
                link.close()
                raise ConfigurationError("mail.relay-name-in-use", name=relay)
            time.sleep(0.1)
        link.transact(self._renew)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mail-queue-lease", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give name and lease back."""
        self._stop.set()
        self._thread.join()
        with suppress(KyotenError):
            self._link.transact(lambda session: session.execute("DELETE FROM relays WHERE name = ?", (self._relay,)))
        self._link.close()

    def _work(self) -> None:
        trouble = ""
        while not self._stop.wait(self._lease_s / 6):
            try:
                self._renew_and_take_over()
                trouble = ""
            except KyotenError as error:
                if trouble != error.key:
                    log.error("queue-lease-not-renewed", relay=self._relay, reason=str(error))
                trouble = error.key
            except Exception as error:  # this thread must live, or the others take us for dead
                log.error("queue-lease-fault", relay=self._relay, exc_info=error)

    def _renew_and_take_over(self) -> None:
        if not self._lock():
            log.error("relay-name-taken", relay=self._relay)
            return
        self._link.transact(self._renew)
        taken = self._link.transact(
            lambda session: moving.recover(session, self._clock(), (*living(session, self._relay), self._relay))
        )
        if taken:
            log.warning("mail-taken-over", relay=self._relay, recipients=taken)

    def _lock(self) -> bool:
        """Have the name's lock on the connection of now; a new connection needs it anew."""
        connection = self._link.connect()
        if connection is self._connection:
            return True
        try:
            row = connection.execute(
                "SELECT pg_try_advisory_lock(hashtext('kyoten mail relay'), hashtext(%s))", (self._relay,)
            ).fetchone()
        except psycopg.Error as error:
            self._link.close()
            raise self._link.translated(error) from error
        if row is None or not row[0]:
            return False
        self._connection = connection
        return True

    def _renew(self, session: Session) -> None:
        session.execute(_RENEW, (self._relay, self._lease_s))


def living(session: Session, relay: str) -> list[str]:
    """Names of the other relays whose lease has not run out."""
    return [name for (name,) in session.execute(_LIVING, (relay,)).fetchall()]
