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
from rules.model import SELECTOR_MAX, Endpoint, Kind, Protocol, Service
from rules.problems import Problem
from rules.services import merged

#: A range of at most this many ports is written into the sets; ipset stores each port of each network by itself, so a
#: wider one becomes a rule that compares the range and asks a set of networks.
EXPAND_MAX_PORTS = 16
#: Names stay within the kernel's 28 (chain) and 31 (set) characters up to this version.
VERSION_MAX = 10**15
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
    profiles: dict[tuple[int, ...], str] = field(default_factory=dict)

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
        entry.append(f"-i {tunnel} -o {tunnel} -m set --match-set {sites} dst -g {from_sites}")
        entry.append(f"-i {tunnel} -o {cloud} -m set --match-set {servers} dst -g {from_sites}")
        entry.append(f"-i {cloud} -o {tunnel} -m set --match-set {sites} dst -g {from_servers}")
        entry.append("-j DROP")

    def _endpoints(self) -> Iterable[Endpoint]:
        return (self.rule_set.endpoints[name] for name in self.networks)

    def _sites(self, of_kind: Mapping[Kind, list[Endpoint]]) -> Iterable[tuple[IPv4Network, str]]:
        """For each site that may reach something (or a device of which may) the rule that leads on."""
        particular: dict[str, list[Endpoint]] = {}
        for device in of_kind[Kind.DEVICE]:
            if device.site is not None and device.name in self.rule_set.sources:
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
        """The chain for sources with exactly the blocks of ``names``; None if nothing is granted to them."""
        numbers = tuple(sorted({number for name in names for number in self.rule_set.sources.get(name, ())}))
        if not any(self.rule_set.blocks[number].grants for number in numbers):
            return None
        if numbers not in self.profiles:
            chain = self.profiles[numbers] = f"{self.prefix}-p{len(self.chains)}"
            rules = self.chains[chain] = []
            for target in ("DROP", "ACCEPT"):
                rules.extend(rule for number in numbers for rule in self._block(number, target))
            rules.append("-j DROP")
        return self.profiles[numbers]

    def _block(self, number: int, target: str) -> list[str]:
        """The rules of the block's denials or grants, each written once."""
        if (number, target) not in self.block_rules:
            block = self.rule_set.blocks[number]
            self.block_rules[number, target] = self._clauses(
                block.denials if target == "DROP" else block.grants, target
            )
        return self.block_rules[number, target]

    def _clauses(self, clauses: Iterable[Clause], target: str) -> list[str]:
        """One lookup for whole networks, one for single ports, one for each wide range."""
        offered: dict[str, set[Service]] = {}
        for clause in clauses:
            for name in clause.destinations:
                offered.setdefault(name, set()).update(clause.services)
        whole: list[str] = []
        ports: list[str] = []
        wide: dict[Service, list[str]] = {}
        # Destinations are many, what is offered to them is one of a few combinations: each is worked out once.
        forms: dict[frozenset[Service], _Form] = {}
        for name in sorted(offered.keys() & self.networks.keys()):
            services = frozenset(offered[name])
            if services not in forms:
                forms[services] = _form(services)
            form, network = forms[services], self.networks_text[name]
            if form.whole:
                whole.append(network)
            ports.extend(f"{network},{entry}" for entry in form.entries)
            for part in form.wide:
                wide.setdefault(part, []).append(network)
        rules = []
        if whole:
            rules.append(f"-m set --match-set {self._set('n', whole)} dst -j {target}")
        if ports:
            rules.append(f"-m set --match-set {self._set('p', ports)} dst,dst -j {target}")
        for service in sorted(wide):
            rules.append(f"{_range_match(service)} -m set --match-set {self._set('n', wide[service])} dst -j {target}")
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


@dataclass(frozen=True, slots=True)
class _Form:
    """How services are written: ``whole`` for any, ``entries`` for sets with ports, ``wide`` for rules of their own."""

    whole: bool
    entries: tuple[str, ...]
    wide: tuple[Service, ...]


def _form(services: Iterable[Service]) -> _Form:
    together = merged(services)
    parts = [part for service in together for part in _parts(service)]
    entries = tuple(entry for part in parts if _expands(part) for entry in _set_entries(part))
    wide = tuple(part for part in parts if not _expands(part))
    return _Form(any(service.protocol is Protocol.ANY for service in together), entries, wide)


def _parts(service: Service) -> Iterable[Service]:
    """The service in pieces that one rule or a few set entries can say: of ICMP one type, or all of it."""
    if service.protocol in (Protocol.TCP, Protocol.UDP):
        yield service
    elif service.protocol is Protocol.ICMP:
        if _is_all(service):
            yield service
            return
        for kind in range(service.low // 256, service.high // 256 + 1):
            low, high = max(service.low, kind * 256), min(service.high, kind * 256 + 255)
            yield Service(Protocol.ICMP, low, high)


def _expands(part: Service) -> bool:
    """Whether the part goes into a set value by value. ICMP type 255 has to: to iptables it means any type."""
    if _is_all(part):
        return False
    width = part.high - part.low + 1
    if part.protocol is Protocol.ICMP:
        return width < 256 or part.low == 255 * 256
    return width <= EXPAND_MAX_PORTS


def _is_all(service: Service) -> bool:
    return (service.low, service.high) == (0, SELECTOR_MAX)


def _set_entries(part: Service) -> Iterable[str]:
    """Port parts of hash:net,port entries, one each; ipset keeps ICMP's type and code where the port stands."""
    for selector in range(part.low, part.high + 1):
        if part.protocol is Protocol.ICMP:
            yield f"icmp:{selector // 256}/{selector % 256}"
        else:
            yield f"{part.protocol.name.lower()}:{selector}"


def _range_match(part: Service) -> str:
    name = part.protocol.name.lower()
    if _is_all(part):
        return f"-p {name}"
    if part.protocol is Protocol.ICMP:
        return f"-p icmp -m icmp --icmp-type {part.low // 256}"
    return f"-p {name} -m {name} --dport {part.low}:{part.high}"
