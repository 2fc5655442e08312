"""What the agent answers itself: charon's SAs, tracked connections, the modem. Texts for an engineer, in English."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from linux.charon import Charon, IkeSa
from linux.errors import LinuxError

Answer = Callable[[], str]

_NETFILTER = Path("/proc/sys/net/netfilter")


def tunnels(socket: Path, *, timeout_s: float) -> str:
    """IKE_SAs and CHILD_SAs, as swanctl would list them. Raises LinuxError: charon does not answer."""
    charon = Charon(socket, timeout_s=timeout_s)
    try:
        found = [sa for name in charon.connection_names() for sa in charon.sas(connection=name)]
        return "".join(map(_sa, found)) or "no IKE_SA\n"
    finally:
        charon.close()


def connections(place: Path = _NETFILTER) -> str:
    """Tracked connections now, and how many there may be. Raises OSError: this kernel does not say."""
    count, most = (int((place / name).read_text()) for name in ("nf_conntrack_count", "nf_conntrack_max"))
    return f"{count} of {most} connections are tracked ({100 * count / max(most, 1):.1f} %)\n"


def modem(report: Mapping[str, object] | None) -> str:
    """What the modem's driver knows."""
    if report is None:
        return "this router has no mobile line\n"
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in report.items())


def failed(error: LinuxError | OSError) -> str:
    """Why there is no answer."""
    return (getattr(error, "strerror", None) or str(error))[:200]


def _sa(sa: IkeSa) -> str:
    lines = [
        f"{sa.connection}: #{sa.unique_id}, {sa.state}, IKEv{sa.ike_version}, {sa.suite}",
        f"  {sa.local_host} - {sa.remote_host}[{sa.remote_port}] {sa.remote_id}, established {sa.established_s} s ago",
    ]
    for child in sa.children:
        local, remote = (" ".join(map(str, networks)) for networks in (child.local, child.remote))
        lines.append(f"  {child.name}: #{child.unique_id}, {child.state}, {child.suite}")
        lines.append(f"    {local} === {remote}, in {child.bytes_in} bytes, out {child.bytes_out} bytes")
    return "\n".join(lines) + "\n"
