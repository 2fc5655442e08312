from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

from cloudside.config import Config
from cloudside.datapath.problems import problem
from cloudside.registry import reports
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.registry.tables import GatewayState, Tunnel
from cloudside.vpn.reports import Report, Reporter, write
from cloudside.vpn.tunnels import Live

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
TOKYO = Live("tokyo", (ip_network("10.10.1.0/24"),), "198.51.100.7", "AES_GCM_16-256", 60)


def _report(*live: Live, at: datetime = NOW, unknown: bool = False) -> Report:
    tunnels = None if unknown else {one.site: one for one in live}
    return Report("gw1", at, "abc", "userland", tunnels, (problem("datapath.drift", what="FORWARD"),))


def _tunnels(database: Database) -> dict[str, Tunnel]:
    with database.read() as session:
        return {row.site_id: row for row in reports.tunnels(session, OPERATOR)}


def _gateway(database: Database) -> GatewayState:
    with database.read() as session:
        return reports.gateways(session, OPERATOR)[0]


def test_state_and_problems_are_written(database: Database) -> None:
    write(database, _report())
    state = _gateway(database)
    assert (state.rule_set, state.dataplane, state.seen_at) == ("abc", "userland", NOW)
    assert state.report == {"problems": [{"key": "datapath.drift", "params": {"what": "FORWARD"}}]}


def test_tunnel_comes_up_since_it_was_established_and_goes_down(database: Database) -> None:
    write(database, _report(TOKYO))
    up = _tunnels(database)["tokyo"]
    assert (up.up, up.since, up.peer) == (True, NOW - timedelta(seconds=60), "198.51.100.7")
    later = NOW + timedelta(minutes=5)
    write(database, _report(at=later))
    down = _tunnels(database)["tokyo"]
    assert (down.up, down.since) == (False, later)
    assert "osaka" not in _tunnels(database)


def test_charon_that_could_not_be_asked_changes_no_tunnel(database: Database) -> None:
    write(database, _report(TOKYO))
    write(database, _report(unknown=True))
    assert _tunnels(database)["tokyo"].up


def test_tunnel_of_a_site_that_is_gone_does_not_spoil_the_report(database: Database) -> None:
    ghost = Live("ghost", (), "198.51.100.9", "", 1)
    write(database, _report(ghost, TOKYO))
    assert _tunnels(database).keys() == {"tokyo"}


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
