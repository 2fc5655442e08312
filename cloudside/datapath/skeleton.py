"""The chains that are always there, whatever the policy: as iptables-restore text. Pure.

FORWARD is ours alone: policy DROP, one jump to KY-FORWARD, and nothing else stays in it. There established flows pass
first, then KY-POLICY jumps to the version of the rule set in force; an empty KY-POLICY means that nothing new passes.

INPUT is shared with the machine's operator, for whom ssh and monitoring are none of our business. We hold three
interfaces: packets of the tunnel interface are judged by us before anything else; those of the cloud and the Internet
interface after the operator's own rules, and dropped unless they are for the gateway. So whoever administers a gateway
through its Internet interface puts an ACCEPT for that into INPUT first; other interfaces are not touched.
"""

from dataclasses import dataclass

from cloudside.config import Address, Config
from cloudside.datapath.snapshot import Chains
from linux.dataplane import TUNNEL_INTERFACE

FORWARD_CHAIN = "KY-FORWARD"
POLICY_CHAIN = "KY-POLICY"
INPUT_CHAIN = "KY-INPUT"
OUR_CHAINS = (FORWARD_CHAIN, POLICY_CHAIN, INPUT_CHAIN, "KY-IN-TUNNEL", "KY-IN-CLOUD", "KY-IN-INTERNET")

#: Sets that INPUT asks: overlay prefixes of sites that exist and are not revoked; addresses of cloud servers.
SITES_SET = "kyoten-sites"
SERVERS_SET = "kyoten-servers"

_IKE_PORTS = "500,4500"
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
    """ipset-restore text: the sets that INPUT asks. Creating one that is there is not an error (``-exist``)."""
    return f"create -exist {SITES_SET} hash:net family inet\ncreate -exist {SERVERS_SET} hash:net family inet\n"


def skeleton_text(wanted: Doors, current: Chains) -> str:
    """iptables-restore text (``--noflush``) that puts the skeleton in place in one transaction.

    KY-POLICY is left as it is if it is there: the rule set in force goes on counting. What others have in INPUT stays,
    in its order. Needs the sets of `sets_text`.
    """
    lines = ["*filter", ":FORWARD DROP [0:0]"]
    lines += [f":{chain} - [0:0]" for chain in OUR_CHAINS if chain != POLICY_CHAIN or chain not in current.rules]
    lines += ["-F FORWARD", f"-A FORWARD -j {FORWARD_CHAIN}"]
    lines += [f"-D INPUT {rule}" for rule in current.rules.get("INPUT", ()) if rule.endswith(f"-j {INPUT_CHAIN}")]
    jumps = input_jumps(wanted)
    lines += [f"-I INPUT 1 {jumps[0]}", *(f"-A INPUT {jump}" for jump in jumps[1:])]
    for chain, rules in skeleton_rules(wanted).items():
        lines += [f"-A {chain} {rule}" for rule in rules]
    return "\n".join([*lines, "COMMIT", ""])


def input_jumps(wanted: Doors) -> tuple[str, ...]:
    """The rules of ours in INPUT: the first at its head, the others at its end."""
    others = dict.fromkeys((wanted.cloud_interface, wanted.internet_interface))
    return tuple(f"-i {interface} -j {INPUT_CHAIN}" for interface in (TUNNEL_INTERFACE, *others))


def skeleton_rules(wanted: Doors) -> dict[str, tuple[str, ...]]:
    """The rules of the chains that are ours, in the form that iptables-save gives back."""
    service = f"{wanted.service_address}/32"
    return {
        FORWARD_CHAIN: (
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-m conntrack --ctstate INVALID -j DROP",
            f"-j {POLICY_CHAIN}",
        ),
        INPUT_CHAIN: (
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


def skeleton_differences(wanted: Doors, current: Chains) -> tuple[str, ...]:
    """The chains whose content is not the skeleton's, by name; KY-POLICY is looked at by whoever applies rule sets."""
    found = [chain for chain, rules in skeleton_rules(wanted).items() if current.rules.get(chain) != rules]
    if current.policies.get("FORWARD") != "DROP" or current.rules.get("FORWARD") != (f"-j {FORWARD_CHAIN}",):
        found.append("FORWARD")
    if POLICY_CHAIN not in current.rules:
        found.append(POLICY_CHAIN)
    jumps = input_jumps(wanted)
    present = current.rules.get("INPUT", ())
    ours = tuple(rule for rule in present if rule.endswith(f"-j {INPUT_CHAIN}"))
    if ours != jumps or present[0] != jumps[0]:
        found.append("INPUT")
    return tuple(found)


def closed_text(current: Chains, versioned: tuple[str, ...]) -> str:
    """iptables-restore text that leaves the skeleton with an empty policy: nothing new is forwarded."""
    chains = [chain for chain in versioned if chain in current.rules]
    lines = [
        "*filter",
        f":{POLICY_CHAIN} - [0:0]",
        *(f"-F {chain}" for chain in chains),
        *(f"-X {chain}" for chain in chains),
    ]
    return "\n".join([*lines, "COMMIT", ""])
