"""Is this machine able to hold a world? One clear sentence for each thing that is missing."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lab import box
from linux.charon_process import PROGRAM as CHARON

#: Programs, and the Debian package each comes from.
PROGRAMS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "iptables-legacy-restore": "iptables",
    "ipset": "ipset",
    "conntrack": "conntrack",
    "ssh-keygen": "openssh-client",
    "/usr/sbin/sshd": "openssh-server",
    "/usr/sbin/postfix": "postfix",
    str(CHARON): "charon-systemd",
}

#: Tried in a box, each with what it is for. The kernel says yes or no; its configuration file is not trusted.
KERNEL_TRIALS = (
    ("network namespaces", "ip netns add trial"),
    ("veth pairs", "ip link add trial0 type veth peer name trial1"),
    ("bridges", "ip link add trial2 type bridge"),
    ("iptables (legacy) with connection tracking", "iptables-legacy -A FORWARD -m conntrack --ctstate NEW -j DROP"),
    ("NETMAP", "iptables-legacy -t nat -A PREROUTING -d 10.0.0.0/24 -j NETMAP --to 10.1.0.0/24"),
    ("ipset hash:net", "ipset create trial3 hash:net"),
    ("ipset hash:net,port", "ipset create trial4 hash:net,port"),
    ("iptables matching sets", "iptables-legacy -A FORWARD -m set --match-set trial3 src -j DROP"),
    ("tc tbf", "tc qdisc add dev lo root tbf rate 1mbit burst 32kb latency 100ms"),
    ("TUN devices", "ip tuntap add dev trial5 mode tun"),
)

#: A world's files and logs take some 60 MiB.
DISK_NEEDED_MIB = 300


def missing() -> list[str]:
    """What keeps a world from running here, in sentences that name the remedy; empty when all is well."""
    if os.geteuid() != 0:
        return ["root is needed (namespaces, iptables): run this as root"]
    problems = [
        f"the program {program} is missing: install Debian's {package}"
        for program, package in PROGRAMS.items()
        if shutil.which(program) is None
    ]
    free_mib = shutil.disk_usage(box.PARENT).free // 2**20
    if free_mib < DISK_NEEDED_MIB:
        problems.append(f"{box.PARENT} has {free_mib} MiB free, {DISK_NEEDED_MIB} are needed: make room")
    return problems or _kernel_problems()


def _kernel_problems() -> list[str]:
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report"
        script = "\n".join(
            f"{trial} >/dev/null 2>>{report}.why || echo {number} >> {report}"
            for number, (_name, trial) in enumerate(KERNEL_TRIALS)
        )
        opened = subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c",
             f"mount -t tmpfs tmpfs /run && mkdir -p /run/netns || exit 1\n{script}\nexit 0"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if opened.returncode != 0:
            return [
                f"this machine does not allow new namespaces ({opened.stderr.strip()}): is this a locked container?"
            ]
        failed = [int(line) for line in report.read_text().split()] if report.exists() else []
        return [f"the kernel lacks {KERNEL_TRIALS[number][0]} (tried: {KERNEL_TRIALS[number][1]})" for number in failed]
