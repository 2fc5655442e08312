"""The network's end of a call: a pppd on a socket. The kernel needs PPP, so in the lab's virtual machine only."""

import os
import signal
import socket
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

from lab.modem.profile import Profile

PROGRAM = "/usr/sbin/pppd"

#: The network's address, the first site's, its name servers.
NETWORK = IPv4Address("100.64.0.1")
SITE = IPv4Address("100.64.0.2")
NAME_SERVERS = (IPv4Address("100.64.0.53"), IPv4Address("100.64.0.54"))


class Peer:
    """One call. ``prefix``: argv that enters the network's namespace."""

    def __init__(self, profile: Profile, directory: Path, *, prefix: tuple[str, ...] = ()) -> None:
        near, far = socket.socketpair()
        self._near = near
        near.setblocking(False)
        argv = [
            *prefix, PROGRAM, "notty", "nodetach", "nolock", "local", f"{NETWORK}:{SITE}", "ifname", "net0",
            "logfile", str(directory / "peer.log"), "noccp", "novj", "noipv6", "nodefaultroute",
            "ip-up-script", "/bin/true", "ip-down-script", "/bin/true",
            "ms-dns", str(NAME_SERVERS[0]), "ms-dns", str(NAME_SERVERS[1]),
        ]  # fmt: skip
        if profile.user:
            Path("/etc/ppp/pap-secrets").write_text(f'"{profile.user}" * "{profile.password}" *\n')
            argv.append("require-pap")
        else:
            argv.append("noauth")
        self._pppd = subprocess.Popen(
            argv, stdin=far.fileno(), stdout=far.fileno(), stderr=subprocess.DEVNULL, start_new_session=True
        )
        far.close()

    def fileno(self) -> int:
        """For select."""
        return self._near.fileno()

    def read(self) -> bytes:
        """What the network sends; nothing: it has ended the call."""
        try:
            return self._near.recv(4096)
        except BlockingIOError:
            return b""
        except OSError:
            return b""

    @property
    def running(self) -> bool:
        """Whether the call goes on."""
        return self._pppd.poll() is None

    def write(self, data: bytes) -> None:
        """To the network. What does not fit is lost, as on air."""
        try:
            self._near.send(data)
        except OSError:
            pass

    def end(self, *, politely: bool = True) -> None:
        """End the call: LCP Terminate-Request, or as if the radio had gone."""
        if self.running:
            os.kill(self._pppd.pid, signal.SIGTERM if politely else signal.SIGKILL)

    def close(self) -> None:
        """Nothing is left."""
        self.end(politely=False)
        self._pppd.wait(10)
        self._near.close()
