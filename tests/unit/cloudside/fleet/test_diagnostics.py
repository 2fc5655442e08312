"""Commands as people type them."""

import pytest

from cloudside.errors import InputError, InputErrors
from cloudside.fleet import diagnostics
from cloudside.messages import catalogue

DEVICES = {"plc": "192.168.1.20"}


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["192.0.2.1"], {"address": "192.0.2.1"}),
        (["plc", "3"], {"address": "192.168.1.20", "count": 3}),
        (["count=3", "plc"], {"address": "192.168.1.20", "count": 3}),
        (["address=2001:db8::1", "size=0"], {"address": "2001:db8::1", "size": 0}),
    ],
)
def test_arguments_in_order_or_by_name(words: list[str], arguments: dict[str, object]) -> None:
    assert diagnostics.parse("ping", words, devices=DEVICES) == arguments


@pytest.mark.parametrize(
    ("name", "words", "key"),
    [
        ("pong", [], "commands.unknown"),
        ("ping", [], "commands.argument-missing"),
        ("ping", ["hmi"], "commands.bad-argument"),
        ("ping", ["plc", "0"], "commands.bad-argument"),
        ("ping", ["plc", "3", "56", "9"], "commands.no-such-argument"),
        ("ping", ["plc", "address=192.0.2.1"], "commands.no-such-argument"),
        ("ping", ["plc", "flood=1"], "commands.no-such-argument"),
        ("routes", ["main"], "commands.no-such-argument"),
    ],
)
def test_mistakes_are_told_with_how_it_is_typed(name: str, words: list[str], key: str) -> None:
    with pytest.raises(InputError) as caught:
        diagnostics.parse(name, words, devices=DEVICES)
    assert caught.value.key == key
    assert name == "pong" or str(caught.value.params["usage"]).startswith(name)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InputErrors) as caught:
        diagnostics.parse("ping", ["hmi", "x", "y"], devices=DEVICES)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("language", ["en", "ja"])
def test_people_are_told_what_each_is_for(language: str) -> None:
    assert {f"commands.about-{name}" for name in diagnostics.DIAGNOSTICS} <= catalogue(language).keys()
