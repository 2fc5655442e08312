"""The router's packet filter as iptables-restore text, whole tables. Pure.

From the Internet: answers only. The agent always speaks first, and always in UDP (`encap`), so charon's own flows need
no open port, MOBIKE included: after an address change the router sends first too. From the tunnel: SSH by the cloud's
service address, ping, and whatever the gateway lets through to the LAN. From the LAN: ping, and into the tunnel with a
source inside the LAN. Never LAN to Internet.
"""

from dataclasses import dataclass

from linux.dataplane import TUNNEL_INTERFACE, Dataplane, arrived_match
from router_agent.bundle import Enrolment

TABLES = ("filter", "mangle", "nat")

SSH_PORT = 22

_DEFAULT_DROP = {"INPUT": "DROP", "FORWARD": "DROP", "OUTPUT": "ACCEPT"}
_MANGLE_CHAINS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_NAT_CHAINS = ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")


@dataclass(frozen=True, slots=True)
class Ruleset:
    """``ipv4`` is all three tables; ``ipv6`` shuts IPv6 but for neighbours: the overlay is IPv4 here."""

    ipv4: str
    ipv6: str


def render(
    enrolment: Enrolment, dataplane: Dataplane, *, lan: str, dhcp: bool = False, lan_shut: bool = False
) -> Ruleset:
    """The filter for this router; ``lan`` is the LAN interface, ``dhcp``: the router hands out addresses there.

    ``lan_shut``: nothing goes between the LAN and the tunnel; only the router itself speaks (mobile data are spent).
    """
    own = enrolment.router_address
    arrived, leaving = arrived_match(dataplane), f"-o {TUNNEL_INTERFACE}"
    filter_rules = [
        "-A INPUT -i lo -j ACCEPT",
        "-A INPUT -m conntrack --ctstate INVALID -j DROP",
        "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-A INPUT {arrived} -s {enrolment.service_address} -d {own} -p tcp -m tcp --dport {SSH_PORT} -j ACCEPT",
        f"-A INPUT {arrived} -d {own} -p icmp -m icmp --icmp-type 8 -j ACCEPT",
        f"-A INPUT -i {lan} -s {enrolment.lan} -p icmp -m icmp --icmp-type 8 -j ACCEPT",
        "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
        f"-A FORWARD -i {lan} ! -s {enrolment.lan} -j DROP",
        f"-A FORWARD -i {lan} -s {enrolment.lan} -d {enrolment.reachable} {leaving} -j ACCEPT",
        f"-A FORWARD {arrived} -s {enrolment.reachable} -d {enrolment.lan} -o {lan} -j ACCEPT",
    ]
    # The overlay's own hosts are at home: what claims to be one of them and comes from the tunnel is not.
    filter_rules.insert(7, f"-A FORWARD {arrived} -s {enrolment.overlay} -j DROP")
    if dhcp:
        # A machine that has no address yet asks from 0.0.0.0 (RFC 2131 section 4.1).
        filter_rules.insert(6, f"-A INPUT -i {lan} -p udp -m udp --sport 68 --dport 67 -j ACCEPT")
    if lan_shut:
        filter_rules = [
            rule for rule in filter_rules if not (rule.startswith("-A FORWARD") and rule.endswith("ACCEPT"))
        ]
    # TCP through the tunnel: segments that fit, whatever happens to ICMP on the way (RFC 2923 section 2.1).
    mangle_rules = ["-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"]
    nat_rules = []
    if enrolment.mapped:
        nat_rules = [
            f"-A PREROUTING {arrived} -d {own} -j ACCEPT",  # the router itself
            f"-A PREROUTING {arrived} -d {enrolment.overlay} -j NETMAP --to {enrolment.lan}",
            f"-A POSTROUTING -s {enrolment.lan} -d {enrolment.reachable} {leaving} -j NETMAP --to {enrolment.overlay}",
        ]
    ipv4 = (
        _table("filter", _DEFAULT_DROP, filter_rules)
        + _table("mangle", dict.fromkeys(_MANGLE_CHAINS, "ACCEPT"), mangle_rules)
        + _table("nat", dict.fromkeys(_NAT_CHAINS, "ACCEPT"), nat_rules)
    )
    ipv6 = _table(
        "filter",
        _DEFAULT_DROP,
        [
            "-A INPUT -i lo -j ACCEPT",
            "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            # Neighbour and router advertisements (RFC 4890 section 4.4): without them a line with IPv6 stalls.
            *(f"-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j ACCEPT" for kind in (134, 135, 136)),
        ],
    )
    return Ruleset(ipv4, ipv6)


def _table(name: str, policies: dict[str, str], rules: list[str]) -> str:
    heads = "".join(f":{chain} {policy} [0:0]\n" for chain, policy in policies.items())
    return f"*{name}\n{heads}" + "".join(f"{rule}\n" for rule in rules) + "COMMIT\n"


def comparable(saved: str) -> tuple[str, ...]:
    """What iptables-save wrote, without what changes by itself: comments, counters."""
    lines = (line.split(" [")[0] if line.startswith(":") else line for line in saved.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))
