"""Who is in which ring."""

import pytest

from cloudside.errors import InputError, InputErrors
from cloudside.fleet.rollouts import rings
from cloudside.fleet.rollouts.model import DAY_S, DEFAULT_RINGS, HOUR_S, Ring
from cloudside.fleet.rollouts.rings import Candidate

SITES = [Candidate(f"site-{number}") for number in range(1000)]


def sizes(found: dict[str, int]) -> list[int]:
    """How many are in each ring."""
    return [sum(ring == number for ring in found.values()) for number in range(max(found.values()) + 1)]


def test_rings_by_share_are_exact_and_the_same_each_time() -> None:
    found = rings.assign("1.1.0-1", SITES, DEFAULT_RINGS)
    assert sizes(found) == [3, 27, 170, 800]
    assert rings.assign("1.1.0-1", list(reversed(SITES)), DEFAULT_RINGS) == found
    other = rings.assign("1.1.0-2", SITES, DEFAULT_RINGS)
    assert sizes(other) == sizes(found)
    assert {site for site, ring in other.items() if ring == 0} != {site for site, ring in found.items() if ring == 0}


def test_more_sites_move_nobody_in_the_order() -> None:
    half = rings.assign("1.1.0-1", SITES[:500], (Ring(0.5), Ring(1.0)))
    first = {site for site, ring in half.items() if ring == 0}
    ordered = sorted(half, key=lambda site: rings.position("1.1.0-1", site))
    assert set(ordered[:250]) == first


def test_a_ring_by_label_comes_before_the_shares() -> None:
    sites = [Candidate(one.site, {"canary": "yes"} if index < 40 else {}) for index, one in enumerate(SITES)]
    found = rings.assign("x", sites, (Ring(None, "canary=yes"), Ring(0.1), Ring(1.0)))
    assert {site for site, ring in found.items() if ring == 0} == {one.site for one in sites[:40]}
    assert sizes(found) == [40, 60, 900]  # the share counts those before


def test_who_is_in_no_ring_is_in_the_last_one() -> None:
    found = rings.assign("x", SITES, (Ring(0.1), Ring(None, "canary=yes")))
    assert sizes(found) == [100, 900]


def test_pairs_are_kept_apart_where_there_are_rings() -> None:
    sites = [Candidate(one.site, {}, f"house-{index // 2}") for index, one in enumerate(SITES)]
    found = rings.assign("x", sites, DEFAULT_RINGS)
    shared = sum(found[f"site-{index}"] == found[f"site-{index + 1}"] for index in range(0, 1000, 2))
    last = sum(found[f"site-{index}"] == found[f"site-{index + 1}"] == 3 for index in range(0, 1000, 2))
    assert shared == last  # only in the last ring, where there is no other


def test_a_share_of_few_sites_rounds_up() -> None:
    assert sizes(rings.assign("x", SITES[:10], (Ring(0.003), Ring(0.25), Ring(1.0)))) == [1, 2, 7]
    assert sizes(rings.assign("x", SITES[:100], (Ring(0.07), Ring(1.0)))) == [7, 93]  # 0.07 * 100 is a little more


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("5%", Ring(0.05)),
        ("0.3%:36h", Ring(0.003, soak_s=36 * HOUR_S)),
        ("100%:0h", Ring(1.0, soak_s=0.0)),
        ("canary=yes:2d", Ring(None, "canary=yes", 2 * DAY_S)),
        ("25%:90m", Ring(0.25, soak_s=5400.0)),
    ],
)
def test_rings_are_read_and_written_alike(text: str, wanted: Ring) -> None:
    found = rings.parse(text)
    assert found == wanted
    assert rings.parse(rings.in_words(found)) == wanted


@pytest.mark.parametrize(
    "text", ["", "5", "x", "0%", "101%", "-5%", "5%:", "5%:2w", "5%:x", "=yes", "canary=", "5%:9999d", "nan%", "inf%"]
)
def test_what_is_no_ring_is_refused(text: str) -> None:
    if text == "5%:":
        assert rings.parse(text) == Ring(0.05)
        return
    with pytest.raises(InputError) as caught:
        rings.parse(text)
    assert caught.value.key == "rollout.bad-ring"


def test_shares_have_to_grow_and_the_last_ring_is_all() -> None:
    assert rings.checked([Ring(0.1)])[-1] == Ring(1.0, soak_s=0.0)
    assert rings.checked([Ring(0.1), Ring(1.0)]) == (Ring(0.1), Ring(1.0))
    with pytest.raises(InputErrors) as caught:
        rings.checked([Ring(0.5), Ring(0.1), Ring(None, "a=b"), Ring(None, "a=b")])
    assert {one.key for one in caught.value.problems} == {"rollout.ring-order", "rollout.ring-twice"}
