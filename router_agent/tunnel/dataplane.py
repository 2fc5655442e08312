"""Whether this kernel has ESP, and how packets of the tunnel are recognised by the packet filter.

Without it charon's user-space ESP carries the packets through a TUN interface; with it they come in on the uplink
itself and are matched by their IPsec policy. The difference ends here.
"""

from dataclasses import dataclass

from linux.errors import ProgramFailedError
from linux.runner import Runner

#: The interface of strongSwan's kernel-libipsec plugin.
TUNNEL_INTERFACE = "ipsec0"

_TRIAL = ("src", "127.0.0.1", "dst", "127.0.0.1", "proto", "esp", "spi", "0x4b594f54")


@dataclass(frozen=True, slots=True)
class Dataplane:
    """How packets of the tunnel are matched: words for iptables, for packets that came in, and that go out.

    ``interface``: the tunnel's own, None where the kernel does ESP.
    """

    userland_esp: bool

    @property
    def interface(self) -> str | None:
        """The tunnel's own interface; None where the kernel does ESP on the uplink."""
        return TUNNEL_INTERFACE if self.userland_esp else None

    @property
    def arrived(self) -> str:
        """Matches packets that came out of the tunnel."""
        return f"-i {TUNNEL_INTERFACE}" if self.userland_esp else "-m policy --dir in --pol ipsec"


def detect(runner: Runner) -> Dataplane:
    """Try to install an ESP state, with a key of zeros towards ourselves, and remove it again.

    Raises ProgramMissingError and ProgramTimeoutError.
    """
    key = ["aead", "rfc4106(gcm(aes))", "0x" + "00" * 20, "128"]
    try:
        runner.run(["ip", "xfrm", "state", "add", *_TRIAL, "mode", "tunnel", *key])
    except ProgramFailedError:
        return Dataplane(userland_esp=True)
    runner.run(["ip", "xfrm", "state", "delete", *_TRIAL], check=False)
    return Dataplane(userland_esp=False)
