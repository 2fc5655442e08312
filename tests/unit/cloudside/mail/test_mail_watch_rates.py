"""Limits against counts; what listeners saw at the door."""

import pytest

from cloudside.mail.model import Action, Limit, Scope
from cloudside.mail.watch import rates
from cloudside.mail.watch.rates import Level, Window
from cloudside.mail.watch.sightings import QUIET_S, REMEMBERED_MAX, Sight, Sightings

SITE = Limit(Scope.SITE, "tokyo-1", 60, 500, Action.NOTIFY)


def found(limits, hours, days=None, hour=100):
    days = hours if days is None else days
    return [(one.name, one.window, one.level) for one in rates.crossings(limits, hours, days, hour)]


@pytest.mark.parametrize(
    ("count", "level"),
    [(53, None), (54, Level.NEAR), (60, Level.NEAR), (61, Level.EXCEEDED), (1000, Level.EXCEEDED)],
)
def test_near_at_90_per_cent_and_exceeded_above_the_limit(count, level):
    crossings = found([SITE], {Scope.SITE: {"tokyo-1": count}}, {})
    assert crossings == ([] if level is None else [("tokyo-1", Window.HOUR, level)])


def test_a_limit_that_refuses_is_exceeded_when_it_is_used_up():
    refusing = Limit(Scope.SITE, "tokyo-1", 60, None, Action.REFUSE)
    assert found([refusing], {Scope.SITE: {"tokyo-1": 60}}) == [("tokyo-1", Window.HOUR, Level.EXCEEDED)]


def test_hours_and_days_scopes_and_names_are_apart():
    limits = [
        SITE,
        Limit(Scope.TENANT, "acme", None, 100, Action.HOLD),
        Limit(Scope.DEVICE, "plc", 10, None, Action.HOLD),
    ]
    hours = {Scope.SITE: {"tokyo-1": 1, "osaka-1": 999}, Scope.TENANT: {"acme": 200}, Scope.DEVICE: {"plc": 11}}
    days = {Scope.SITE: {"tokyo-1": 501}, Scope.TENANT: {"acme": 200}, Scope.DEVICE: {"plc": 11}}
    assert sorted(found(limits, hours, days)) == [
        ("acme", Window.DAY, Level.EXCEEDED),
        ("plc", Window.HOUR, Level.EXCEEDED),
        ("tokyo-1", Window.DAY, Level.EXCEEDED),
    ]


def test_no_limit_and_no_mail_are_nothing():
    unlimited = Limit(Scope.SITE, "tokyo-1", None, None, Action.NOTIFY)
    assert found([unlimited], {Scope.SITE: {"tokyo-1": 10**6}}) == []
    assert found([Limit(Scope.SITE, "tokyo-1", 0, 0, Action.NOTIFY)], {Scope.SITE: {}}) == []


def test_windows_say_where_they_begin():
    (hourly, daily) = rates.crossings([SITE], *2 * [{Scope.SITE: {"tokyo-1": 9999}}], 100)
    assert (hourly.start, daily.start) == (100, 77)


@pytest.mark.parametrize(("hour", "over"), [(10, False), (11, False), (12, True), (40, True)])
def test_it_is_over_after_a_full_hour_within(hour, over):
    assert rates.over(10, hour) is over


def test_sightings_count_until_it_has_been_quiet():
    sightings = Sightings()
    for at in (0.0, 10.0, 20.0):
        sightings.saw(Sight.LOGIN_FAILED, "plc", "10.1.0.9", at)
    sightings.saw(Sight.LOGIN_FAILED, "plc", "10.1.0.8", 20.0)
    seen = {one.source: one.count for one in sightings.recent(Sight.LOGIN_FAILED, 30.0)}
    assert seen == {"10.1.0.9": 3, "10.1.0.8": 1}
    assert not list(sightings.recent(Sight.UNKNOWN_SOURCE, 30.0))
    assert not list(sightings.recent(Sight.LOGIN_FAILED, 21.0 + QUIET_S))
    sightings.saw(Sight.LOGIN_FAILED, "plc", "10.1.0.9", 9000.0)
    assert [one.count for one in sightings.recent(Sight.LOGIN_FAILED, 9000.0)] == [1]


def test_whoever_knocks_cannot_fill_the_memory():
    sightings = Sightings()
    for number in range(REMEMBERED_MAX + 100):
        sightings.saw(Sight.LOGIN_FAILED, "x" * 10_000, f"source {number}", 1.0, "y" * 10_000)
    seen = list(sightings.recent(Sight.LOGIN_FAILED, 2.0))
    assert len(seen) == REMEMBERED_MAX and all(len(one.subject) <= 200 and len(one.detail) <= 200 for one in seen)
