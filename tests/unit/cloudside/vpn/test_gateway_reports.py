import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest

from cloudside.config import Config
from cloudside.datapath.flow_watch import Batch
from cloudside.datapath.problems import Problem, problem
from cloudside.registry import counters, reports
from cloudside.registry.callers import OPERATOR
from cloudside.registry.counted import StatementUse
from cloudside.registry.database import Database
from cloudside.registry.tables import GatewayState
from cloudside.vpn.reports import Report, Reporter
from cloudside.vpn.tunnels import Live

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
TOKYO = Live("tokyo", (ip_network("10.10.1.0/24"),), "198.51.100.7", "AES_GCM_16-256", 60)


def _report(*live: Live, at: datetime = NOW, unknown: bool = False) -> Report:
    tunnels = None if unknown else {one.site: one for one in live}
    return Report("gw1", at, "abc", "userland", tunnels, (problem("datapath.drift", what="FORWARD"),))


def _gateway(database: Database) -> GatewayState:
    with database.read() as session:
        return reports.gateways(session, OPERATOR)[0]


def test_reporter_survives_a_registry_that_is_away_and_writes_the_newest(config: Config, database: Database) -> None:
    registry = config.state_directory / "registry.sqlite"
    broken = Reporter(Database(f"sqlite:///{config.state_directory / 'none' / 'x'}"))
    broken.start()
    broken.submit(_report())
    broken.stop()
    assert registry.exists()
    reporter = Reporter(database)
    reporter.start()
    for minute in range(20):
        reporter.submit(_report(at=NOW + timedelta(minutes=minute)))
    reporter.stop()
    assert _gateway(database).seen_at == NOW + timedelta(minutes=19)


class _Accounts:
    """Counts one flow a taking; remembers what became of it."""

    def __init__(self) -> None:
        self.settled: list[Batch] = []
        self.returned: list[Batch] = []
        self.gaps: list[tuple[datetime, datetime]] = []

    def take(self, now: datetime) -> Batch:
        return Batch((StatementUse("acme/web", now.date(), 1, 2, 3, now),), (), {})

    def settle(self, batch: Batch) -> None:
        self.settled.append(batch)

    def give_back(self, batch: Batch) -> None:
        self.returned.append(batch)

    def missed(self, since: datetime, until: datetime) -> None:
        self.gaps.append((since, until))

    def problems(self) -> tuple[Problem, ...]:
        return (problem("datapath.counting-lost"),)


def _flows(database: Database) -> int:
    with database.read() as session:
        return sum(total.flows for total in counters.totals(session, OPERATOR, "acme", since=NOW.date()).values())


def _one_run(database: Database, accounts: _Accounts) -> None:
    reporter = Reporter(database, accounts, gateway="gw1")
    reporter.start()
    reporter.submit(_report())
    reporter.stop()


def test_what_was_counted_is_told_at_the_end_and_its_problems_with_the_report(database: Database) -> None:
    accounts = _Accounts()
    _one_run(database, accounts)
    assert (len(accounts.settled), accounts.returned, accounts.gaps) == (1, [], [])
    assert _flows(database) == 1
    assert [found["key"] for found in _gateway(database).report["problems"]] == [
        "datapath.drift",
        "datapath.counting-lost",
    ]


def test_time_between_two_processes_is_told_of(database: Database) -> None:
    _one_run(database, _Accounts())
    accounts = _Accounts()
    _one_run(database, accounts)
    assert [since for since, _ in accounts.gaps] == [NOW]
    assert _flows(database) == 2


def test_counts_that_cannot_be_written_are_given_back(config: Config) -> None:
    accounts = _Accounts()
    _one_run(Database(f"sqlite:///{config.state_directory / 'none' / 'x'}"), accounts)
    assert (accounts.settled, len(accounts.returned)) == ([], 1)


def test_counts_are_told_in_between(config: Config, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudside.vpn.reports.FLUSH_S", 0.05)
    accounts = _Accounts()
    reporter = Reporter(database, accounts, gateway="gw1")
    reporter.start()
    deadline = time.monotonic() + 5
    while len(accounts.settled) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    told = len(accounts.settled)
    reporter.stop()
    assert told >= 2
    assert _flows(database) == len(accounts.settled)
