"""Brings the packet filter to what is wanted, and notices when it is not so any more.

What a change is made of is decided in versions; here it is done. A new version is built beside the old: its sets, then
one iptables-restore with its chains and the flip, then the old version goes. Sets and rules share no transaction, so a
step that fails, or a process that dies between steps, leaves the old version whole; what it left lying about is swept
by the next pass.

There is no record on disk of what is in force: after a restart, and after a step that failed, the kernel is read back
and compared, piece by piece, with what the rule set compiles to. What is the same is taken over as it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cloudside.datapath.admission import Admission
from cloudside.datapath.skeleton import (
    POLICY_CHAIN,
    TIMED_KIND,
    Doors,
    Tables,
    closed_text,
    sets_text,
    skeleton_differences,
    skeleton_text,
)
from cloudside.datapath.snapshot import (
    Heading,
    different_chains,
    different_headings,
    different_sets,
    parse_chains,
    parse_headings,
    parse_sets,
)
from cloudside.datapath.traffic import Traffic
from cloudside.datapath.versions import InForce, adopted, change, version_names
from linux.dataplane import TUNNEL_INTERFACE, Dataplane
from linux.errors import LinuxError
from linux.netfilter import Netfilter
from rules.compile import RuleSet
from rules.parts import Parts
from rules.problems import Problem
from rules.render import TIMED_SET, SetContent, Sides, left_out, top_chain
from rules.timed import entries


@dataclass(frozen=True, slots=True)
class Applied:
    """``how``: adopted (it was there already), in place, new version. ``problems``: what could not be rendered."""

    problems: tuple[Problem, ...]
    how: str


class Enforcement:
    """The packet filter of this gateway. All methods raise LinuxError when the kernel or a program says no."""

    def __init__(self, netfilter: Netfilter, doors: Doors, dataplane: Dataplane = Dataplane.USERLAND) -> None:
        self._netfilter = netfilter
        self._doors = replace(doors, kernel_esp=dataplane is Dataplane.KERNEL)
        self._sides = Sides(TUNNEL_INTERFACE, doors.cloud_interface, dataplane is Dataplane.KERNEL)
        self._in_force: InForce | None = None
        self._admission = Admission(netfilter)
        self._writes = 0
        self._granted: dict[str, datetime] | None = None
        self._last_version: int | None = None

    @property
    def fingerprint(self) -> str:
        """The rule set known to be in the kernel; empty: none is, or nobody has looked yet at what is."""
        return self._in_force.rule_set.fingerprint if self._in_force is not None else ""

    @property
    def in_force(self) -> RuleSet | None:
        """The rule set known to be in the kernel."""
        return self._in_force.rule_set if self._in_force is not None else None

    def hold(self) -> None:
        """Put the skeleton in place: default deny from here on. First thing at start; keeps a version in force."""
        self._writes += 1
        self._netfilter.restore_sets(sets_text())
        self._netfilter.restore_rules(skeleton_text(self._doors, self.read_tables()))

    def admit(self, parts: Parts) -> bool:
        """Whose packets the gateway itself listens to: sites that are in the inventory, and cloud servers. True when
        something changed. Parts that are the very objects of the call before are not looked at.
        """
        changed = self._admission.admit(parts)
        self._writes += changed
        return changed

    def grant(self, rule_set: RuleSet, *, now: datetime) -> tuple[Problem, ...]:
        """Keep the set of timed grants as the rule set wants it; the kernel ends each on its time by itself. Returns
        the grants that it cannot keep.
        """
        wanted, problems = entries(rule_set)
        if self._granted is None:
            # Whatever an earlier process left is exchanged in one step: it may have been ended meanwhile.
            new = f"{TIMED_SET}-new"
            lines = [f"create -exist {new} {TIMED_KIND}\n", f"flush {new}\n", *_timed(new, wanted, now)]
            text = "".join([*lines, f"swap {new} {TIMED_SET}\n", f"destroy {new}\n"])
        else:
            before = self._granted
            changed = {entry: end for entry, end in wanted.items() if before.get(entry) != end}
            gone = [f"del -exist {TIMED_SET} {entry}\n" for entry in before if entry not in wanted]
            text = "".join([*gone, *_timed(TIMED_SET, changed, now)])
        self._granted = None
        if text:
            self._writes += 1
            self._netfilter.restore_sets(text)
        self._granted = dict(wanted)
        return problems

    def apply(self, rule_set: RuleSet) -> Applied:
        """Put a rule set in force, whatever was before. On any error what was in force is whole; which that is, is then
        found out by the next call, as after a start: by reading the kernel back.
        """
        if self._in_force is None and self._look_back(rule_set):
            return Applied(left_out(rule_set), "adopted")
        version = self._next_version()
        self._writes += 1
        before = self._in_force
        wanted = change(before, rule_set, version, self._sides)
        if wanted.sets and not wanted.chains:
            try:
                self._netfilter.restore_sets(wanted.sets)
            except LinuxError:
                # What nobody may use may be half written, or all of it. A new version leaves it behind.
                wanted = change(before, rule_set, version, self._sides, in_place=False)
            else:
                self._in_force = wanted.result
                return Applied(left_out(rule_set), "in place")
        try:
            self._netfilter.restore_sets(wanted.sets)
            if wanted.chains:
                self._in_force = None
                flip = f":{POLICY_CHAIN} - [0:0]\n-A {POLICY_CHAIN} -g {top_chain(wanted.result.top.version)}\n"
                self._netfilter.restore_rules(f"*mangle\n{wanted.chains}{flip if wanted.flip else ''}COMMIT\n")
        except LinuxError:
            # A program that was ended late may have done its work all the same.
            self._in_force = self._which(before, wanted.result)
            self._forget(version)
            raise
        self._in_force = wanted.result
        return Applied(left_out(rule_set), "new version")

    def _which(self, *candidates: InForce | None) -> InForce | None:
        """The one whose chains the kernel has; None: it has none's, or cannot be asked."""
        try:
            found = self.read_tables().mangle
        except LinuxError:
            return None
        for one in candidates:
            if one is not None and not different_chains(self._chains_of(one), found):
                return one
        return None

    def _chains_of(self, one: InForce) -> dict[str, tuple[str, ...]]:
        return {**one.chains(self._sides), POLICY_CHAIN: (f"-g {top_chain(one.top.version)}",)}

    def _look_back(self, rule_set: RuleSet) -> bool:
        """Take over what is in the kernel as this rule set would have it. True if that is all of it."""
        mangle = self.read_tables().mangle
        if not mangle.rules.get(POLICY_CHAIN):
            return False
        self._in_force, whole = adopted(rule_set, mangle, parse_sets(self._netfilter.save_sets()), self._sides)
        return whole

    def sweep(self) -> None:
        """Remove chains and sets of versions that are not in force."""
        self._writes += 1
        known_chains = self._in_force.chains(self._sides) if self._in_force is not None else {}
        known_sets = self._in_force.sets(self._sides) if self._in_force is not None else {}
        chains = [name for name in version_names(self.read_tables().mangle.rules) if name not in known_chains]
        if chains and self._in_force is not None:
            lines = ["*mangle", *(f"-F {name}" for name in chains), *(f"-X {name}" for name in chains)]
            self._netfilter.restore_rules("\n".join([*lines, "COMMIT", ""]))
        if self._in_force is not None:
            self._destroy(name for name in version_names(self._netfilter.set_names()) if name not in known_sets)

    @property
    def traffic(self) -> Traffic:
        """What counts the sites' traffic."""
        return self._admission.traffic

    @property
    def writes(self) -> int:
        """How often the kernel was written to: what was read before the last time says nothing any more."""
        return self._writes

    def read_tables(self) -> Tables:
        """Our two tables as they are. Like the other readings it may be called by another thread."""
        return Tables(parse_chains(self._netfilter.save_rules()), parse_chains(self._netfilter.save_rules("mangle")))

    def read_headings(self) -> dict[str, Heading]:
        """All sets without their entries."""
        return parse_headings(self._netfilter.list_headings())

    def read_sets(self, names: Sequence[str]) -> dict[str, SetContent]:
        """These sets with their entries; those that are not there are left out."""
        there = frozenset(self._netfilter.set_names())  # one that is not there would end the listing of the others
        return parse_sets(self._netfilter.save_sets([name for name in names if name in there]))

    def set_sizes(self) -> dict[str, int]:
        """Each set that is kept here, with the number of its entries."""
        own = {name: len(members) for name, members in self._admission.members.items()}
        if self._granted is not None:
            own[TIMED_SET] = len(self._granted)
        known = self._in_force.sets(self._sides) if self._in_force is not None else {}
        return own | {name: len(content.entries) for name, content in known.items()}

    def judge_tables(self, tables: Tables) -> tuple[str, ...]:
        """Compare rules word by word with what was put there; mend the skeleton. Returns what differed.

        When the rule set in force differs it is given up: `fingerprint` becomes empty and the caller applies anew.
        """
        found = [f"chain {name}" for name in skeleton_differences(self._doors, tables)]
        if found:
            self.hold()
        return tuple(found) + self._give_up(
            lambda known: different_chains(self._chains_of(known), tables.mangle),
        )

    def judge_headings(self, headings: Mapping[str, Heading]) -> tuple[str, ...]:
        """Compare sets by type and size; mend those that are not the rule set's. Else as `judge_tables`."""
        found = [
            name
            for name, members in self._admission.members.items()
            if name not in headings or headings[name].count != len(members)
        ]
        self._restore_admitted(found)
        return tuple(f"set {name}" for name in found) + self._give_up(
            lambda known: different_headings(known.sets(self._sides), headings)
        )

    def judge_sets(self, names: Sequence[str], contents: Mapping[str, SetContent]) -> tuple[str, ...]:
        """Compare these sets entry by entry. Else as `judge_headings`."""
        asked = frozenset(names)
        found = [
            name
            for name, members in self._admission.members.items()
            if name in asked and (name not in contents or contents[name].entries.keys() != members)
        ]
        self._restore_admitted(found)
        granted = contents.get(TIMED_SET) if self._granted is not None and TIMED_SET in asked else None
        if granted is not None and granted.entries.keys() - (self._granted or {}):
            found.append(TIMED_SET)
            self._granted = None
        return tuple(f"set {name}" for name in found) + self._give_up(
            lambda known: different_sets(
                {name: one for name, one in known.sets(self._sides).items() if name in asked}, contents
            )
        )

    def repair(self, *, thorough: bool = False) -> tuple[str, ...]:
        """All of this at once; ``thorough``: entry by entry too. Returns what differed."""
        found = self.judge_tables(self.read_tables())
        if thorough:
            names = tuple(self.set_sizes())
            found += self.judge_sets(names, self.read_sets(names))
        else:
            found += self.judge_headings(self.read_headings())
        return tuple(dict.fromkeys(found))

    def _give_up(self, differences: Callable[[InForce], tuple[str, ...]]) -> tuple[str, ...]:
        found = differences(self._in_force) if self._in_force is not None else ()
        if found:
            self._in_force = None
        return found

    def _restore_admitted(self, names: Sequence[str]) -> None:
        if names:
            self._writes += 1
            self._netfilter.restore_sets(sets_text() + "".join(map(self._admission.replacement, names)))

    def close(self) -> None:
        """Leave the skeleton alone with an empty policy: nothing new is forwarded."""
        self.hold()
        self._netfilter.restore_rules(closed_text(tuple(version_names(self.read_tables().mangle.rules))))
        self._in_force = None
        self._destroy(version_names(self._netfilter.set_names()))

    def _next_version(self) -> int:
        """A version that nothing in the kernel has: asked once, then counted, even when an attempt failed."""
        if self._last_version is None:
            names = version_names([*self.read_tables().mangle.rules, *self._netfilter.set_names()])
            self._last_version = max((version for version in names.values() if version is not None), default=0)
        self._last_version += 1
        return self._last_version

    def _forget(self, version: int) -> None:
        """Take away the sets of a version that did not come into force."""
        known = self._in_force.sets(self._sides) if self._in_force is not None else {}
        names = version_names(self._netfilter.set_names()).items()
        self._destroy(name for name, found in names if found == version and name not in known)

    def _destroy(self, names: Iterable[str]) -> None:
        self._netfilter.restore_sets("".join(f"destroy {name}\n" for name in names))


def _timed(name: str, wanted: Mapping[str, datetime], now: datetime) -> Iterator[str]:
    for entry, end in wanted.items():
        # Rounded down: a grant may end a second early, never late.
        if (left_s := int((end - now).total_seconds())) > 0:
            yield f"add -exist {name} {entry} timeout {left_s}\n"
