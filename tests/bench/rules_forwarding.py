"""Cost of the rules for packets, and loss during changes, in a process of its own on one core. Prints JSON.

``SITES COUNT ROUNDS CHANGES``.
"""

import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from cloudside.datapath.enforcement import Enforcement
from rules.compile import RuleSet, assemble
from rules.model import Inventory, PolicySource
from rules.parse import Drafts, parse_parts
from rules.parts import Parts
from rules.vectors import vectors
from tests.bench.rules_packets import Cost, Gateway, doors, linear_text, loss_during, measure, packet_classes
from tests.bench.rules_world import in_proportion

#: Packets through the linear chain a round, and rounds: each packet takes as long as a thousand others.
LINEAR_COUNT = 20
LINEAR_ROUNDS = 7


class Desk:
    """The gateway's loop without its daemon: reads what changed, compiles, applies, sweeps."""

    def __init__(self, inventory: Inventory, sources: list[PolicySource], enforcement: Enforcement) -> None:
        self._drafts = Drafts()
        self._enforcement = enforcement
        self.parts = self._drafts.parts(inventory)
        self.sources = list(sources)
        self.now = datetime.now(UTC)
        self.rule_set: RuleSet | None = None
        self.hows: dict[str, int] = {}

    def apply(self) -> RuleSet:
        policy, _ = parse_parts(self.sources, self.parts, drafts=self._drafts)
        self.rule_set = assemble(policy, self.parts, at=self.now, previous=self.rule_set)
        self._enforcement.admit(self.parts)
        how = self._enforcement.apply(self.rule_set).how
        self._enforcement.sweep()
        self.hows[how] = self.hows.get(how, 0) + 1
        return self.rule_set

    def change(self, number: int, chance: random.Random, spared: str) -> None:
        """In turns: a site is taken out, is back, a policy has one more statement, or has not any more."""
        own = dict(self.parts.own)
        if number % 4 < 2:
            if number % 4 == 0:
                tenant = chance.choice([one for one, part in own.items() if one != spared and len(part.sites) > 1])
                self._kept = tenant, own[tenant]
                gone = chance.choice(own[tenant].sites).name
                own[tenant] = replace(
                    own[tenant],
                    sites=tuple(one for one in own[tenant].sites if one.name != gone),
                    devices=tuple(one for one in own[tenant].devices if one.site != gone),
                )
            else:
                own[self._kept[0]] = self._kept[1]
            self.parts = Parts(self.parts.shared, own)
        elif number % 4 == 2:
            place = chance.choice([place for place, one in enumerate(self.sources) if one.tenant != spared])
            self._text = place, self.sources[place]
            more = f"  - {{name: more, from: g0, to: g1, services: tcp/{2000 + number}}}\n"
            self.sources[place] = replace(self.sources[place], text=self.sources[place].text + more)
        else:
            self.sources[self._text[0]] = self._text[1]
        self.apply()


def _words(rule_set: RuleSet) -> Callable[[str], int]:
    found = {}
    for name, domain in rule_set.domains.items():
        made = vectors(domain, rule_set.shared.values())
        found[name] = made.shape.grants.words if made is not None and made.shape is not None else 0
    return found.__getitem__


def main() -> int:
    """Measure and print."""
    sites, count, rounds, changes = (int(argument) for argument in sys.argv[1:])
    inventory, sources = in_proportion(sites)
    gateways = {name: Gateway(name) for name in ("empty", "ours", "linear")}
    try:
        enforcement = Enforcement(gateways["ours"].netfilter, doors())
        enforcement.hold()
        desk = Desk(inventory, sources, enforcement)
        rule_set = desk.apply()
        sets, rules = linear_text(inventory, sources)
        gateways["linear"].netfilter.restore_sets(sets)
        gateways["linear"].netfilter.restore_rules(rules)
        gateways["empty"].netfilter.restore_rules("*filter\nCOMMIT\n*mangle\nCOMMIT\n")
        words = _words(rule_set)
        costs: dict[str, Cost] = {}
        classes = packet_classes(rule_set, words)
        for one in classes:
            costs[one.name] = measure(
                gateways,
                one,
                count=count,
                linear_count=LINEAR_COUNT,
                rounds=rounds,
                linear_rounds=LINEAR_ROUNDS,
            )
        flow = next(
            flow
            for one in classes
            if one.name.startswith("site to server") and one.granted
            for flow in one.flows
            if flow.protocol == 17
        )
        spared = rule_set.whereabouts.at(flow.source)[0].tenant or ""
        loss = loss_during(gateways["ours"], flow, lambda: _changes(desk, changes, spared))
        print_found(costs, rules.count("\n-A "), loss.sent, loss.seconds, loss.lost, desk.hows)
    finally:
        for gateway in gateways.values():
            gateway.close()
    return 0


def _changes(desk: Desk, count: int, spared: str) -> None:
    chance = random.Random(9)
    for number in range(count):
        desk.change(number, chance, spared)


def print_found(
    costs: dict[str, Cost],
    linear_rules: int,
    sent: int,
    seconds: float,
    lost: int,
    hows: dict[str, int],
) -> None:
    """Print the figures. The speed-up is the worst class's of the one over the worst class's of the other."""
    ours = {name: one.over_empty("ours") for name, one in costs.items()}
    linear = {name: one.over_empty("linear") for name, one in costs.items()}
    worst = max(ours, key=lambda name: ours[name][1])
    slowest = max(linear, key=lambda name: linear[name][1])
    found = {
        "first_packet_us_over_empty": ours[worst][1],
        "first_packet_us_over_empty_best": max(best for best, _ in ours.values()),
        "first_packet_worst_class": worst,
        "speedup_vs_linear": linear[slowest][1] / ours[worst][1],
        "linear_us_over_empty": linear[slowest][1],
        "linear_rules": linear_rules,
        "packets_sent_unaffected": sent,
        "packets_a_second": sent / seconds,
        "packets_lost_unaffected": lost,
        "applies": hows,
        "classes": {
            name: {kind: {"best": one.best[kind], "median": one.middle[kind]} for kind in one.best}
            for name, one in costs.items()
        },
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    sys.exit(main())
