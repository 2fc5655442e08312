"""Reports as history: what is written, what is left out, and why a tunnel was lost."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest
from sqlalchemy import event

from cloudside.datapath.problems import Problem, problem
from cloudside.registry import history, reports
from cloudside.registry.callers import OPERATOR
from cloudside.registry.database import Database
from cloudside.registry.tables import GatewayState, SiteProblem, Tunnel, TunnelChange
from cloudside.vpn.causes import Cause
from cloudside.vpn.ledger import INHERITED_S, Ledger, Report
from cloudside.vpn.tunnels import Live

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
PEER = "198.51.100.7"


def _live(site: str = "tokyo", peer: str = PEER, established_s: int = 60) -> Live:
    return Live(site, (ip_network("10.10.1.0/24"),), peer, "AES_GCM_16-256", established_s, 2)


TOKYO = _live()


def _report(*live: Live, after_s: float = 0, unknown: bool = False, problems: Iterable[Problem] = ()) -> Report:
    tunnels = None if unknown else {one.site: one for one in live}
    at = NOW + timedelta(seconds=after_s)
    return Report("gw1", at, "abc", "userland", tunnels, (problem("datapath.drift", what="x"), *problems), "abc")


def _cause(key: str, site: str = "tokyo", *, after_s: float = 0, peer: str = PEER, ended: bool = False) -> Cause:
    return Cause(site, peer, f"causes.{key}", {"peer": peer}, NOW + timedelta(seconds=after_s), ended)


def _tunnels(database: Database) -> dict[str, Tunnel]:
    with database.read() as session:
        return {row.site_id: row for row in reports.tunnels(session, OPERATOR)}


def _gateway(database: Database) -> GatewayState:
    with database.read() as session:
        return reports.gateways(session, OPERATOR)[0]


def _changes(database: Database, site: str = "tokyo") -> list[TunnelChange]:
    with database.read() as session:
        return history.changes(session, OPERATOR, site, since=NOW - timedelta(days=10))


def _problems(database: Database, site: str = "tokyo") -> list[SiteProblem]:
    with database.read() as session:
        return history.problems(session, OPERATOR, site)


def test_state_and_problems_are_written(database: Database) -> None:
    Ledger().write(database, _report())
    state = _gateway(database)
    assert (state.rule_set, state.dataplane, state.seen_at) == ("abc", "userland", NOW)
    assert state.report["problems"] == [{"key": "datapath.drift", "params": {"what": "x"}}]
    assert (state.report["wanted_rule_set"], state.report["charon"]) == ("abc", True)


def test_tunnel_comes_up_since_it_was_established_and_goes_down(database: Database) -> None:
    ledger = Ledger()
    ledger.write(database, _report(TOKYO))
    up = _tunnels(database)["tokyo"]
    assert (up.up, up.since, up.peer, up.ike_version) == (True, NOW - timedelta(seconds=60), PEER, 2)
    ledger.write(database, _report(after_s=300))
    down = _tunnels(database)["tokyo"]
    assert (down.up, down.since) == (False, NOW + timedelta(seconds=300))
    assert "osaka" not in _tunnels(database)
    assert [(row.up, row.at) for row in _changes(database)] == [(True, up.since), (False, down.since)]


def test_charon_that_could_not_be_asked_changes_no_tunnel(database: Database) -> None:
    ledger = Ledger()
    ledger.write(database, _report(TOKYO))
    ledger.write(database, _report(unknown=True, after_s=100))
    assert _tunnels(database)["tokyo"].up
    assert not _gateway(database).report["charon"]


def test_tunnel_of_a_site_that_is_gone_does_not_spoil_the_report(database: Database) -> None:
    ghost = Live("ghost", (), "198.51.100.9", "", 1)
    Ledger().write(database, _report(ghost, TOKYO))
    assert _tunnels(database).keys() == {"tokyo"}


def test_a_report_that_changes_nothing_writes_one_row_and_reads_no_site(database: Database) -> None:
    ledger = Ledger()
    ledger.write(database, _report(TOKYO, _live("osaka", "198.51.100.8")))
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    ledger.write(database, _report(_live(established_s=65), _live("osaka", "198.51.100.8", 65), after_s=5))
    touched = [one for one in statements if any(table in one for table in ("sites", "tunnel", "certificates"))]
    assert touched == []
    assert any("gateways" in one for one in statements)


def test_a_new_sa_in_place_of_one_is_no_change(database: Database) -> None:
    ledger = Ledger()
    ledger.write(database, _report(TOKYO))
    ledger.write(database, _report(_live(peer="203.0.113.9", established_s=0), after_s=100))
    row = _tunnels(database)["tokyo"]
    assert (row.peer, row.since) == ("203.0.113.9", NOW - timedelta(seconds=60))
    assert len(_changes(database)) == 1


def test_a_restarted_daemon_writes_no_loss_for_a_tunnel_that_a_listing_left_out(database: Database) -> None:
    Ledger().write(database, _report(TOKYO))
    again = Ledger()
    again.write(database, _report(after_s=5))
    again.write(database, _report(_live(established_s=70), after_s=10))
    assert _tunnels(database)["tokyo"].up
    assert len(_changes(database)) == 1
    again.write(database, _report(after_s=12))  # seen since: now a loss is a loss
    assert not _tunnels(database)["tokyo"].up


def test_a_tunnel_that_ended_while_no_daemon_ran_is_lost_when_nobody_lists_it(database: Database) -> None:
    Ledger().write(database, _report(TOKYO))
    again = Ledger()
    again.write(database, _report(after_s=20))
    assert _tunnels(database)["tokyo"].up
    again.write(database, _report(after_s=21 + INHERITED_S))
    row = _changes(database)[-1]
    assert (row.up, row.cause, row.at) == (False, "", NOW + timedelta(seconds=21 + INHERITED_S))


def test_a_gateway_that_was_away_long_counts_the_tunnel_as_lost_from_then_on(database: Database) -> None:
    Ledger().write(database, _report(TOKYO))
    again = Ledger()
    again.write(database, _report(after_s=7200))
    again.write(database, _report(after_s=7201 + INHERITED_S))
    row = _changes(database)[-1]
    assert (row.up, row.cause, row.at) == (False, "causes.gateway-away", NOW)


@pytest.mark.parametrize("known_by", ["claim", "peer"])
def test_a_loss_has_its_cause(database: Database, known_by: str) -> None:
    ledger = Ledger()
    ledger.write(database, _report(TOKYO))
    site = "tokyo" if known_by == "claim" else ""
    ledger.write(database, _report(after_s=60), [_cause("dead-peer", site, after_s=59, ended=True)])
    row = _changes(database)[-1]
    assert (row.up, row.cause, row.params) == (False, "causes.dead-peer", {"peer": PEER, "site": "tokyo"})
    assert _problems(database) == []  # it was a good tunnel; the history has it


def test_an_old_cause_explains_nothing(database: Database) -> None:
    ledger = Ledger()
    ledger.write(database, _report(TOKYO), [_cause("dead-peer", ended=True)])
    ledger.write(database, _report(after_s=90))
    assert _changes(database)[-1].cause == ""


def test_an_expelled_tunnel_says_why_and_only_once(database: Database) -> None:
    ledger = Ledger()
    expelled = problem("vpn.router-replaced", site="tokyo", peer=PEER)
    ledger.write(database, _report(TOKYO))
    ledger.write(database, _report(after_s=5, problems=[expelled]))
    ledger.write(database, _report(_live(established_s=0), after_s=20, problems=[expelled]))
    ledger.write(database, _report(after_s=100, problems=[expelled]))
    assert [row.cause for row in _changes(database)] == ["", "vpn.router-replaced", "", ""]
    assert [row.key for row in _problems(database)] == ["vpn.router-replaced"]


def test_charon_that_began_anew_is_the_cause(database: Database) -> None:
    ledger = Ledger()
    ledger.write(database, _report(TOKYO))
    ledger.write(database, _report(after_s=60), charon_started_at=NOW + timedelta(seconds=59))
    assert _changes(database)[-1].cause == "causes.charon-restarted"


def test_attempts_that_fail_are_kept_by_site_and_a_stranger_leaves_none(database: Database) -> None:
    ledger = Ledger()
    told = [_cause("certificate-expired"), _cause("certificate-expired", "nobody")]
    ledger.write(database, _report(), told)
    [row] = _problems(database)
    assert (row.key, row.seen_by, row.params["site"]) == ("causes.certificate-expired", "gateway/gw1", "tokyo")


def test_an_attempt_without_a_name_is_the_one_site_that_came_from_there(database: Database) -> None:
    ledger = Ledger()
    ledger.write(database, _report(TOKYO, _live("osaka"), _live("nagoya", "198.51.100.9")))
    ledger.write(database, _report(_live("osaka"), after_s=10))
    ledger.write(database, _report(_live("osaka"), after_s=20), [_cause("ike-proposal", "", after_s=19)])
    assert [row.key for row in _problems(database)] == ["causes.ike-proposal"]
    assert _problems(database, "osaka") == []
    ledger.write(database, _report(after_s=30))  # two sites of that address are down now
    ledger.write(database, _report(after_s=40), [_cause("half-open", "", after_s=39)])
    assert [row.key for row in _problems(database)] == ["causes.ike-proposal"]


def test_an_attempt_of_a_site_that_was_never_up_is_known_by_its_heartbeat(database: Database) -> None:
    with database.write() as session:
        source = ip_address("203.0.113.77")
        reports.record_heartbeat(session, OPERATOR, site_id="osaka", received_at=NOW, source=source, report={})
    Ledger().write(database, _report(), [_cause("half-open", "", peer="203.0.113.77")])
    assert [row.key for row in _problems(database, "osaka")] == ["causes.half-open"]


def test_a_flood_of_attempts_costs_few_rows(database: Database) -> None:
    ledger = Ledger()
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for second in range(20):
        flood = [_cause("authentication", after_s=second) for _ in range(500)]
        ledger.write(database, _report(after_s=second), flood)
    writes = [one for one in statements if "site_problems" in one and not one.startswith("SELECT")]
    assert len(writes) == 1


def test_a_site_whose_line_flaps_fills_nothing(database: Database) -> None:
    ledger = Ledger()
    for second in range(0, 400, 2):
        ledger.write(database, _report(_live(established_s=0), after_s=second))
        ledger.write(database, _report(after_s=second + 1))
    assert len(_changes(database)) == history.MOST_CHANGES_AN_HOUR
    assert not _tunnels(database)["tokyo"].up
    ledger.write(database, _report(_live(established_s=0), after_s=5000))
    assert len(_changes(database)) == history.MOST_CHANGES_AN_HOUR + 1


def test_after_a_write_that_failed_everything_is_said_again(database: Database) -> None:
    ledger = Ledger()
    with pytest.raises(Exception, match=r"registry\.unavailable"):
        ledger.write(Database("sqlite:////nowhere/x"), _report(TOKYO))
    ledger.write(database, _report(TOKYO))
    assert _tunnels(database)["tokyo"].up
