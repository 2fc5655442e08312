"""A router in the wrong hands: a valid certificate, and a charon that claims whatever it is told to.

Runs on a host of the world as ``python -m lab.rogue DIRECTORY BUNDLE CLAIM...``: for each claimed subnet it connects to
the gateway anew and reports what it got: the negotiated selectors, or the refusal.
"""

import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from lab.network import Host
from linux.charon import Charon
from linux.charon_process import CharonProcess, socket_path, strongswan_conf
from linux.dataplane import Dataplane
from linux.errors import LinuxError

CONNECT_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a rogue got for claiming ``subnet``: its ends of the tunnel, empty when refused."""

    subnet: str
    granted: tuple[str, ...]
    refusal: str


def claim(host: Host, bundle: Path, subnets: list[str]) -> list[Claim]:
    """Let ``host`` claim these subnets, one after the other, with the certificate of ``bundle``."""
    argv = [sys.executable, "-m", "lab.rogue", str(host.directory / "rogue"), str(bundle), *subnets]
    answers = json.loads(host.run(argv, timeout_s=(CONNECT_WAIT_S + 5) * (len(subnets) + 1)).stdout)
    return [Claim(answer["subnet"], tuple(answer["granted"]), answer["refusal"]) for answer in answers]


def _connect(charon: Charon, description: dict[str, str], certificate: str, subnet: str) -> dict[str, object]:
    # charon installs a CHILD_SA only when the host owns an address inside its selector: a thief would see to that.
    own = IPv4Network(subnet).network_address + 9
    subprocess.run(["ip", "addr", "replace", f"{own}/32", "dev", "lo"], check=True)
    charon.load_connection("rogue", {
        "version": "2",
        "proposals": ["aes256gcm16-prfsha256-curve25519"],
        "remote_addrs": [description["gateway"]],
        "send_cert": "always",
        "local": {"auth": "pubkey", "certs": [certificate], "id": description["site"]},
        "remote": {"auth": "pubkey", "id": description["identity"]},
        "children": {"rogue": {
            "local_ts": [subnet], "remote_ts": [description["reachable"]], "esp_proposals": ["aes256gcm16"],
        }},
    })  # fmt: skip
    refusal = ""
    try:
        charon.initiate("rogue", "rogue", wait_s=CONNECT_WAIT_S)
    except LinuxError as error:
        refusal = str(error)
    granted = [str(net) for sa in charon.sas(connection="rogue") for child in sa.children for net in child.local]
    charon.terminate(connection="rogue")
    subprocess.run(["ip", "addr", "del", f"{own}/32", "dev", "lo"], check=True)
    return {"subnet": subnet, "granted": granted, "refusal": refusal}


def _main(directory: Path, bundle: Path, subnets: list[str]) -> None:
    directory.mkdir(parents=True)
    with tarfile.open(bundle) as archive:
        files = {name: archive.extractfile(name).read().decode() for name in archive.getnames()}  # type: ignore[union-attr]
    raw = json.loads(files["bundle.json"])
    description = {
        "site": raw["site"], "gateway": raw["gateways"][0], "identity": raw["gateway_identity"],
        "reachable": raw["reachable"],
    }  # fmt: skip
    process = CharonProcess(directory, strongswan_conf(directory, Dataplane.USERLAND, {"retransmit_tries": "2"}))
    process.ensure()
    charon = Charon(socket_path(directory))
    for name in ("root.crt", "cloud-authority.crt", "tenant-authority.crt"):
        charon.load_authority(files[name])
    charon.load_private_key(files["site.key"])
    json.dump([_connect(charon, description, files["site.crt"], subnet) for subnet in subnets], sys.stdout)
    process.stop()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
