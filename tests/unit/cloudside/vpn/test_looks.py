"""Looks in pieces, and what is due of many things."""

import threading
from collections.abc import Callable, Iterator

import pytest

from cloudside.vpn.looks import Look, Looks, Rotation


@pytest.fixture
def woken() -> threading.Event:
    return threading.Event()


@pytest.fixture
def looks(woken: threading.Event) -> Iterator[Looks]:
    made = Looks(woken.set)
    yield made
    made.close()


def _noting(done: list[str], name: str, pieces: int = 1) -> Callable[[], Look]:
    def look() -> Look:
        for number in range(pieces):
            done.append(f"{name}{number}")
            yield None

    return look


def test_each_look_comes_again_after_its_time(looks: Looks) -> None:
    done: list[str] = []
    looks.add("a", 5.0, _noting(done, "a"), now=0.0)
    looks.finish(0.0)
    assert not looks.step(4.9)
    assert looks.wait_s(4.0) == pytest.approx(1.0)
    looks.finish(5.0)
    assert done == ["a0", "a0"]


def test_others_come_between_the_pieces_of_a_long_one(looks: Looks) -> None:
    done: list[str] = []
    looks.add("long", 10.0, _noting(done, "l", pieces=3), now=0.0)
    looks.add("short", 10.0, _noting(done, "s"), now=1.0)
    assert looks.step(0.0)
    assert looks.step(1.0)
    looks.finish(1.0)
    assert done == ["l0", "s0", "l1", "l2"]


def test_what_is_wanted_soon_comes_first_and_never_later(looks: Looks) -> None:
    done: list[str] = []
    looks.add("a", 10.0, _noting(done, "a"), now=0.0)
    looks.add("b", 10.0, _noting(done, "b"), now=0.0)
    looks.finish(0.0)
    looks.soon("b", 3.0)
    looks.soon("b", 7.0)
    looks.finish(3.0)
    assert done == ["a0", "b0", "b0"]


def test_another_thread_reads_and_wakes(looks: Looks, woken: threading.Event) -> None:
    found: list[tuple[int, bool]] = []
    here = threading.get_ident()
    gate = threading.Event()

    def read() -> bool:
        gate.wait(5)
        return threading.get_ident() != here

    def look() -> Look:
        elsewhere = yield read
        found.append((1, elsewhere))

    looks.add("a", 10.0, look, now=0.0)
    assert looks.step(0.0)
    assert not looks.step(0.0)  # still reading: the caller goes on with other things
    gate.set()
    assert woken.wait(5)
    assert looks.step(0.0)
    assert found == [(1, True)]


def test_what_a_reading_raises_arrives_in_the_look_and_ends_it_alone(looks: Looks) -> None:
    done: list[str] = []

    def read() -> None:
        raise OSError("gone")

    def look() -> Look:
        try:
            yield read
        except OSError as error:
            done.append(str(error))
            raise

    looks.add("a", 10.0, look, now=0.0)
    with pytest.raises(OSError, match="gone"):
        looks.finish(0.0)
    looks.add("b", 10.0, _noting(done, "b"), now=0.0)
    looks.finish(0.0)
    assert done == ["gone", "b0"]


def test_a_rotation_meets_everything_within_its_shares() -> None:
    sizes = {f"t{number}": 10 for number in range(12)}
    rotation = Rotation(1 / 4)
    turns = [rotation.next(sizes) for _ in range(4)]
    assert sorted(name for turn in turns for name in turn) == sorted(sizes)
    assert {len(turn) for turn in turns} == {3}
    assert rotation.next(sizes) == turns[0]


def test_a_rotation_copes_with_what_goes_and_comes() -> None:
    rotation = Rotation(1 / 2)
    assert rotation.next({}) == ()
    assert rotation.next({"a": 1, "b": 1}) == ("a",)
    assert rotation.next({"a": 1, "c": 1}) == ("a",)  # b is gone: it begins anew
    assert rotation.next({"a": 1, "c": 1}) == ("c",)
    assert Rotation(0.001).next({"big": 10**6}) == ("big",)


def test_a_reading_that_is_done_is_not_waited_for(looks: Looks, woken: threading.Event) -> None:
    going = threading.Event()

    def look() -> Look:
        yield lambda: going.wait(10)

    looks.add("a", 5.0, look, now=0.0)
    assert looks.step(0.0)
    assert looks.wait_s(0.0) == float("inf")
    going.set()
    assert woken.wait(10)
    assert looks.wait_s(0.0) == 0.0
