"""The proof in full: real packets, what is read back, and every mutant. In a process of its own; prints JSON."""

import json
import sys

from linux import readback
from tests.lab import rules_wires
from tests.lab.rules_proof_world import INVENTORY
from tests.lab.rules_trial import Trial
from tests.lab.rules_wires import disagreements, enforcement, expectations, read_back_kernel, walked_disagreements


def main() -> int:
    """The product's own apply first, then the mutants, a line on standard error for each that was not noticed."""
    with rules_wires.wires():
        trial = Trial()
        enforcement().apply(trial.rule_set)
        wrong = disagreements(trial.probes, expectations(trial.rule_set, trial.probes))
        kernel = read_back_kernel(readback.read(rules_wires.RUNNER))
        walked = [*walked_disagreements(kernel, trial.probes, trial.expected)]
        if trial.untouched().caught:
            raise SystemExit("the proof finds fault with what is as it should be")
        outcomes = [trial.judge(mutant) for mutant in trial.mutants]
    for line in (*wrong[:20], *walked[:20]):
        sys.stderr.write(line + "\n")
    equivalent = [one for one in outcomes if not one.caught and one.equivalent is not None]
    survivors = [one for one in outcomes if not one.caught and one.equivalent is None]
    for one in equivalent:
        sys.stderr.write(f"decides nothing otherwise: {one.mutant.name}: {one.equivalent}\n")
    for one in survivors:
        sys.stderr.write(f"SURVIVOR: {one.mutant.name}\n")
    found = {
        "proof_sites": len(INVENTORY.sites),
        "probes": len(trial.probes),
        "probes_passing": sum(trial.expected),
        "probe_disagreements": len(wrong),
        "read_back_disagreements": len(walked),
        "mutants": len(outcomes) - len(equivalent),
        "mutants_caught": sum(one.caught for one in outcomes),
        "mutants_by_reading": sum(one.by_reading for one in outcomes),
        "mutants_by_packets": sum(one.by_packets for one in outcomes),
        "mutants_equivalent": len(equivalent),
    }
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
