"""What is told to the registry, on a thread of its own: a locked registry must not hold up a revocation.

The newest report is written, older ones are dropped (what it changes: ledger). A failure is logged and the next
report says it all again. With each report goes what charon's log says of attempts that failed (witness).

What is counted is told every FLUSH_S seconds and at the end; what could not be told stays for the next time.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cloudside.datapath.flow_watch import Batch
from cloudside.datapath.problems import Problem
from cloudside.errors import KyotenError
from cloudside.registry import counters, reports, usage
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.vpn.ledger import Ledger, Report
from cloudside.vpn.usage import UsageTeller, hour_of
from cloudside.vpn.witness import Witness
from linux.errors import LinuxError

__all__ = ["Accounts", "Report", "Reporter", "write_counts"]

log = structlog.get_logger("kyoten.gateway")

#: Seconds at least between two reports: while a thousand sites come at once each would tell of a few more. After one
#: with MANY more or fewer tunnels than the one before it is longer.
APART_S, APART_MANY_S, MANY = 1.0, 3.0, 25
#: Seconds between tellings of what was counted: as much is lost when the process is killed.
FLUSH_S = 10.0


class Accounts(Protocol):
    """What is counted here (datapath.flow_watch)."""

    def take(self, now: datetime) -> Batch:
        """What is new."""
        ...

    def settle(self, batch: Batch) -> None:
        """It is told."""
        ...

    def give_back(self, batch: Batch) -> None:
        """It could not be told."""
        ...

    def missed(self, since: datetime, until: datetime) -> None:
        """Nobody counted in between."""
        ...

    def problems(self) -> tuple[Problem, ...]:
        """What was not counted."""
        ...


def write_counts(database: Database, batch: Batch, *, gateway: str) -> None:
    """Write what was counted in one transaction. Raises what the registry raises."""
    if batch.uses or batch.refused or batch.memberships:
        with database.record() as session:
            counters.add_uses(session, OPERATOR, batch.uses)
            counters.add_refused(session, OPERATOR, batch.refused, gateway=gateway)
            hour = hour_of(datetime.now(UTC))
            usage.add_memberships(session, OPERATOR, batch.memberships, gateway=gateway, hour=hour)


class Reporter:
    """Writes the newest report as soon as it can, and what is counted now and then."""

    def __init__(
        self,
        database: Database,
        accounts: Accounts | None = None,
        *,
        gateway: str = "",
        witness: Witness | None = None,
        teller: UsageTeller | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._witness = witness
        self._teller = teller
        self._ledger = Ledger()
        self._accounts = accounts
        self._gateway = gateway
        self._clock = clock
        self._flush_at = clock() + FLUSH_S
        self._looked_back = accounts is None
        self._next: Report | None = None
        self._report_at = clock()
        #: In the last report.
        self._tunnels = 0
        self._stopped = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def submit(self, report: Report) -> None:
        """Hand over a report; returns at once."""
        with self._condition:
            self._next = report
            self._condition.notify()

    def stop(self) -> None:
        """Write what was handed over and what is counted, then end; gives up after some seconds."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        self._thread.join(timeout=10)

    def _take(self) -> tuple[Report | None, bool]:
        """The next report, if there is one before the next flush is due; and whether it is the end."""
        wait_s = None if self._accounts is None else max(0.0, self._flush_at - self._clock())
        with self._condition:
            self._condition.wait_for(lambda: self._next is not None or self._stopped, wait_s)
            self._condition.wait_for(lambda: self._stopped, max(0.0, self._report_at - self._clock()))
            report, self._next = self._next, None
            tunnels = len(report.live) if report is not None and report.live is not None else self._tunnels
            many = abs(tunnels - self._tunnels) >= MANY
            self._report_at = self._clock() + (APART_MANY_S if many else APART_S)
            self._tunnels = tunnels
            return report, self._stopped

    def _run(self) -> None:
        ended = False
        while not ended:
            report, ended = self._take()
            try:
                self._tell(report, ended=ended)
            except Exception:
                # A bug in one telling must not end all that follow: nobody would hear of the gateway again.
                log.exception("telling-crashed")

    def _tell(self, report: Report | None, *, ended: bool) -> None:
        try:
            if not self._looked_back:
                self._look_back()
            if report is not None:
                told = self._accounts.problems() if self._accounts is not None else ()
                self._write(replace(report, problems=(*report.problems, *told)))
        except (KyotenError, SQLAlchemyError, OSError) as error:
            log.warning("report-not-written", reason=str(error))
        if self._teller is not None:
            self._tell_usage(self._teller, report, ended=ended)
        if self._accounts is not None and (ended or self._clock() >= self._flush_at):
            self._flush(self._accounts)

    def _write(self, report: Report) -> None:
        if self._witness is None:
            self._ledger.write(self._database, report)
            return
        causes = self._witness.look()
        self._ledger.write(self._database, report, causes, charon_started_at=self._witness.started_at)

    def _tell_usage(self, teller: UsageTeller, report: Report | None, *, ended: bool) -> None:
        try:
            if report is not None:
                teller.note(report.live, report.at)
            teller.tick(datetime.now(UTC), last=ended)
        except (KyotenError, LinuxError, SQLAlchemyError, OSError) as error:
            log.warning("usage-not-told", reason=str(error))

    def _look_back(self) -> None:
        """Since when nobody counted: since the last report of the process before."""
        with self._database.read() as session:
            states = {state.name: state.seen_at for state in reports.gateways(session, OPERATOR)}
        if self._accounts is not None and self._gateway in states:
            self._accounts.missed(states[self._gateway], datetime.now(UTC))
        self._looked_back = True

    def _flush(self, accounts: Accounts) -> None:
        self._flush_at = self._clock() + FLUSH_S
        batch = accounts.take(datetime.now(UTC))
        try:
            write_counts(self._database, batch, gateway=self._gateway)
        except (KyotenError, SQLAlchemyError, OSError) as error:
            accounts.give_back(batch)
            log.warning("counts-not-written", reason=str(error))
        else:
            accounts.settle(batch)
