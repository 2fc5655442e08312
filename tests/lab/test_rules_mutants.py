"""The proof can fail: whatever is wrong with the rules in the kernel, it notices. The bench tries all mutants."""

from collections.abc import Iterator

import pytest

from tests.lab import rules_wires
from tests.lab.rules_mutants import reason_of
from tests.lab.rules_trial import Trial

#: So many of the mutants are tried here.
TRIED = 9


@pytest.fixture(scope="module", autouse=True)
def world() -> Iterator[None]:
    with rules_wires.wires():
        yield


def test_mutants_are_noticed_and_the_original_is_not() -> None:
    trial = Trial()
    assert not trial.untouched().caught
    suited = [one for one in trial.mutants if reason_of(one) is None]
    assert len(suited) >= 50
    outcomes = [trial.judge(one) for one in suited[:: len(suited) // TRIED]]
    assert [one.mutant.name for one in outcomes if not one.caught] == []
    assert any(one.by_packets for one in outcomes)
    assert any(one.by_reading for one in outcomes)
