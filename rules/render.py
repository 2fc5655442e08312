"""RuleSet -> text for ipset restore and iptables-restore, under versioned names: a new one is built beside the old.

The gateway's skeleton comes before: FORWARD's policy is DROP, ESTABLISHED and RELATED are accepted, then it jumps here.
Behind the entry chain everything ends in DROP by a denial, in ACCEPT by a grant or in DROP; denials come first. A
packet gets to its source's chain only from the interface where that source lives, and towards the interface where its
destination lives (anti-spoof, both ways).

IPv4 only for now: members with IPv6 addresses are left out, so they reach nothing, and a problem names each.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from rules.compile import Clause, RuleSet
from rules.dispatch import Level, tree
from rules.match import Form, form, range_match
from rules.model import Endpoint, Kind, Service
from rules.problems import Problem

#: Names stay within the kernel's 28 (chain) and 31 (set) characters up to this version.
VERSION_MAX = 10**15
#: All of IPv4, as hash:net can say it: it has no /0.
EVERYWHERE = ("0.0.0.0/1", "128.0.0.0/1")
_SET_TYPES = {"n": "hash:net", "p": "hash:net,port"}


@dataclass(frozen=True, slots=True)
class Rendered:
    """``sets`` is for ``ipset restore``, ``chains`` for ``iptables-restore --noflush``; sets come first."""

    sets: str
    chains: str
    entry_chain: str
    set_names: tuple[str, ...]
    chain_names: tuple[str, ...]
    problems: tuple[Problem, ...] = ()


def render(rule_set: RuleSet, *, version: int, tunnel_interface: str, cloud_interface: str) -> Rendered:
    """Write the rule set under names of ``version``. Equal rule sets give equal text."""
    if not 0 <= version < VERSION_MAX:
        raise ValueError(f"version {version} does not fit a chain name")
    writer = _Writer(rule_set, f"ky{version}")
    writer.entry(tunnel_interface, cloud_interface)
    return writer.rendered()


@dataclass(slots=True)
class _Writer:
    rule_set: RuleSet
    prefix: str
    networks: dict[str, IPv4Network] = field(init=False)
    networks_text: dict[str, str] = field(init=False)
    sets: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)
    set_text: list[str] = field(default_factory=list)
    chains: dict[str, list[str]] = field(default_factory=dict)
    block_rules: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    profiles: dict[tuple[tuple[int, ...], tuple[str, ...]], str] = field(default_factory=dict)

    homes: dict[frozenset[str], frozenset[str]] = field(default_factory=dict)
    inside: dict[tuple[tuple[str, frozenset[str]], ...], tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.networks = {
            name: endpoint.network
            for name, endpoint in sorted(self.rule_set.endpoints.items())
            if isinstance(endpoint.network, IPv4Network)
        }
        self.networks_text = {name: str(network) for name, network in self.networks.items()}

    def rendered(self) -> Rendered:
        names = list(self.chains)
        lines = ["*filter", *(f":{name} - [0:0]" for name in names)]
        for name in names:
            lines.extend(f"-A {name} {rule}" for rule in self.chains[name])
        lines.append("COMMIT")
        left_out = [
            Problem("rules.ipv6-not-rendered", {"name": name, "network": str(endpoint.network)})
            for name, endpoint in sorted(self.rule_set.endpoints.items())
            if name not in self.networks
        ]
        sets = "".join(f"{line}\n" for line in self.set_text)
        chains = "".join(f"{line}\n" for line in lines)
        return Rendered(sets, chains, self.prefix, tuple(self.sets.values()), tuple(names), tuple(left_out))

    # -- from the interface to the source ---------------------------------------------------------------------------

    def entry(self, tunnel: str, cloud: str) -> None:
        entry = self.chains[self.prefix] = []
        of_kind = {kind: [one for one in self._endpoints() if one.kind is kind] for kind in Kind}
        sites = self._set("n", (str(site.network) for site in of_kind[Kind.SITE]))
        servers = self._set("n", (str(server.network) for server in of_kind[Kind.SERVER]))
        from_sites = self._dispatch(self._sites(of_kind))
        from_servers = self._dispatch(
            (self.networks[server.name], rule)
            for server in of_kind[Kind.SERVER]
            if (rule := self._leaf(server, (server.name,))) is not None
        )
        forbidden = frozenset(self.rule_set.platform.forbidden)
        entry.extend(self._rules([(half, forbidden) for half in EVERYWHERE if forbidden], "DROP"))
        entry.append(f"-i {tunnel} -o {tunnel} -m set --match-set {sites} dst -g {from_sites}")
        entry.append(f"-i {tunnel} -o {cloud} -m set --match-set {servers} dst -g {from_sites}")
        entry.append(f"-i {cloud} -o {tunnel} -m set --match-set {sites} dst -g {from_servers}")
        entry.append("-j DROP")

    def _endpoints(self) -> Iterable[Endpoint]:
        return (self.rule_set.endpoints[name] for name in self.networks)

    def _sites(self, of_kind: Mapping[Kind, list[Endpoint]]) -> Iterable[tuple[IPv4Network, str]]:
        """For each site that may reach something (or a device of which may) the rule that leads on."""
        particular: dict[str, list[Endpoint]] = {}
        inside = {name for group in self.rule_set.nested.get("", ()) for name in group.members}
        for device in of_kind[Kind.DEVICE]:
            if device.site is not None and (device.name in self.rule_set.sources or device.name in inside):
                particular.setdefault(device.site, []).append(device)
        for site in of_kind[Kind.SITE]:
            rule = self._leaf(site, (site.name,))
            if site.name in particular:
                rule = self._site_with_devices(site, particular[site.name])
            if rule is not None:
                yield self.networks[site.name], rule

    def _site_with_devices(self, site: Endpoint, devices: list[Endpoint]) -> str:
        """Devices with clauses of their own first, each with its site's clauses too; then the rest of the site."""
        cases = [
            (self.networks[device.name], rule)
            for device in devices
            if (rule := self._leaf(device, (device.name, site.name))) is not None
        ]
        profile = self._profile((site.name,))
        chain = self._dispatch(cases, otherwise=f"-g {profile}" if profile else "-j DROP")
        return f"! -d {site.network} -g {chain}"

    def _leaf(self, source: Endpoint, names: tuple[str, ...]) -> str | None:
        """What a rule does with packets of this source: nothing that stays on its own site's LAN is let through."""
        profile = self._profile(names)
        if profile is None:
            return None
        home = f"! -d {self.networks[source.site]} " if source.site is not None else ""
        return f"{home}-g {profile}"

    def _dispatch(self, cases: Iterable[tuple[IPv4Network, str]], otherwise: str = "-j DROP") -> str:
        """The chain that finds the source among ``cases`` and does what its case says."""
        return self._level(tree(cases), otherwise)

    def _level(self, level: Level[str], otherwise: str) -> str:
        chain = f"{self.prefix}-d{len(self.chains)}"
        rules = self.chains[chain] = []
        for network, target in level.cases:
            todo = f"-g {self._level(target, otherwise)}" if isinstance(target, Level) else target
            rules.append(f"-s {network} {todo}")
        rules.append(otherwise)
        return chain

    # -- from the source to its clauses ------------------------------------------------------------------------------

    def _profile(self, names: tuple[str, ...]) -> str | None:
        """The chain for sources with the blocks of ``names`` and their closed groups; None if they have no grants."""
        numbers = tuple(sorted({number for name in names for number in self.rule_set.sources.get(name, ())}))
        if not any(self.rule_set.blocks[number].grants for number in numbers):
            return None
        key = numbers, self._closed(names, numbers)
        if key not in self.profiles:
            chain = self.profiles[key] = f"{self.prefix}-p{len(self.chains)}"
            rules = self.chains[chain] = []
            if closed := key[1]:
                rules.append(f"-m set --match-set {self._set('n', closed)} dst -j DROP")
            for target in ("DROP", "ACCEPT"):
                rules.extend(rule for number in numbers for rule in self._block(number, target))
            rules.append("-j DROP")
        return self.profiles[key]

    def _closed(self, names: tuple[str, ...], numbers: tuple[int, ...]) -> tuple[str, ...]:
        """The networks inside nested groups that the source is not in, if a grant leads there."""
        groups = self.rule_set.closed_to([self.rule_set.endpoints[name] for name in names])
        if not groups:
            return ()
        granted = [clause.destinations for number in numbers for clause in self.rule_set.blocks[number].grants]
        return self._networks_inside(
            tuple(
                (group.tenant, group.members)
                for group in groups
                if any(not self._homes(group.members).isdisjoint(self._homes(names)) for names in granted)
            )
        )

    def _homes(self, names: frozenset[str]) -> frozenset[str]:
        """The sites of the names, and the servers among them."""
        if names not in self.homes:
            self.homes[names] = frozenset(self.rule_set.endpoints[name].site or name for name in names)
        return self.homes[names]

    def _networks_inside(self, groups: tuple[tuple[str, frozenset[str]], ...]) -> tuple[str, ...]:
        if groups not in self.inside:
            found = {
                name
                for tenant, members in groups
                for name in members & self.networks.keys()
                if self.rule_set.endpoints[name].tenant == tenant
            }
            self.inside[groups] = tuple(self.networks_text[name] for name in sorted(found))
        return self.inside[groups]

    def _block(self, number: int, target: str) -> list[str]:
        """The rules of the block's denials or grants, each written once."""
        if (number, target) not in self.block_rules:
            block = self.rule_set.blocks[number]
            self.block_rules[number, target] = self._clauses(
                block.denials if target == "DROP" else block.grants, target
            )
        return self.block_rules[number, target]

    def _clauses(self, clauses: Iterable[Clause], target: str) -> list[str]:
        offered: dict[str, set[Service]] = {}
        for clause in clauses:
            for name in clause.destinations:
                offered.setdefault(name, set()).update(clause.services)
        named = sorted(offered.keys() & self.networks.keys())
        return self._rules(((self.networks_text[name], frozenset(offered[name])) for name in named), target)

    def _rules(self, offered: Iterable[tuple[str, frozenset[Service]]], target: str) -> list[str]:
        """One lookup for whole networks, one for single ports, one for each wide range."""
        whole: list[str] = []
        ports: list[str] = []
        wide: dict[Service, list[str]] = {}
        # Destinations are many, what is offered to them is one of a few combinations: each is worked out once.
        forms: dict[frozenset[Service], Form] = {}
        for network, services in offered:
            if services not in forms:
                forms[services] = form(services)
            written = forms[services]
            if written.whole:
                whole.append(network)
            ports.extend(f"{network},{entry}" for entry in written.entries)
            for part in written.wide:
                wide.setdefault(part, []).append(network)
        rules = []
        if whole:
            rules.append(f"-m set --match-set {self._set('n', whole)} dst -j {target}")
        if ports:
            rules.append(f"-m set --match-set {self._set('p', ports)} dst,dst -j {target}")
        for service in sorted(wide):
            rules.append(f"{range_match(service)} -m set --match-set {self._set('n', wide[service])} dst -j {target}")
        return rules

    def _set(self, kind: str, members: Iterable[str]) -> str:
        """The set with exactly these members; equal sets are one set."""
        entries = tuple(members)
        if (kind, entries) not in self.sets:
            name = self.sets[kind, entries] = f"{self.prefix}-{kind}{len(self.sets)}"
            size = max(64, 1 << (len(entries) // 2).bit_length())
            limit = max(64, len(entries))
            self.set_text.append(f"create {name} {_SET_TYPES[kind]} family inet hashsize {size} maxelem {limit}")
            self.set_text.extend(f"add {name} {entry}" for entry in entries)
        return self.sets[kind, entries]
