"""What is told to the registry, on a thread of its own: a locked registry must not hold up a revocation.

The newest report is written, older ones are dropped. Rows are compared with what stands there, so a report that
changes nothing writes one row. A failure is logged and the next report says it all again.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cloudside.datapath.problems import Problem
from cloudside.errors import KyotenError
from cloudside.registry import reports, sites
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.vpn.tunnels import Live

log = structlog.get_logger("kyoten.gateway")


@dataclass(frozen=True, slots=True)
class Report:
    """One gateway's state. ``live`` None: charon could not be asked, tunnels are left as they stand."""

    gateway: str
    at: datetime
    rule_set: str
    dataplane: str
    live: Mapping[str, Live] | None
    problems: tuple[Problem, ...]


def write(database: Database, report: Report) -> None:
    """Write a report in one transaction. Raises what the registry raises."""
    with database.write() as session:
        if report.live is not None:
            known = {site.id for site in sites.every(session, OPERATOR)}
            standing = {row.site_id: row for row in reports.tunnels(session, OPERATOR, gateway=report.gateway)}
            for site, tunnel in sorted(report.live.items()):
                row = standing.get(site)
                same = row is not None and row.up and (row.peer, row.suite) == (tunnel.peer, tunnel.suite[:100])
                if site in known and not same:
                    since = report.at - timedelta(seconds=tunnel.established_s)
                    reports.record_tunnel(
                        session, OPERATOR, site_id=site, gateway=report.gateway, up=True, since=since,
                        peer=tunnel.peer, suite=tunnel.suite,
                    )  # fmt: skip
            for site, row in standing.items():
                if row.up and site not in report.live:
                    reports.record_tunnel(
                        session, OPERATOR, site_id=site, gateway=report.gateway, up=False, since=report.at
                    )
        reports.record_gateway(
            session,
            OPERATOR,
            name=report.gateway,
            seen_at=report.at,
            rule_set=report.rule_set,
            dataplane=report.dataplane,
            report={"problems": [found.as_json() for found in report.problems]},
        )


class Reporter:
    """Writes the newest report as soon as it can."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next: Report | None = None
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
        """Write what was handed over, then end; gives up after some seconds."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        self._thread.join(timeout=10)

    def _take(self) -> Report | None:
        with self._condition:
            self._condition.wait_for(lambda: self._next is not None or self._stopped)
            report, self._next = self._next, None
            return report

    def _run(self) -> None:
        while (report := self._take()) is not None:
            try:
                write(self._database, report)
            except (KyotenError, SQLAlchemyError, OSError) as error:
                log.warning("report-not-written", reason=str(error))
