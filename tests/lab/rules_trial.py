"""Puts mutants of the rules into the real kernel, and sees whether the proof notices. Assumes the box and the wires."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from linux import readback
from rules.compile import RuleSet
from tests.lab.rules_mutants import TOP, Mutant, Text, difference, mutants, original, reason_of
from tests.lab.rules_proof_world import proof_probes, proof_rule_set
from tests.lab.rules_wires import (
    RUNNER,
    Probe,
    disagreements,
    expectations,
    put,
    read_back_kernel,
    walked_disagreements,
)

#: So many probes are asked of each mutant; all of them only if these notice nothing.
FIRST = 8_000


@dataclass(frozen=True)
class Outcome:
    """Whether the mutant was noticed: by walking through what was read back, by real packets.

    If by neither, ``equivalent`` is why no packet is decided otherwise; None: it is a survivor, the proof has a hole.
    """

    mutant: Mutant
    by_reading: bool
    by_packets: bool
    equivalent: str | None = None

    @property
    def caught(self) -> bool:
        return self.by_reading or self.by_packets


class Trial:
    """The proof world and its probes in an order that finds a mistake soon."""

    def __init__(self, *, probes_max: int | None = None) -> None:
        self.rule_set: RuleSet = proof_rule_set()
        self.text: Text = original(self.rule_set)
        self.mutants: list[Mutant] = mutants(self.text)
        probes = proof_probes(self.rule_set)
        expected = expectations(self.rule_set, probes)
        order = list(range(len(probes)))
        random.Random(1).shuffle(order)
        self.probes: Sequence[Probe] = [probes[place] for place in order[:probes_max]]
        self.expected: Sequence[bool] = [expected[place] for place in order[:probes_max]]

    def untouched(self) -> Outcome:
        """The original, put in force in the same way: nothing must be noticed."""
        return self._run(Mutant("original", TOP, self.text), len(self.probes))

    def judge(self, mutant: Mutant) -> Outcome:
        """Put it in force and look: at some probes, and at all of them if the mutant decides anything otherwise."""
        found = self._run(mutant, FIRST)
        if found.caught:
            return found
        reason = reason_of(mutant)
        if reason is not None and difference(self.text, mutant) is None:
            return replace(found, equivalent=reason)
        return self._run(mutant, len(self.probes))

    def _run(self, mutant: Mutant, count: int) -> Outcome:
        put(mutant.text.set_lines(), mutant.text.chain_lines(), TOP)
        kernel = read_back_kernel(readback.read(RUNNER))
        probes, expected = self.probes[:count], self.expected[:count]
        by_reading = next(walked_disagreements(kernel, probes, expected), None) is not None
        return Outcome(mutant, by_reading, disagreements(probes, expected) != [])
