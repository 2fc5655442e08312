"""Brings the packet filter to what is wanted, and notices when it is not so any more.

A new version of the rule set is built beside the old: its sets, then one iptables-restore with its chains and the flip
of KY-POLICY's jump, then the old version goes. Sets and rules share no transaction, so a step that fails, or a process
that dies between steps, leaves the old version whole; what it left lying about is swept by the next pass.

What is in force is known after a restart from the rule set's fingerprint in the jump's comment, and whether it is whole
from a digest in the runtime directory (which a reboot clears, as it clears the kernel).
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from cloudside.config import Network
from cloudside.datapath.skeleton import (
    POLICY_CHAIN,
    SERVERS_SET,
    SITES_SET,
    Doors,
    closed_text,
    sets_text,
    skeleton_differences,
    skeleton_text,
)
from cloudside.datapath.snapshot import (
    Chains,
    SetContent,
    differences,
    digest,
    parse_chains,
    parse_sets,
    version_of,
    versioned,
)
from linux.dataplane import TUNNEL_INTERFACE
from linux.errors import LinuxError
from linux.files import write_durably
from linux.netfilter import Netfilter
from rules.compile import RuleSet
from rules.render import Rendered, render

_FLIP = re.compile(r'-m comment --comment "?kyoten:([0-9a-f]+)"? -j (ky\d+)')

State = tuple[Chains, dict[str, SetContent]]


@dataclass(frozen=True, slots=True)
class InForce:
    """The version that KY-POLICY jumps to, and how the kernel looked right after it was put there."""

    version: int
    fingerprint: str
    chains: tuple[str, ...]
    sets: tuple[str, ...]
    state: State


class Enforcement:
    """The packet filter of this gateway. All methods raise LinuxError when the kernel or a program says no."""

    def __init__(self, netfilter: Netfilter, doors: Doors, record: Path) -> None:
        self._netfilter = netfilter
        self._doors = doors
        self._record = record
        self._in_force: InForce | None = None
        self._members: dict[str, frozenset[str]] = {}
        self._last_version: int | None = None

    @property
    def fingerprint(self) -> str:
        """The rule set in the kernel; empty: none, nothing new is forwarded."""
        return self._in_force.fingerprint if self._in_force is not None else ""

    def hold(self) -> None:
        """Put the skeleton in place: default deny from here on. First thing at start; keeps a version in force."""
        self._netfilter.restore_sets(sets_text())
        self._netfilter.restore_rules(skeleton_text(self._doors, self._chains()))

    def adopt(self) -> bool:
        """Take over the version that an earlier process left, if it is whole. Changes nothing in the kernel."""
        state = self._state()
        jump = _FLIP.fullmatch(" ".join(state[0].rules.get(POLICY_CHAIN, ())))
        if jump is None:
            return False
        version = version_of(jump[2])
        found = InForce(version, jump[1], _of_version(version, state[0].rules), _of_version(version, state[1]), state)
        try:
            recorded = json.loads(self._record.read_text())
        except (OSError, ValueError):
            return False
        if recorded != {"fingerprint": found.fingerprint, "digest": _digest(found)}:
            return False
        self._in_force = found
        return True

    def admit(self, sites: Iterable[Network], servers: Iterable[object]) -> bool:
        """Whose packets the gateway itself listens to. True when something changed."""
        wanted = {
            SITES_SET: frozenset(str(prefix) for prefix in sites if isinstance(prefix, IPv4Network)),
            SERVERS_SET: frozenset(str(address) for address in servers if isinstance(address, IPv4Address)),
        }
        changed = {name: members for name, members in wanted.items() if self._members.get(name) != members}
        if changed:
            self._netfilter.restore_sets("".join(_replacement(name, members) for name, members in changed.items()))
            self._members.update(changed)
        return bool(changed)

    def apply(self, rule_set: RuleSet) -> Rendered:
        """Put a rule set in force as a new version, whatever was before. On any error the old version is whole."""
        version = self._next_version()
        rendered = render(
            rule_set, version=version, tunnel_interface=TUNNEL_INTERFACE, cloud_interface=self._doors.cloud_interface
        )
        try:
            self._netfilter.restore_sets(rendered.sets)
            self._netfilter.restore_rules(_with_flip(rendered, rule_set.fingerprint))
        except LinuxError:
            self._forget_sets(rendered.set_names)
            raise
        state = self._state()
        self._in_force = InForce(
            version, rule_set.fingerprint, (*rendered.chain_names, POLICY_CHAIN), rendered.set_names, state
        )
        self._write_record()
        return rendered

    def sweep(self) -> None:
        """Remove chains and sets of versions that are not in force."""
        chains, sets = self._chains(), self._netfilter.set_names()
        keep = f"ky{self._in_force.version}" if self._in_force is not None else ""
        old_chains = [name for name in versioned(chains.rules) if name.split("-")[0] != keep]
        if old_chains:
            lines = ["*filter", *(f"-F {name}" for name in old_chains), *(f"-X {name}" for name in old_chains)]
            self._netfilter.restore_rules("\n".join([*lines, "COMMIT", ""]))
        old_sets = [name for name in versioned(sets) if name.split("-")[0] != keep]
        self._netfilter.restore_sets("".join(f"destroy {name}\n" for name in old_sets))

    def repair(self) -> tuple[str, ...]:
        """Compare the kernel with what was put there; mend the skeleton and the sets. Returns what differed.

        When the version in force differs it is given up: `fingerprint` becomes empty and the caller applies anew.
        """
        state = self._state()
        found = [f"chain {name}" for name in skeleton_differences(self._doors, state[0])]
        if found:
            self.hold()
        for name, members in self._members.items():
            content = state[1].get(name)
            if content is None or content.members != members:
                found.append(f"set {name}")
                self._netfilter.restore_sets(sets_text() + _replacement(name, members))
        known = self._in_force
        if known is not None:
            broken = differences(known.state, state, chains=known.chains, sets=known.sets)
            if broken:
                self._in_force = None
                found += broken
        return tuple(dict.fromkeys(found))

    def close(self) -> None:
        """Leave the skeleton alone with an empty policy: nothing new is forwarded."""
        self.hold()
        chains = self._chains()
        self._netfilter.restore_rules(closed_text(chains, versioned(chains.rules)))
        self._in_force = None
        self._record.unlink(missing_ok=True)
        self.sweep()

    def _next_version(self) -> int:
        """A version that nothing in the kernel has: asked once, then counted, even when an attempt failed."""
        if self._last_version is None:
            names = versioned([*self._chains().rules, *self._netfilter.set_names()])
            self._last_version = max(map(version_of, names), default=0)
        self._last_version += 1
        return self._last_version

    def _chains(self) -> Chains:
        return parse_chains(self._netfilter.save_rules())

    def _state(self) -> State:
        return self._chains(), parse_sets(self._netfilter.save_sets())

    def _forget_sets(self, names: Iterable[str]) -> None:
        present = set(self._netfilter.set_names())
        self._netfilter.restore_sets("".join(f"destroy {name}\n" for name in names if name in present))

    def _write_record(self) -> None:
        if self._in_force is not None:
            content = {"fingerprint": self._in_force.fingerprint, "digest": _digest(self._in_force)}
            write_durably(self._record, json.dumps(content).encode())


def _digest(found: InForce) -> str:
    return digest(found.state, chains=found.chains, sets=found.sets)


def _of_version(version: int, names: Mapping[str, object]) -> tuple[str, ...]:
    own = [name for name in versioned(names) if version_of(name) == version]
    return (*own, *(name for name in (POLICY_CHAIN,) if name in names))


def _with_flip(rendered: Rendered, fingerprint: str) -> str:
    """The version's chains and the jump to them as one transaction."""
    flip = f'-A {POLICY_CHAIN} -m comment --comment "kyoten:{fingerprint}" -j {rendered.entry_chain}'
    return rendered.chains.removesuffix("COMMIT\n") + f":{POLICY_CHAIN} - [0:0]\n{flip}\nCOMMIT\n"


def _replacement(name: str, members: Iterable[str]) -> str:
    """ipset-restore text that exchanges a set's content in one step."""
    new = f"{name}-new"
    return (
        f"create -exist {new} hash:net family inet\nflush {new}\n"
        + "".join(f"add {new} {member}\n" for member in sorted(members))
        + f"swap {new} {name}\ndestroy {new}\n"
    )
