"""Where ESP is done. The one place that knows the difference.

Kernel: ESP in the kernel, met as an XFRM interface, so that packets of sites come and go by an interface of their own.
Userland: charon's kernel-libipsec does ESP and makes a TUN device. Either way the interface has the same name, so
rules and routes are the same text on both.
"""

from enum import StrEnum

from linux.errors import LinuxError
from linux.runner import Runner

#: Packets of sites come in and go out here. kernel-libipsec names its first TUN device so.
TUNNEL_INTERFACE = "ipsec0"
#: Ties the XFRM interface to the connection's SAs (kernel ESP only). Any number that nobody else uses.
XFRM_INTERFACE_ID = 1107


class Dataplane(StrEnum):
    """Who encrypts."""

    KERNEL = "kernel"
    USERLAND = "userland"


#: An SA that could never be met: loopback to loopback. The key is no secret, the SA lives for a moment.
_PROBE_IDENTITY = ("src", "127.0.0.1", "dst", "127.0.0.1", "proto", "esp", "spi", "0x4b594f31")
_PROBE_ALGORITHM = ("mode", "tunnel", "aead", "rfc4106(gcm(aes))", "0x" + "00" * 20, "128")


def detect(runner: Runner) -> Dataplane:
    """Ask the kernel to take an ESP SA with AES-GCM, and take it back; this also loads modules where there are any."""
    try:
        added = runner.run(["ip", "xfrm", "state", "add", *_PROBE_IDENTITY, *_PROBE_ALGORITHM], check=False)
        if added.status != 0:
            return Dataplane.USERLAND
        runner.run(["ip", "xfrm", "state", "delete", *_PROBE_IDENTITY], check=False)
    except LinuxError:
        return Dataplane.USERLAND
    return Dataplane.KERNEL


def ensure_interface(runner: Runner, dataplane: Dataplane) -> None:
    """Make the XFRM interface where the kernel does ESP; in user space charon makes its own. Idempotent.

    Raises LinuxError: the kernel has ESP and no XFRM interfaces.
    """
    if dataplane is Dataplane.KERNEL:
        found = runner.run(["ip", "link", "show", "dev", TUNNEL_INTERFACE], check=False)
        if found.status != 0:
            kind = ["type", "xfrm", "dev", "lo", "if_id", str(XFRM_INTERFACE_ID)]
            runner.run(["ip", "link", "add", TUNNEL_INTERFACE, *kind])
        runner.run(["ip", "link", "set", TUNNEL_INTERFACE, "mtu", "1400", "up"])
