"""charon's connection on a router, as data. Pure.

One gateway at a time: the agent chooses which and when, charon never starts anything by itself.
"""

from collections.abc import Mapping

from linux.charon import Connection
from linux.charon_process import Section
from linux.dataplane import Dataplane, child_options
from router_agent.bundle import Enrolment
from router_agent.link.tables import tables

CONNECTION = "cloud"
CHILD = "site"

IKE_PROPOSALS = ("aes256gcm16-prfsha256-curve25519",)
#: With a key exchange of its own at each rekeying (forward secrecy), without for gateways that do not offer it.
ESP_PROPOSALS = ("aes256gcm16-curve25519", "aes256gcm16")

#: Seconds of silence before the gateway is asked for life, unless a setting says otherwise.
DEFAULT_DPD_S = 20.0

#: Rekeying times, in seconds; charon takes up to a tenth off at random, so thousands of routers drift apart.
IKE_REKEY_S = 4 * 3600
CHILD_REKEY_S = 3600


def connection(
    enrolment: Enrolment,
    *,
    gateway: str,
    dpd_s: float,
    site_certificate: str,
    cloud_authority: str,
    dataplane: Dataplane = Dataplane.USERLAND,
) -> Connection:
    """The initiator's connection to one gateway. Certificates as PEM.

    ``encap``: always in UDP. Mobile carriers drop plain ESP, and then only the router's own flows, which connection
    tracking knows, come in from the Internet. dpd_action and close_action do nothing: the agent decides.
    """
    return {
        "version": "2",
        "local_addrs": ["%any"],
        "remote_addrs": [gateway],
        "proposals": list(IKE_PROPOSALS),
        "encap": "yes",
        "mobike": "yes",
        # The gateway does not ask for it: it would have to name every tenant's authority.
        "send_cert": "always",
        "keyingtries": "1",
        "unique": "replace",
        "dpd_delay": f"{max(1, round(dpd_s))}s",
        "rekey_time": f"{IKE_REKEY_S}s",
        "local": {"auth": "pubkey", "id": enrolment.site, "certs": [site_certificate]},
        "remote": {
            "auth": "pubkey",
            "id": enrolment.gateway_identity,
            "cacerts": [cloud_authority],
            "revocation": "relaxed",
        },
        "children": {
            CHILD: {
                "local_ts": [str(enrolment.overlay)],
                "remote_ts": [str(enrolment.reachable)],
                "esp_proposals": list(ESP_PROPOSALS),
                "rekey_time": f"{CHILD_REKEY_S}s",
                "mode": "tunnel",
                "start_action": "none",
                "close_action": "none",
                "dpd_action": "clear",
                **child_options(dataplane),
            }
        },
    }


def charon_options() -> Section:
    """strongswan.conf for a router: gives a gateway up after 26 s where the default takes 165 s.

    https://docs.strongswan.org/docs/5.9/config/retransmission.html
    """
    options: Mapping[str, str | Section] = {
        "retransmit_tries": "4",
        "retransmit_timeout": "2.0",
        "retransmit_base": "1.5",
        "retransmit_jitter": "20",
        # Eight are taken for good by sockets, netlink and user-space ESP; with no more than those vici never answers.
        "threads": "16",
        "delete_rekeyed_delay": "5",
        "close_ike_on_child_failure": "yes",
        "install_virtual_ip": "no",
        # A line that has a carrier and carries nothing is left when the agent makes another default route the best:
        # by itself charon would stay as long as the old path exists.
        "prefer_best_path": "yes",
        # The lines' own tables are for packets that have a source already; charon looks for one.
        "ignore_routing_tables": " ".join(map(str, tables())),
    }
    return options
