"""Killed after any line, a change leaves the old rule set or the new one in force, for all packets alike."""

import re
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from rules_interpreter import GRANT, REFUSED, TIMED_GRANT, Kernel
from rules_worlds import TENANTS, World, boundary_addresses, packets, worlds

from cloudside.datapath.versions import Change, InForce, change, version_names
from rules.compile import RuleSet, compile_policy
from rules.evaluate import evaluate
from rules.model import Device, Inventory, Packet, Site
from rules.parse import parse_stored
from rules.render import Sides, top_chain

SIDES = Sides("ipsec0", "lan0")
#: Of a new version beside the old one every so many lines are enough: nothing leads to it yet.
STEP = 7


class LivingKernel(Kernel):
    """One that takes changes as ipset and iptables do, and refuses what they refuse."""

    def restore_set_line(self, line: str) -> None:
        verb, name, *rest = line.split(" ", 2)
        if verb == "create":
            assert name not in self.sets
            self.sets[name] = {}
        elif verb == "add":
            port, length, network, value = _entry(rest[0])
            found = self.sets[name].setdefault(port, {}).setdefault(length, {})
            assert network not in found
            found[network] = value
        elif verb == "del":
            port, length, network, _ = _entry(rest[0])
            del self.sets[name][port][length][network]
        elif verb == "swap":
            self.sets[name], self.sets[rest[0]] = self.sets[rest[0]], self.sets[name]
        else:
            assert verb == "destroy"
            assert not any(name in words for rules in self.chains.values() for words in rules), "in use"
            del self.sets[name]

    def restore_chains(self, text: str) -> None:
        """In one step. Chains that are named get new rules; what they ask has to be there."""
        named: dict[str, list[list[str]]] = {}
        for line in text.splitlines():
            if line.startswith(":"):
                named[line[1:].split()[0]] = []
            else:
                _, name, *words = line.split(" ")
                named[name].append(words)
        self.chains |= named
        for rules in named.values():
            for words in rules:
                for flag, name in pairwise(words):
                    if flag in ("--match-set", "--map-set"):
                        assert name in self.sets or name == "kyoten-grants"
                    if flag == "-g":
                        assert name in self.chains or name in (GRANT, TIMED_GRANT, REFUSED)

    def finish(self, wanted: Change) -> None:
        """The step after the sets."""
        top = wanted.result.top.version
        flip = f":KY-POLICY - [0:0]\n-A KY-POLICY -g {top_chain(top)}\n" if wanted.flip else ""
        if wanted.chains or flip:
            self.restore_chains(wanted.chains + flip)


def _entry(text: str) -> tuple[str, int, int, tuple[int, int]]:
    words = text.split(" ")
    network, _, port = words[0].partition(",")
    found = ip_network(network)
    mark, slash, mask = words[2].partition("/") if len(words) > 2 else ("0", "/", "0xffffffff")
    return port, found.prefixlen, int(found.network_address), (int(mark, 16), int(mask if slash else "0xffffffff", 16))


def _compiled(world: World, previous: RuleSet | None = None) -> RuleSet:
    policy, _ = parse_stored(world.sources(), world.inventory, world.platform_source())
    return compile_policy(policy, world.inventory, previous=previous)


def _decisions(kernel: Kernel, asked: list[Packet]) -> list[bool]:
    cloud = ip_network("10.9.0.0/24")
    return [
        kernel.accepts(
            "KY-POLICY",
            "lan0" if one.source in cloud else "ipsec0",
            "lan0" if one.destination in cloud else "ipsec0",
            *(str(one.source), str(one.destination), one.protocol, one.selector),
        )
        for one in asked
    ]


@st.composite
def _changed(draw: st.DrawFn, inventory: Inventory) -> Inventory:
    """Another inventory: sites gone, come and moved, devices too."""
    sites = list(inventory.sites)
    devices = list(inventory.devices)
    for _ in range(draw(st.integers(1, 3))):
        what = draw(st.sampled_from(["gone", "come", "move", "move", "device"]))
        if what == "come":
            tenant, number = draw(st.sampled_from(sorted(TENANTS))), draw(st.integers(0, 63))
            if all(site.name != f"{tenant}-{number}" for site in sites):
                base = int(TENANTS[tenant].network_address) + number * 1024
                site = Site(f"{tenant}-{number}", tenant, ip_network((base, draw(st.sampled_from([22, 24, 30])))))
                if not any(site.prefix.overlaps(other.prefix) for other in sites):
                    sites.append(site)
            continue
        if not sites:
            continue
        site = draw(st.sampled_from(sites))
        if what == "device":
            if not any(one.site == site.name for one in devices):
                devices.append(Device(site.name, f"d{int(site.prefix[1]) % 1024}", site.prefix[1]))
            else:
                devices = [one for one in devices if one.site != site.name]
            continue
        sites.remove(site)
        devices = [one for one in devices if one.site != site.name]
        if what == "move":
            number = draw(st.integers(0, 63))
            prefix = ip_network((int(TENANTS[site.tenant].network_address) + number * 1024, 24))
            if not any(prefix.overlaps(other.prefix) for other in sites):
                sites.append(replace(site, prefix=prefix))
    return Inventory(inventory.tenants, tuple(sites), tuple(devices), inventory.servers)


def _same_or_new(first: World, second: World, sample: list[Packet], *, in_place: bool) -> str:
    """Go from one world to the other line by line. Returns how it went."""
    old = _compiled(first)
    new = _compiled(second, old)
    kernel = LivingKernel()
    start = change(None, old, 1, SIDES)
    for line in start.sets.splitlines():
        kernel.restore_set_line(line)
    kernel.finish(start)
    wanted = change(start.result, new, 2, SIDES, in_place=in_place)
    before, after = ([evaluate(rule_set, one).allowed for one in sample] for rule_set in (old, new))
    assert _decisions(kernel, sample) == before
    lines = wanted.sets.splitlines()
    alone = not (wanted.chains or wanted.flip)
    for place, line in enumerate(lines):
        kernel.restore_set_line(line)
        if alone or place % STEP == 0 or place == len(lines) - 1:
            found = _decisions(kernel, sample)
            assert found in ((before, after) if alone else (before,)), f"after {place}: {line}"
    kernel.finish(wanted)
    assert _decisions(kernel, sample) == after
    _sweepable(kernel, wanted.result)
    return "in place" if alone and lines else "new version"


def _sweepable(kernel: LivingKernel, result: InForce) -> None:
    """What is left over has names that the sweep knows, and nothing in force leads to it."""
    chains, sets = result.chains(SIDES), result.sets(SIDES)
    left = [name for name in kernel.chains if name not in chains and name != "KY-POLICY"]
    assert set(left) <= version_names(kernel.chains).keys()
    for name in left:
        del kernel.chains[name]
    over = [name for name in kernel.sets if name not in sets]
    assert set(over) <= version_names(kernel.sets).keys()
    for name in over:
        kernel.restore_set_line(f"destroy {name}")
    assert kernel.chains.keys() - {"KY-POLICY"} == chains.keys()
    assert kernel.sets.keys() == sets.keys()
    assert all(re.match(r"ky", name) for name in kernel.sets)


def _sample(data: st.DataObject, *inventories: Inventory) -> list[Packet]:
    return [data.draw(packets(data.draw(st.sampled_from(inventories)))) for _ in range(30)]


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_killed_anywhere_while_sites_change_either_rule_set_holds(data: st.DataObject) -> None:
    first = data.draw(worlds())
    second = replace(first, inventory=data.draw(_changed(first.inventory)))
    _same_or_new(first, second, _sample(data, first.inventory, second.inventory), in_place=data.draw(st.booleans()))


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_killed_anywhere_while_policies_change_either_rule_set_holds(data: st.DataObject) -> None:
    first = data.draw(worlds())
    tenant = data.draw(st.sampled_from(sorted(TENANTS)))
    other = data.draw(worlds())
    second = replace(first, policies={**first.policies, tenant: other.policies[tenant]})
    if data.draw(st.booleans()):
        second = replace(second, inventory=data.draw(_changed(first.inventory)))
    _same_or_new(first, second, _sample(data, first.inventory, second.inventory), in_place=True)


def _small() -> tuple[World, World]:
    """One site of three goes."""
    sites = tuple(Site(f"acme-{n}", "acme", ip_network((0x0A010000 + n * 1024, 24))) for n in range(3))
    inventory = Inventory(TENANTS, sites, (), ())
    allow = [{"from": ["acme-0", "acme-1"], "to": ["acme-1", "acme-2"], "services": ["https", "udp/47808"]}]
    first = World(inventory, {"acme": {"tenant": "acme", "allow": allow}})
    return first, replace(first, inventory=replace(inventory, sites=sites[:2]))


def _every_pair(inventory: Inventory) -> list[Packet]:
    addresses = boundary_addresses(inventory)
    return [Packet(one, other, 6, 443) for one in addresses for other in addresses if one != other]


def test_a_site_that_goes_goes_in_place() -> None:
    first, second = _small()
    assert _same_or_new(first, second, _every_pair(first.inventory), in_place=True) == "in place"


def test_a_mixture_is_noticed() -> None:
    """The proof can fail: were the swap done before the entries are written, a new site would be let in by halves."""
    second, first = _small()
    old, new = _compiled(first), _compiled(second)
    start = change(None, old, 1, SIDES)
    wanted = change(start.result, _compiled(second, old), 2, SIDES)
    assert wanted.chains == ""
    kernel = LivingKernel()
    for line in start.sets.splitlines():
        kernel.restore_set_line(line)
    kernel.finish(start)
    ends = ip_address("10.1.0.1"), ip_address("10.1.8.1")
    asked = [Packet(*ends, 6, 443), Packet(*ends, 17, 47808)]
    lines = wanted.sets.splitlines()
    swap = lines.index(next(line for line in lines if line.startswith("create ")))
    seen = []
    for line in lines[swap:] + lines[:swap]:
        kernel.restore_set_line(line)
        seen.append(_decisions(kernel, asked))
    before, after = ([evaluate(rule_set, one).allowed for one in asked] for rule_set in (old, new))
    assert any(one not in (before, after) for one in seen)
    assert seen[-1] == after
