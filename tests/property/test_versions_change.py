"""From one rule set to another, stopped after every line: the old decisions or the new ones, never a mixture."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import pairwise

from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from rules_interpreter import Kernel

from cloudside.datapath.versions import Change, InForce, change, version_names
from rules.compile import RuleSet, assemble
from rules.evaluate import evaluate
from rules.model import Device, Inventory, Packet, PolicySource, Server, Site
from rules.parse import Drafts, parse_parts
from rules.parts import Parts, parts_of
from rules.render import Sides, top_chain

SIDES = Sides("tun", "lan")
#: Places for sites, /24 each; more of them than sites, so that there is room to move to.
PLACES = [ip_network((0x0A010000 + 256 * number, 24)) for number in range(12)]
NAMES = [f"s{number}" for number in range(6)]
SERVERS = (Server("web", None, ip_address("10.9.0.1")), Server("db", "acme", ip_address("10.9.0.2")))
#: Dense: nearly every pair is granted something, by statements that a half-done change would tear apart.
POLICIES = [
    """
tenant: acme
groups: {all: [s0, s1, s2, s3, s4, s5, web, db]}
allow: [{from: all, to: all, services: any}]
""",
    """
tenant: acme
groups:
  plant: [s0, s1, s2, s3/plc]
  office: [s3, s4, s5, db]
allow:
  - {from: plant, to: [office, web], services: [https, udp/100-9000], both: true}
  - {from: office, to: office, services: https}
deny:
  - {from: [s0, s4], to: [s5, web], services: udp/502}
""",
    """
tenant: acme
groups:
  all: [s0, s1, s2, s3, s4, s5, db]
  vault: {members: [s1, s3/plc, db], inside: all}
allow:
  - {from: all, to: all, services: [https, udp/502]}
  - {from: web, to: all, services: any}
""",
]


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    """Some of the sites, each at some place; s3 has a device if it is there."""
    there = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=6, unique=True))
    places = draw(st.lists(st.sampled_from(range(len(PLACES))), min_size=len(there), max_size=len(there), unique=True))
    sites = [Site(name, "acme", PLACES[place]) for name, place in zip(there, places, strict=True)]
    if draw(st.integers(0, 4)) == 0:  # one that takes half of its place
        sites[0] = replace(sites[0], prefix=list(sites[0].prefix.subnets())[draw(st.integers(0, 1))])
    devices = tuple(Device("s3", "plc", one.prefix[20]) for one in sites if one.name == "s3")
    return Inventory({"acme": ip_network("10.1.0.0/16")}, tuple(sites), devices, SERVERS)


#: One address of each half of each place, where the device may be, and the servers; nobody's too.
_ADDRESSES = [place[host] for place in PLACES for host in (20, 200)] + [ip_address(f"10.9.0.{n}") for n in (1, 2, 3)]
ASKED = [
    Packet(source, destination, protocol, port)
    for source in _ADDRESSES
    for destination in _ADDRESSES
    for protocol, port in ((6, 443), (17, 502))
]


class _Reader:
    """As the gateway reads: what did not change is the very object of before."""

    def __init__(self) -> None:
        self._drafts = Drafts()
        self._parts: Parts | None = None
        self._last: RuleSet | None = None

    def read(self, text: str, inventory: Inventory) -> RuleSet:
        self._parts = parts_of(inventory, self._parts)
        policy, _ = parse_parts([PolicySource("acme", "p", text)], self._parts, drafts=self._drafts)
        self._last = assemble(policy, self._parts, previous=self._last)
        return self._last


def _carry_out(kernel: Kernel, todo: Change) -> None:
    """The whole of it, as iptables does: all of the chains at once."""
    for line in todo.sets.splitlines():
        kernel.set_line(line)
    flip = f":KY-POLICY - [0:0]\n-A KY-POLICY -g {top_chain(todo.result.top.version)}\n" if todo.flip else ""
    if todo.chains:
        kernel.restore(f"*mangle\n{todo.chains}{flip}COMMIT\n")


def _decisions(kernel: Kernel, asked: Sequence[Packet]) -> list[bool]:
    servers = {server.address for server in SERVERS}
    return [
        kernel.accepts(
            "KY-POLICY",
            *("lan" if end in servers else "tun" for end in (one.source, one.destination)),
            str(one.source),
            str(one.destination),
            one.protocol,
            one.selector,
        )
        for one in asked
    ]


def _at(**places: int) -> Inventory:
    sites = tuple(Site(name, "acme", PLACES[place]) for name, place in places.items())
    return Inventory({"acme": ip_network("10.1.0.0/16")}, sites, (), SERVERS)


_HALVES = replace(
    _at(s0=0, s1=0),
    sites=tuple(Site(f"s{n}", "acme", half) for n, half in enumerate(PLACES[0].subnets())),
)


@example([(POLICIES[0], _at(s0=0, s1=1)), (POLICIES[0], _at(s0=0, s1=1, s2=2, s4=4)), (POLICIES[0], _at(s1=3, s2=2))])
@example([(POLICIES[0], _at(s0=0, s2=2)), (POLICIES[0], _HALVES), (POLICIES[0], _at(s0=2, s1=0))])
@given(st.lists(st.tuples(st.sampled_from(POLICIES), inventories()), min_size=2, max_size=4))
@settings(max_examples=15, deadline=None)
def test_a_change_cut_off_anywhere_is_the_old_or_the_new(worlds: list[tuple[str, Inventory]]) -> None:
    # Each inventory is met twice in a row with one policy, so that sites alone change as often as not.
    worlds = [
        worlds[0],
        *(
            step
            for (text, _), (other, inventory) in pairwise(worlds)
            for step in ((text, inventory), (other, inventory))
        ),
    ]
    reader, kernel = _Reader(), Kernel()
    in_force: InForce | None = None
    for version, (text, inventory) in enumerate(worlds, start=1):
        new = reader.read(text, inventory)
        wanted = [evaluate(new, packet).allowed for packet in ASKED]
        todo = change(in_force, new, version, SIDES)
        if in_force is not None:
            event("nothing" if not todo.sets else "versions" if todo.chains else "in place")
            old = _decisions(kernel, ASKED)
            differing = [number for number, pair in enumerate(zip(old, wanted, strict=True)) if pair[0] != pair[1]]
            # All that changes, and as much of what does not.
            chosen = sorted({*differing[:150], *range(0, len(ASKED), 37)})
            asked = [ASKED[number] for number in chosen]
            before, after = ([found[number] for number in chosen] for found in (old, wanted))
            stopped = Kernel({name: _copied(one) for name, one in kernel.sets.items()}, dict(kernel.chains))
            for line in todo.sets.splitlines():
                stopped.set_line(line)
                assert _decisions(stopped, asked) in ([before] if todo.chains else [before, after]), line
        _carry_out(kernel, todo)
        in_force = todo.result
        assert _decisions(kernel, ASKED) == wanted
        # Sets have what they should have and no more; of what is left over nothing is asked.
        contents = in_force.sets(SIDES)
        assert all(kernel.entries(name) == dict(content.entries) for name, content in contents.items())
        chains = in_force.chains(SIDES)
        kernel.forget(
            [name for name in version_names(kernel.sets) if name not in contents],
            [name for name in version_names(kernel.chains) if name not in chains],
        )
    assert _decisions(kernel, ASKED[::5]) == wanted[::5]


def _copied(one: dict[str, dict[int, dict[int, tuple[int, int]]]]) -> dict[str, dict[int, dict[int, tuple[int, int]]]]:
    return {port: {length: dict(found) for length, found in lengths.items()} for port, lengths in one.items()}
