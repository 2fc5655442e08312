"""What is normal for a site, what is not, what is missing; and a short year of a small fleet."""

import math
import random
from itertools import pairwise

import pytest

from cloudside.mail.watch import anomaly
from cloudside.mail.watch.anomaly import Bounces, Span
from cloudside.mail.watch.baseline import Baseline, surprise
from cloudside.mail.watch.habit import Habit
from tests.bench import mail_fleet

WEEK = 168
START = 168 * 2900


def taught(weeks, count_of, habit=None, start=START):
    """A habit after so many weeks of ``count_of(hour of the week)``; the hour after them."""
    habit = habit or Habit()
    for hour in range(start, start + weeks * WEEK):
        habit.finish(hour, count_of(hour % WEEK))
    return habit, start + weeks * WEEK


def office(hour):
    return 3 if hour < 120 and 8 <= hour % 24 < 18 else 0


def test_a_baseline_learns_the_hours_of_the_week():
    habit, hour = taught(8, office)
    busy, night, weekend = (habit.baseline.expected(hour + at) for at in (9, 3, 120 + 9))
    assert busy == pytest.approx(3, abs=0.5) and night < 0.1 and weekend < 0.8


def test_a_young_site_is_taken_for_its_mean_and_before_that_for_the_prior():
    assert Baseline().expected(START) == pytest.approx(0.5)
    habit, hour = taught(1, lambda _: 2)
    assert habit.baseline.expected(hour) == pytest.approx(2, abs=0.3)
    assert habit.baseline.young


def test_the_season_is_followed():
    habit, hour = taught(8, lambda _: 2)
    habit, hour = taught(10, lambda _: 6, habit, hour)
    assert habit.baseline.expected(hour) == pytest.approx(6, abs=1)


def test_a_past_flood_is_not_the_rule():
    habit, hour = taught(8, office)
    before = habit.baseline.expected(hour + 30)
    for at in range(12):
        habit.finish(hour + at, 2000)
    for at in range(12, WEEK):
        habit.finish(hour + at, office(at))
    assert habit.baseline.expected(hour + WEEK + 30) == pytest.approx(before, abs=1)
    assert habit.look(hour + WEEK, 2000) is not None  # and the next one is noticed as well


@pytest.mark.parametrize("rate", [20, 60, 500, 2000])
def test_a_flood_at_night_is_noticed_while_it_lasts(rate):
    habit, hour = taught(8, office)
    hour += 22
    for at in range(7):
        if habit.look(hour + at, rate) is not None:
            return
        habit.finish(hour + at, rate)
    pytest.fail("seven hours of it")


def test_a_flood_that_grows_slowly_does_not_make_itself_the_rule():
    habit, hour = taught(8, office)
    caught = False
    for at in range(72):
        caught = caught or habit.look(hour + at, at // 3) is not None
        habit.finish(hour + at, at // 3)
    assert caught


def test_a_flood_across_the_hours_border_is_noticed():
    habit, hour = taught(8, office)
    habit.finish(hour, 100)
    assert habit.look(hour + 1, 100).span is Span.HOURS


def test_a_burst_at_a_fault_is_normal_and_one_that_goes_on_is_not():
    habit, hour = taught(8, office)
    assert habit.look(hour, 100) is None
    habit.finish(hour, 100)
    for at in range(1, 24):
        habit.finish(hour + at, office(at))
    assert habit.standing is None
    for at in range(24, 30):
        habit.finish(hour + at, 60)
    assert habit.standing is not None


def test_a_site_that_had_large_bursts_may_have_them():
    habit, hour = taught(8, lambda at: 200 if at == 30 else office(at))
    assert habit.look(hour + 50, 230) is None
    quiet, hour = taught(8, office)
    assert quiet.look(hour + 50, 230) is not None


def test_an_alarm_ends_with_an_hour_that_is_usual_and_raises_what_is_usual_once():
    habit, hour = taught(8, office)
    for at in range(5):
        habit.finish(hour + at, 1000)
    assert habit.standing is not None
    usual = habit.baseline.record_hours
    habit.finish(hour + 5, 0)
    habit.finish(hour + 6, 0)
    assert usual < habit.baseline.record_hours <= 2 * anomaly.HOURS_FLOOR
    for at in range(7, 31):
        habit.finish(hour + at, 0)
    assert habit.standing is None


def test_replaying_the_counts_ends_in_the_same_state():
    rng = random.Random(1)
    counts = [mail_fleet.poisson(rng, 2.0) for _ in range(9 * WEEK)] + [300, 300]
    first, second = Habit(), Habit()
    for hour, count in enumerate(counts):
        first.look(START + hour, count)
        first.finish(START + hour, count)
        second.finish(START + hour, count)
    assert first.standing == second.standing is not None
    assert first.baseline.expected(START) == second.baseline.expected(START)


@pytest.mark.parametrize("mean", [0.01, 0.5, 3.0, 40.0])
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_surprise_grows_with_the_count_and_bounds_the_tail(mean, spread):
    values = [surprise(count, mean, spread) for count in range(400)]
    assert all(later >= earlier for earlier, later in pairwise(values)) and values[0] == 0
    if spread == 1.0:
        for count in (10, 60):
            tail = sum(
                math.exp(number * math.log(mean) - mean - math.lgamma(number + 1)) for number in range(count, 400)
            )
            assert surprise(count, mean, 1.0) <= -math.log(tail) + 1e-6 or count <= mean


def test_more_spread_is_less_surprise():
    assert surprise(50, 10, 4.0) < surprise(50, 10, 1.0)


def daily(hour):
    return 1 if hour % 24 == 7 else 0


def test_missing_reports_are_missed_after_two_and_not_after_one():
    habit, hour = taught(8, daily)
    missed = []
    for at in range(96):
        habit.finish(hour + at, 0)
        missed.append(anomaly.silent(habit.baseline))
    assert not any(missed[: 24 + 7]) and all(missed[24 + 7 :])
    habit.finish(hour + 96, 1)
    assert not anomaly.silent(habit.baseline)


def test_a_weekend_is_no_silence():
    habit, hour = taught(8, office)
    for at in range(2 * WEEK):
        habit.finish(hour + at, office(at % WEEK))
        assert not anomaly.silent(habit.baseline)


def test_a_site_that_seldom_sends_is_not_missed():
    habit, hour = taught(8, lambda at: 1 if at == 30 else 0)
    for at in range(WEEK + 40):
        habit.finish(hour + at, 0)
    assert not anomaly.silent(habit.baseline)


def test_when_many_are_quiet_it_is_not_about_one():
    assert not anomaly.together(4, 10) and anomaly.together(5, 10)
    assert not anomaly.together(50, 1000) and anomaly.together(60, 1000)


def test_new_domains_are_told_when_they_are_many():
    sent = {f"d{number}.test": number for number in range(anomaly.NEW_DOMAINS)}
    assert anomaly.new_domains(sent, set())[0] == f"d{anomaly.NEW_DOMAINS - 1}.test"
    assert anomaly.new_domains(sent, {"d0.test"}) == ()


@pytest.mark.parametrize(
    ("bounced", "finished", "already", "alarm"),
    [(9, 9, False, False), (10, 50, False, True), (10, 51, False, False), (6, 51, True, True), (5, 51, True, False)],
)
def test_bounces_alarm_by_share_and_number_and_end_well_below(bounced, finished, already, alarm):
    assert anomaly.too_many_bounces(Bounces(bounced, finished), already=already) is alarm


def test_a_small_fleet_for_a_year():
    figures = mail_fleet.measure(sites=12, seed=11)
    assert figures["site_days"] > 4000 and figures["floods"] >= 4
    assert figures["floods_caught_pct"] == 100
    assert figures["false_alarms_per_1000_site_days"] < 3  # a dozen sites are few


def test_the_simulation_can_tell_a_blind_watch_and_a_nervous_one(monkeypatch):
    monkeypatch.setattr(anomaly, "HOURS_FLOOR", 1e9)
    monkeypatch.setattr(anomaly, "DAY_FLOOR", 1e9)
    monkeypatch.setattr(anomaly, "NEW_DOMAINS", 10**9)
    assert mail_fleet.measure(sites=6, seed=11)["floods_caught_pct"] == 0
    monkeypatch.setattr(anomaly, "HOURS_FLOOR", 10.0)
    monkeypatch.setattr(anomaly, "RECORD_FACTOR", 0.0)
    assert mail_fleet.measure(sites=6, seed=11)["false_hours_per_1000"] > 2
