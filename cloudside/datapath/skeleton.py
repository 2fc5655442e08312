"""The chains that are always there, whatever the policy: as iptables-restore text. Pure.

The filter table's FORWARD is ours alone: policy DROP, one jump to KY-FORWARD, and nothing else stays in it. There
established flows pass, and of new ones those that carry the mark of a granted packet. The mark is given in the mangle
table, whose FORWARD ends with a jump to KY-POLICY for the first packet of each flow; KY-POLICY leads to the version of
the rule set in force. What others have in that table stays and comes first; if they, or an empty KY-POLICY, keep a
packet from being decided it has no mark and is dropped.

What comes out of the tunnels and goes into them is counted by sets of the sites' prefixes, at the head of the mangle
table's PREROUTING and POSTROUTING: whatever becomes of SAs and of us, the counts stay (traffic).

Flows of a timed grant carry a mark of their connection, and pass only as long as the grant is in the kernel's set: so
they end on time, with nobody there to end them.

INPUT is shared with the machine's operator, for whom ssh and monitoring are none of our business. We hold three
interfaces: packets of the tunnel interface are judged by us before anything else; those of the cloud and the Internet
interface after the operator's own rules, and dropped unless they are for the gateway. So whoever administers a gateway
through its Internet interface puts an ACCEPT for that into INPUT first; other interfaces are not touched.
"""

from dataclasses import dataclass

from cloudside.config import Address, Config
from cloudside.datapath.refusals import REFUSED_MAX, REFUSED_PER_S, REFUSED_SET, REFUSED_TIMEOUT_S
from cloudside.datapath.snapshot import Chains
from linux.dataplane import TUNNEL_INTERFACE
from rules.render import GRANT_CHAIN, GRANTED, REFUSED_CHAIN, TIMED_GRANT_CHAIN, TIMED_SET

FORWARD_CHAIN = "KY-FORWARD"
POLICY_CHAIN = "KY-POLICY"
INPUT_CHAIN = "KY-INPUT"
#: Where flows of timed grants are asked whether their grant still stands.
TIMED_CHAIN = "KY-TIMED"
#: First messages of IKEv1.
OLD_IKE_CHAIN = "KY-IKE1"
OUR_FILTER_CHAINS = (
    FORWARD_CHAIN, TIMED_CHAIN, INPUT_CHAIN, OLD_IKE_CHAIN, "KY-IN-TUNNEL", "KY-IN-CLOUD", "KY-IN-INTERNET",
)  # fmt: skip
#: A connection that a timed grant let in has this bit of its mark.
TIMED_MARK = 0x40000000
_TIMED = f"{TIMED_MARK:#x}/{TIMED_MARK:#x}"

#: Sets that INPUT asks: overlay prefixes of sites that exist and are not revoked; addresses of cloud servers.
SITES_SET = "kyoten-sites"
SERVERS_SET = "kyoten-servers"
#: As many entries as these sets may have.
ADMITTED_MAX = 1_000_000
#: Sets whose entries count what came out of and went into the tunnels, by site prefix; and the chains that ask them.
FROM_SITES_SET = "kyoten-from-sites"
TO_SITES_SET = "kyoten-to-sites"
COUNTING_KIND = f"hash:net family inet counters maxelem {ADMITTED_MAX}"
FROM_SITES_CHAIN = "KY-FROM-SITES"
TO_SITES_CHAIN = "KY-TO-SITES"
#: The set of timed grants. Entries have an end of their own each.
TIMED_KIND = f"hash:ip,port,net family inet timeout 0 maxelem {ADMITTED_MAX}"

_IKE_PORTS = "500,4500"
#: IKEv1 has no cookies (RFC 7296 section 2.6 has): each first message, wherever it says it comes from, makes charon
#: keep a half-open SA for 15 s, and at 5,000 of these charon refuses everybody. So as many of them a second as keep
#: far from that, and it is IKEv1 alone that a flood of IKEv1 shuts out.
OLD_IKE_PER_S, OLD_IKE_BURST = 50, 100


def _old_ike(offset: int, *more: str) -> str:
    """u32's words for a UDP packet whose IKE header begins at ``offset``: no responder's SPI yet, and version 1.x."""
    after = "0x0>>0x16&0x3c@"
    words = (*more, f"{offset + 8:#x}=0x0", f"{offset + 12:#x}=0x0", f"{offset + 16:#x}&0xf00000=0x100000")
    return "&&".join(after + word for word in words)


#: On port 4500 the header comes after four zero bytes (RFC 3947 section 4).
_OLD_IKE = (
    f'-p udp -m udp --dport 500 -m u32 --u32 "{_old_ike(8)}"',
    f'-p udp -m udp --dport 4500 -m u32 --u32 "{_old_ike(12, "0x8=0x0")}"',
)
_PING = "-p icmp -m icmp --icmp-type 8 -j ACCEPT"


@dataclass(frozen=True, slots=True)
class Doors:
    """What the gateway itself accepts. ``address`` None in a public door: any address of the gateway."""

    service_address: Address
    cloud_interface: str
    internet_interface: str
    site_ports: tuple[int, ...]
    cloud_ports: tuple[int, ...]
    public: tuple[tuple[Address | None, int], ...]
    #: The kernel does ESP and says of each packet whether it came through it (`Enforcement` sets this).
    kernel_esp: bool = False


def doors(config: Config) -> Doors:
    """The doors that a configuration asks for: a listener is reachable from where it is meant to be, and no further."""
    service = config.gateway.service_address
    relay = config.relay
    mail = {listen.port for listen in (relay.site_listen, relay.submission_listen) if _is_at(listen.address, service)}
    agents = {listen.port for listen in config.web.listen if _is_at(listen.address, service)}
    public = [listen for listen in config.web.listen if listen.address != service]
    if relay.bounce_listen is not None:
        public.append(relay.bounce_listen)
    return Doors(
        service_address=service,
        cloud_interface=config.gateway.cloud_interface,
        internet_interface=config.gateway.internet_interface,
        site_ports=tuple(sorted(mail | agents)),
        cloud_ports=tuple(sorted(mail)),
        public=tuple(
            (None if listen.address.is_unspecified else listen.address, listen.port)
            for listen in sorted(public, key=lambda listen: (listen.port, str(listen.address)))
            if listen.address.version == 4
        ),
    )


def _is_at(listening: Address, service: Address) -> bool:
    return listening == service or listening.is_unspecified


def sets_text() -> str:
    """ipset-restore text: the sets that INPUT and timed grants ask, and that of refused packets. One that is there
    stays (``-exist``).
    """
    return (
        f"create -exist {SITES_SET} hash:net family inet maxelem {ADMITTED_MAX}\n"
        f"create -exist {SERVERS_SET} hash:net family inet maxelem {ADMITTED_MAX}\n"
        f"create -exist {TIMED_SET} {TIMED_KIND}\n"
        f"create -exist {FROM_SITES_SET} {COUNTING_KIND}\n"
        f"create -exist {TO_SITES_SET} {COUNTING_KIND}\n"
        # Packets do not make a set's table larger (only ipset does), so it is made for all it may hold.
        f"create -exist {REFUSED_SET} hash:ip,port,ip family inet hashsize {REFUSED_MAX // 2} maxelem {REFUSED_MAX}"
        f" timeout {REFUSED_TIMEOUT_S} forceadd\n"
    )


@dataclass(frozen=True, slots=True)
class Tables:
    """The two tables that we have something in."""

    filter: Chains
    mangle: Chains


def skeleton_text(wanted: Doors, current: Tables) -> str:
    """iptables-restore text (``--noflush``) that puts the skeleton in place, the filter table's drop first.

    KY-POLICY is left as it is if it is there: the rule set in force goes on. What others have in INPUT and in mangle's
    FORWARD stays, in its order. Needs the sets of `sets_text`.
    """
    lines = ["*filter", ":FORWARD DROP [0:0]", *(f":{chain} - [0:0]" for chain in OUR_FILTER_CHAINS)]
    lines += ["-F FORWARD", f"-A FORWARD -j {FORWARD_CHAIN}"]
    present = current.filter.rules.get("INPUT", ())
    lines += [f"-D INPUT {rule}" for rule in present if rule.endswith(f"-j {INPUT_CHAIN}")]
    jumps = input_jumps(wanted)
    lines += [f"-I INPUT 1 {jumps[0]}", *(f"-A INPUT {jump}" for jump in jumps[1:])]
    lines += [f"-A {chain} {rule}" for chain, rules in skeleton_rules(wanted).items() for rule in rules]
    lines += ["COMMIT", "*mangle", *(f":{chain} - [0:0]" for chain in marking_rules())]
    if POLICY_CHAIN not in current.mangle.rules:
        lines.append(f":{POLICY_CHAIN} - [0:0]")
    present = current.mangle.rules.get("FORWARD", ())
    lines += [f"-D FORWARD {rule}" for rule in present if rule.endswith(f"-j {POLICY_CHAIN}")]
    lines.append(f"-A FORWARD {_DECIDE}")
    for built_in, jump in COUNTING_JUMPS.items():
        present = current.mangle.rules.get(built_in, ())
        lines += [f"-D {built_in} {rule}" for rule in present if rule.endswith(_target(jump))]
        lines.append(f"-I {built_in} 1 {jump}")
    lines += [f"-A {chain} {rule}" for chain, rules in marking_rules().items() for rule in rules]
    return "\n".join([*lines, "COMMIT", ""])


_DECIDE = f"-m conntrack --ctstate NEW -j {POLICY_CHAIN}"

#: What leads to the counting, in the mangle table. What comes out of a tunnel is counted whatever becomes of it.
COUNTING_JUMPS = {
    "PREROUTING": f"-i {TUNNEL_INTERFACE} -j {FROM_SITES_CHAIN}",
    "POSTROUTING": f"-o {TUNNEL_INTERFACE} -j {TO_SITES_CHAIN}",
}


def _target(rule: str) -> str:
    return rule[rule.index(" -j ") :]


def input_jumps(wanted: Doors) -> tuple[str, ...]:
    """The rules of ours in INPUT: the first at its head, the others at its end."""
    others = dict.fromkeys((wanted.cloud_interface, wanted.internet_interface))
    return tuple(f"-i {interface} -j {INPUT_CHAIN}" for interface in (TUNNEL_INTERFACE, *others))


def skeleton_rules(wanted: Doors) -> dict[str, tuple[str, ...]]:
    """The rules of the chains that are ours, in the form that iptables-save gives back."""
    service = f"{wanted.service_address}/32"
    return {
        FORWARD_CHAIN: (
            f"-m connmark --mark {_TIMED} -j {TIMED_CHAIN}",
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-m conntrack --ctstate INVALID -j DROP",
            f"-m mark --mark {GRANTED:#x} -j ACCEPT",
        ),
        TIMED_CHAIN: (
            "-m conntrack --ctstate RELATED -j RETURN",
            f"-m conntrack --ctdir ORIGINAL -m set --match-set {TIMED_SET} src,dst,dst -j RETURN",
            f"-m conntrack --ctdir REPLY -m set --match-set {TIMED_SET} dst,src,src -j RETURN",
            "-j DROP",
        ),
        OLD_IKE_CHAIN: (
            f"-m limit --limit {OLD_IKE_PER_S}/sec --limit-burst {OLD_IKE_BURST} -j RETURN",
            "-j DROP",
        ),
        INPUT_CHAIN: (
            # The second guard beside the interface: see linux.dataplane.arrived_match.
            *((f"-i {TUNNEL_INTERFACE} -m policy --dir in --pol none -j DROP",) if wanted.kernel_esp else ()),
            # Before what is established, for one source and port that is answered once is established.
            *(f"-i {wanted.internet_interface} {match} -j {OLD_IKE_CHAIN}" for match in _OLD_IKE),
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-m conntrack --ctstate INVALID -j DROP",
            f"-i {TUNNEL_INTERFACE} -j KY-IN-TUNNEL",
            f"-i {wanted.cloud_interface} -j KY-IN-CLOUD",
            f"-i {wanted.internet_interface} -j KY-IN-INTERNET",
            "-j DROP",
        ),
        "KY-IN-TUNNEL": (
            f"-m set ! --match-set {SITES_SET} src -j DROP",
            f"! -d {service} -j DROP",
            *(f"-p tcp -m tcp --dport {port} -j ACCEPT" for port in wanted.site_ports),
            _PING,
            "-j DROP",
        ),
        "KY-IN-CLOUD": (
            f"-m set ! --match-set {SERVERS_SET} src -j DROP",
            *(f"-d {service} -p tcp -m tcp --dport {port} -j ACCEPT" for port in wanted.cloud_ports),
            _PING,
            "-j DROP",
        ),
        "KY-IN-INTERNET": (
            f"-p udp -m multiport --dports {_IKE_PORTS} -j ACCEPT",
            "-p esp -j ACCEPT",
            *(
                (f"-d {address}/32 " if address is not None else "") + f"-p tcp -m tcp --dport {port} -j ACCEPT"
                for address, port in wanted.public
            ),
            _PING,
            "-j DROP",
        ),
    }


def marking_rules() -> dict[str, tuple[str, ...]]:
    """The rules of our chains in the mangle table but KY-POLICY: what a granted packet goes through, and a refused one,
    of which a trace is left; and what counts the traffic of sites.
    """
    return {
        GRANT_CHAIN: (f"-j MARK --set-xmark {GRANTED:#x}/0xffffffff", "-j ACCEPT"),
        TIMED_GRANT_CHAIN: (f"-j CONNMARK --set-xmark {_TIMED}", f"-g {GRANT_CHAIN}"),
        REFUSED_CHAIN: (
            f"-m limit --limit {REFUSED_PER_S}/sec --limit-burst {2 * REFUSED_PER_S} "
            f"-j SET --add-set {REFUSED_SET} src,dst,dst --exist",
            "-j DROP",
        ),
        # No target: the match alone counts.
        FROM_SITES_CHAIN: (f"-m set --match-set {FROM_SITES_SET} src",),
        TO_SITES_CHAIN: (f"-m set --match-set {TO_SITES_SET} dst",),
    }


def skeleton_differences(wanted: Doors, current: Tables) -> tuple[str, ...]:
    """The chains whose content is not the skeleton's, by name; KY-POLICY is looked at by whoever applies rule sets."""
    rules = current.filter.rules
    found = [chain for chain, lines in skeleton_rules(wanted).items() if rules.get(chain) != lines]
    if current.filter.policies.get("FORWARD") != "DROP" or rules.get("FORWARD") != (f"-j {FORWARD_CHAIN}",):
        found.append("FORWARD")
    found += [chain for chain, lines in marking_rules().items() if current.mangle.rules.get(chain) != lines]
    if POLICY_CHAIN not in current.mangle.rules:
        found.append(POLICY_CHAIN)
    decide = [rule for rule in current.mangle.rules.get("FORWARD", ()) if rule.endswith(f"-j {POLICY_CHAIN}")]
    if decide != [_DECIDE]:
        found.append("FORWARD (mangle)")
    for built_in, jump in COUNTING_JUMPS.items():
        counting = [rule for rule in current.mangle.rules.get(built_in, ()) if rule.endswith(_target(jump))]
        if counting != [jump]:
            found.append(f"{built_in} (mangle)")
    jumps = input_jumps(wanted)
    present = rules.get("INPUT", ())
    ours = tuple(rule for rule in present if rule.endswith(f"-j {INPUT_CHAIN}"))
    if ours != jumps or present[0] != jumps[0]:
        found.append("INPUT")
    return tuple(found)


def closed_text(versioned: tuple[str, ...]) -> str:
    """iptables-restore text that leaves the skeleton with an empty policy: nothing new is forwarded."""
    lines = [
        "*mangle",
        f":{POLICY_CHAIN} - [0:0]",
        *(f"-F {chain}" for chain in versioned),
        *(f"-X {chain}" for chain in versioned),
    ]
    return "\n".join([*lines, "COMMIT", ""])
