"""Bounds against the plain definition of the binomial distribution, in fractions."""

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudside.fleet.rollouts import halting
from cloudside.fleet.rollouts.halting import Tally


def plain_tail(failures: int, judged: int, share: Fraction) -> Fraction:
    """P(X >= failures), term by term without rounding."""
    total = Fraction(0)
    for count in range(failures, judged + 1):
        total += comb(judged, count) * share**count * (1 - share) ** (judged - count)
    return total


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.integers(1, 999))
def test_tail_is_the_binomial_distributions(counts: tuple[int, int], thousandths: int) -> None:
    failures, judged = counts
    share = Fraction(thousandths, 1000)
    wanted = float(plain_tail(failures, judged, share))
    assert halting.tail(failures, judged, float(share)) == pytest.approx(wanted, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("judged", [1, 10, 300])
def test_bounds_of_none_and_of_all_are_the_closed_forms(judged: int) -> None:
    """(1 - c)^(1/n), the "rule of three" among them."""
    root = 0.05 ** (1 / judged)
    assert halting.upper_bound(0, judged, 0.95) == pytest.approx(1 - root)
    assert halting.lower_bound(judged, judged, 0.95) == pytest.approx(root)
    assert (halting.lower_bound(0, judged, 0.95), halting.upper_bound(judged, judged, 0.95)) == (0.0, 1.0)


@pytest.mark.parametrize(("failures", "judged"), [(1, 10), (5, 10), (3, 100), (12, 250)])
def test_at_the_bounds_the_outcome_is_as_unlikely_as_they_say(failures: int, judged: int) -> None:
    lower = Fraction(halting.lower_bound(failures, judged, 0.95))
    upper = Fraction(halting.upper_bound(failures, judged, 0.95))
    assert float(plain_tail(failures, judged, lower)) == pytest.approx(0.05)
    assert float(1 - plain_tail(failures + 1, judged, upper)) == pytest.approx(0.05)


@given(st.integers(0, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_bounds_hold_the_share_between_them(counts: tuple[int, int]) -> None:
    failures, judged = counts
    share = failures / judged if judged else 0.0
    lower, upper = halting.lower_bound(failures, judged, 0.95), halting.upper_bound(failures, judged, 0.95)
    assert 0.0 <= lower <= share + 1e-12 and share - 1e-12 <= upper <= 1.0


def test_few_failures_halt_nobody_and_many_do() -> None:
    assert not halting.is_bad(Tally(updated=0, failed=2), 0.01)  # below the minimum count
    assert halting.is_bad(Tally(updated=0, failed=3), 0.01)
    assert halting.is_bad(Tally(updated=3, silent=3), 0.01)  # silence counts
    assert not halting.is_bad(Tally(updated=300, failed=3), 0.01)
    assert halting.is_bad(Tally(updated=190, failed=10), 0.01)
    assert not halting.is_bad(Tally(updated=190, failed=10), 0.04)


def test_the_gate_is_stricter_for_small_rings() -> None:
    assert halting.fails_gate(Tally(updated=4, failed=1), 0.01)
    assert not halting.fails_gate(Tally(updated=29, failed=1), 0.01)
    assert halting.fails_gate(Tally(updated=17, failed=2), 0.01)
    assert not halting.fails_gate(Tally(updated=18, failed=2), 0.01), "from twenty sites on three have to have failed"
    assert halting.fails_gate(Tally(updated=27, failed=3), 0.01)
    assert not halting.fails_gate(Tally(updated=30), 0.01)


def test_how_often_a_release_at_the_tolerated_share_is_halted() -> None:
    """Looking after each of 2,000 sites, with a true share of a tenth, a half and all of what is tolerated."""
    chances = {share: ever_halted(share, 0.01, 2000) for share in (0.001, 0.005, 0.01)}
    assert chances[0.001] < 1e-5
    assert chances[0.005] < 1e-3
    assert chances[0.01] < 0.02


def ever_halted(share: float, tolerated: float, sites: int) -> float:
    """The exact chance that `is_bad` is ever true when looked at after each site: a walk over (judged, failures)."""
    needed = halting.FAILURES_MIN
    alive = {0: 1.0}
    halted = 0.0
    for judged in range(1, sites + 1):
        after: dict[int, float] = {}
        for failures, chance in alive.items():
            if chance < 1e-18:
                continue
            after[failures] = after.get(failures, 0.0) + chance * (1 - share)
            after[failures + 1] = after.get(failures + 1, 0.0) + chance * share
        while not halting.is_bad(Tally(updated=judged - needed, failed=needed), tolerated) and needed < judged:
            needed += 1
        halted += sum(chance for failures, chance in after.items() if failures >= needed)
        alive = {failures: chance for failures, chance in after.items() if failures < needed}
    return halted


def test_allowance_grows_with_proof_and_shrinks_with_harm() -> None:
    budget = halting.budget(0.004, 10_000)
    assert budget == pytest.approx(40)
    assert halting.allowance(Tally(), 0.0, budget) == 40
    proven = [halting.allowance(Tally(updated=n, proven=n), 0.0, budget) for n in (10, 30, 100, 300, 2000)]
    assert proven == sorted(proven) and proven[0] > 70 and proven[-1] > 10_000
    assert halting.allowance(Tally(updated=30, proven=0), 0.0, budget) == 10  # not proven is not known
    assert halting.allowance(Tally(updated=30, failed=1, proven=30), 0.0, budget) < proven[1]
    assert halting.allowance(Tally(updated=300, failed=40, proven=300), 0.0, budget) == 0


def test_small_fleets_may_lose_a_few_sites() -> None:
    assert halting.budget(0.004, 20) == halting.HARM_FLOOR


def test_background_is_not_the_releases_fault() -> None:
    tally = Tally(updated=990, silent=10)
    assert halting.attributable(tally, 0.0) == 10
    assert halting.attributable(tally, 0.01) == 0
    assert halting.attributable(tally, 0.004) == pytest.approx(6)
    assert halting.background(3, 300, 0.5) == pytest.approx(0.01)
    assert halting.background(3, 99, 0.5) == 0.5  # too few to say
