"""One change to many sites: the pace, who is left alone, when it stops, what is taken back. First pure, then real."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from fleet_cloud import NOW, Cloud
from sqlalchemy.orm import Session

from cloudside.fleet import settings_changes as steps
from cloudside.fleet.settings_diff import Difference, differences
from cloudside.fleet.settings_steps import Next, Pace, Stated, following
from cloudside.registry import reports, settings, settings_changes, sites
from cloudside.registry.callers import OPERATOR
from cloudside.registry.settings_changes import ChangeState, SiteState

PACE = Pace(stagger=2, every_s=60, stop_after=2, patience_s=300)
AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TIMES = steps.Times(wired_s=30, mobile_s=120, confirm_s=60)
SITES = ("site-a", "site-b", "site-c", "site-d")


def told(seconds: float, outcome: SiteState | None = None) -> Stated:
    return Stated("x", AT - timedelta(seconds=seconds), outcome)


@pytest.mark.parametrize(
    ("stated", "reverted", "waiting", "last", "expected"),
    [
        ([], 0, 4, None, Next(room=2, failures=0, stop=False, over=False)),
        ([told(10)], 0, 3, 10, Next(room=0, failures=0, stop=False, over=False)),
        ([told(70)], 0, 3, 70, Next(room=0, failures=0, stop=False, over=False)),  # it is still deciding
        ([told(70, SiteState.APPLIED)], 0, 3, 70, Next(room=2, failures=0, stop=False, over=False)),
        ([told(20, SiteState.APPLIED)], 0, 3, 20, Next(room=0, failures=0, stop=False, over=False)),  # too early
        ([told(70, SiteState.REVERTED)], 0, 3, 70, Next(room=2, failures=1, stop=False, over=False)),
        ([told(70, SiteState.REVERTED)], 1, 3, 70, Next(room=0, failures=2, stop=True, over=False)),
        ([told(301)], 0, 3, 301, Next(room=2, failures=1, stop=False, over=False)),  # silent counts as a failure
        ([told(301), told(302)], 0, 3, 301, Next(room=0, failures=2, stop=True, over=False)),
        ([], 1, 0, 70, Next(room=2, failures=1, stop=False, over=True)),
        ([told(5)], 0, 0, 5, Next(room=0, failures=0, stop=False, over=False)),
    ],
)
def test_what_comes_next(stated: list[Stated], reverted: int, waiting: int, last: float | None, expected: Next) -> None:
    last_stated = None if last is None else AT - timedelta(seconds=last)
    found = following(PACE, stated, reverted=reverted, waiting=waiting, last_stated=last_stated, now=AT)
    assert found == expected


def test_differences_hide_secrets_and_still_see_them() -> None:
    before = {"mobile.pin": "1234", "log.level": "info", "tunnel.dpd_s": 9.0}
    after = {"mobile.pin": "5678", "log.level": "info", "mobile.password": "hunter2"}
    assert differences(before, after) == (
        Difference("mobile.password", None, "***"), Difference("mobile.pin", "***", "***"),
        Difference("tunnel.dpd_s", 9.0, None),
    )  # fmt: skip
    assert differences(before, before) == ()


class Fleet:
    """Four sites on a registry, as they report."""

    def __init__(self, cloud: Cloud) -> None:
        self.database = cloud.database
        self.now = NOW
        with self.database.write() as session:
            for name in SITES:
                sites.add(session, OPERATOR, site_id=name, tenant_id="acme", now=NOW)
        self.beat(*SITES)

    def beat(self, *names: str, line: str = "wired") -> None:
        with self.database.write() as session:
            for name in names:
                reports.record_heartbeat(
                    session, OPERATOR, site_id=name, received_at=self.now, source=ip_address("10.0.0.1"),
                    report={"uplink": {"kind": line}},
                )  # fmt: skip

    def start(self, *names: str, **more: Any) -> int:
        options = {"stagger": 1, "every_s": 10, "stop_after": 2, "changes": {"log.level": "debug"}, **more}
        with self.database.write() as session:
            return settings_changes.add(
                session, OPERATOR, site_ids=names, reason="r", author="ann", until=self.now + timedelta(days=14),
                now=self.now, **options,
            ).id  # fmt: skip

    def step(self, seconds: float = 11) -> None:
        self.now += timedelta(seconds=seconds)
        steps.step_all(self.database, TIMES, self.now)

    def states(self, change: int) -> dict[str, str]:
        with self.database.read() as session:
            return {row.site_id: row.state for row in settings_changes.site_rows(session, OPERATOR, change)}

    def state(self, change: int) -> str:
        with self.database.read() as session:
            return settings_changes.get(session, OPERATOR, change).state

    def newest(self, site: str) -> Any:
        with self.database.read() as session:
            return settings.latest(session, OPERATOR, site)

    def report(self, site: str, *, applied: bool) -> None:
        with self.database.write() as session:
            version = self._newest(session, site)
            if applied:
                settings.mark_applied(session, OPERATOR, site_id=site, version=version)
            else:
                problem = {"key": "agent.settings-cut-off", "params": {"version": version, "confirm_s": 60}}
                settings.mark_reverted(session, OPERATOR, site_id=site, version=version, problem=problem)

    @staticmethod
    def _newest(session: Session, site: str) -> int:
        found = settings.latest(session, OPERATOR, site)
        assert found is not None
        return found.version


@pytest.fixture
def fleet(cloud: Cloud) -> Fleet:
    return Fleet(cloud)


def test_sites_are_told_one_after_the_other(fleet: Fleet) -> None:
    change = fleet.start(*SITES[:3])
    for done, name in enumerate(SITES[:3]):
        fleet.step()
        assert list(fleet.states(change).values()) == ["applied"] * done + ["stated"] + ["waiting"] * (2 - done)
        fleet.step()
        assert fleet.states(change)[name] == "stated", "the next was told before this one had said anything"
        assert fleet.newest(name).values == {"log.level": "debug"} and "change" in fleet.newest(name).author
        fleet.report(name, applied=True)
        fleet.beat(*SITES)
    fleet.step()
    assert fleet.state(change) == "done" and set(fleet.states(change).values()) == {"applied"}


def test_it_stops_when_too_many_undo_it_and_takes_the_rest_back(fleet: Fleet) -> None:
    change = fleet.start(*SITES, stagger=3)
    fleet.step()
    for name in SITES[:2]:
        fleet.report(name, applied=False)
    fleet.step()
    assert fleet.state(change) == "stopped"
    assert fleet.states(change) == dict(zip(SITES, ("reverted", "reverted", "withdrawn", "waiting"), strict=True))
    assert fleet.newest("site-c").state == "reverted" and fleet.newest("site-c").problem["key"] == "settings.withdrawn"
    for _ in range(3):
        fleet.step()
    assert fleet.newest("site-d") is None, "a site was told after the stop"
    with fleet.database.write() as session:
        settings_changes.resume(session, OPERATOR, change_id=change, more_failures=1, now=fleet.now)
    fleet.beat(*SITES)
    fleet.step()
    assert fleet.states(change)["site-d"] == "stated"
    fleet.report("site-d", applied=False)
    fleet.step()
    assert fleet.state(change) == "stopped", "one more failure was allowed, not two"


def test_a_site_that_falls_silent_counts(fleet: Fleet) -> None:
    change = fleet.start(*SITES, stop_after=1)
    fleet.step()
    fleet.beat(*SITES[1:])
    fleet.step(TIMES.patience_s + 1)
    assert fleet.state(change) == "stopped" and fleet.newest("site-b") is None


def test_a_pause_tells_nobody_and_hears_everybody(fleet: Fleet) -> None:
    change = fleet.start(*SITES)
    fleet.step()
    with fleet.database.write() as session:
        settings_changes.move(session, OPERATOR, change_id=change, state=ChangeState.PAUSED, now=fleet.now)
    fleet.report("site-a", applied=True)
    fleet.beat(*SITES)
    fleet.step()
    assert fleet.states(change)["site-a"] == "applied"
    assert fleet.states(change)["site-b"] == "waiting"
    with fleet.database.write() as session:
        settings_changes.resume(session, OPERATOR, change_id=change, more_failures=None, now=fleet.now)
    fleet.step()
    assert fleet.states(change)["site-b"] == "stated"


def test_a_site_that_is_away_or_on_its_mobile_line_is_told_later(fleet: Fleet) -> None:
    change = fleet.start("site-a", "site-b", stagger=5)
    fleet.now += timedelta(seconds=100)
    fleet.beat("site-b", line="mobile")
    fleet.step(1)
    assert fleet.states(change) == {"site-a": "waiting", "site-b": "waiting"}
    with fleet.database.write() as session:
        sites.change(session, OPERATOR, site_id="site-b", phase="commissioning")
    fleet.step(1)
    assert fleet.states(change) == {"site-a": "waiting", "site-b": "stated"}
    fleet.report("site-b", applied=True)
    fleet.step()
    fleet.now += timedelta(days=3)
    fleet.beat("site-a")
    fleet.step(1)
    assert fleet.states(change)["site-a"] == "stated"


def test_a_site_that_never_comes_is_given_up(fleet: Fleet) -> None:
    change = fleet.start("site-a", "site-b", stagger=1)
    fleet.step()
    fleet.step(15 * 86_400)
    assert fleet.states(change) == {"site-a": "withdrawn", "site-b": "missed"}
    fleet.step()
    assert fleet.state(change) == "done"


def test_what_somebody_else_changes_meanwhile_is_his(fleet: Fleet) -> None:
    change = fleet.start("site-a", "site-b")
    fleet.step()
    with fleet.database.write() as session:
        settings.change(session, OPERATOR, site_id="site-a", changes={"tunnel.dpd_s": 9.0}, author="bob", now=fleet.now)
        settings.change(
            session, OPERATOR, site_id="site-b", changes={"log.level": "debug"}, author="bob", now=fleet.now
        )
    fleet.beat(*SITES)
    fleet.step()
    assert fleet.states(change)["site-a"] == "superseded"
    fleet.step()
    assert fleet.states(change)["site-b"] == "applied", "it is so already"
    assert fleet.newest("site-b").author == "bob"


def test_what_is_over_stays_over(fleet: Fleet) -> None:
    change = fleet.start("site-a")
    with fleet.database.write() as session:
        settings_changes.move(session, OPERATOR, change_id=change, state=ChangeState.CANCELLED, now=fleet.now)
    fleet.step()
    assert fleet.newest("site-a") is None
    for state in (ChangeState.RUNNING, ChangeState.PAUSED):
        with pytest.raises(Exception, match="change-transition"), fleet.database.write() as session:
            settings_changes.move(session, OPERATOR, change_id=change, state=state, now=fleet.now)
