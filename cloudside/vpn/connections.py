"""The connections for all sites, one a class, and charon's own settings. Pure.

A wildcard connection a class and not one a site, because charon 5.9.8 walks all connections of equal priority for each
IKE_SA_INIT. A site's prefix is pinned by the address block in its certificate (RFC 3779, plugin addrblock), not by its
connection. Classes differ in their IKE version, so charon never has to choose between two: the class ``sites`` is
IKEv2, and there is one for old routers with IKEv1 where the configuration says so. Who may use that is judged in
tunnels.

vici's keys: https://docs.strongswan.org/docs/5.9/swanctl/swanctlConf.html
"""

from typing import Any

from cloudside.config import Config, Network, Vpn
from cloudside.datapath.site_routes import CHARON_TABLE
from linux.charon_process import Section
from linux.dataplane import Dataplane, child_options

CONNECTION = "sites"
OLD_CONNECTION = "old-routers"
CHILD = "site"

_DEFAULTS = Vpn()

#: Seconds. The random share keeps thousands of sites, all up since the same minute, from rekeying together.
IKE_REKEY_S, IKE_REKEY_RANDOM_S = 14400, 3600
CHILD_REKEY_S, CHILD_REKEY_RANDOM_S = 3600, 1200


def connections(
    config: Config, *, identity: str, certificate: str, root: str, dataplane: Dataplane
) -> dict[str, dict[str, Any]]:
    """Every class's connection by its name, as vici's load-conn takes it. ``certificate`` and ``root`` are PEM."""
    gateway = config.gateway
    sites = site_connection(
        identity=identity,
        certificate=certificate,
        root=root,
        overlay=gateway.overlay,
        dpd_delay_s=gateway.dpd_delay_s,
        dataplane=dataplane,
        vpn=config.vpn,
    )
    found = {CONNECTION: sites}
    old = config.vpn.old_routers
    if old is not None:
        child = sites["children"][CHILD] | {"esp_proposals": list(old.esp_proposals)}
        found[OLD_CONNECTION] = sites | {
            "version": str(old.ike_version),
            "proposals": list(old.ike_proposals),
            # It would show identities to anybody and sign for anybody who asks (RFC 2409 section 5.1).
            "aggressive": "no",
            "send_certreq": "yes",
            "children": {CHILD: child},
        }
    return found


def site_connection(
    *,
    identity: str,
    certificate: str,
    root: str,
    overlay: Network,
    dpd_delay_s: int,
    dataplane: Dataplane,
    vpn: Vpn = _DEFAULTS,
) -> dict[str, Any]:
    """The connection of the class ``sites``."""
    child: dict[str, Any] = {
        "mode": "tunnel",
        "local_ts": [str(overlay)],
        # Everything: narrowed to the block in the peer's certificate, and refused where there is none.
        "remote_ts": ["0.0.0.0/0" if overlay.version == 4 else "::/0"],
        "esp_proposals": list(vpn.esp_proposals),
        "start_action": "none",
        "dpd_action": "clear",
        "close_action": "none",
        "rekey_time": str(CHILD_REKEY_S),
        "rand_time": str(CHILD_REKEY_RANDOM_S),
        "life_time": str(CHILD_REKEY_S + CHILD_REKEY_RANDOM_S),
    }
    child |= child_options(dataplane)
    return {
        "version": "2",
        "proposals": list(vpn.ike_proposals),
        "local_addrs": ["%any"],
        "remote_addrs": ["%any"],
        "local": {"auth": "pubkey", "id": identity, "certs": [certificate]},
        # relaxed: a site whose authority's list is not here yet gets in; one that is on a list does not.
        "remote": {"auth": "pubkey", "id": "%any", "cacerts": [root], "revocation": "relaxed"},
        # A router that rebooted takes its own place; `keep` would lock it out until the old SA times out.
        "unique": "replace",
        "mobike": "yes",
        "fragmentation": "yes",
        "send_cert": "always",
        # charon would name every authority that it knows, one a tenant (20 bytes each), in its first answer, which
        # cannot be fragmented (RFC 7383 section 2.4): 4 kB with 200 tenants. Routers send their certificate unasked.
        "send_certreq": "no",
        "dpd_delay": str(dpd_delay_s),
        "rekey_time": str(IKE_REKEY_S),
        "rand_time": str(IKE_REKEY_RANDOM_S),
        "over_time": str(IKE_REKEY_S // 10),
        "children": {CHILD: child},
    }


def charon_options(vpn: Vpn = _DEFAULTS) -> Section:
    """strongswan.conf for thousands of peers, many of them behind the same carrier NAT."""
    return {
        "threads": str(vpn.charon_threads),
        "ikesa_table_size": "1024",
        "ikesa_table_segments": "16",
        "close_ike_on_child_failure": "yes",
        "cookie_threshold": "500",
        "cookie_threshold_ip": "100",
        # The default drops the sixth half-open SA of an address: whole carriers stand behind one.
        "block_threshold": "0",
        "init_limit_half_open": "5000",
        "half_open_timeout": "15",
        # A site that is gone is found out after 26 s (2 s, base 1.5, 5 tries), not after 165.
        "retransmit_tries": "4",
        "retransmit_timeout": "2.0",
        "retransmit_base": "1.5",
        "install_routes": "no",
        "routing_table": str(CHARON_TABLE),
        "routing_table_prio": str(CHARON_TABLE),
    }
