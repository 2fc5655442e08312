"""Where ESP is done. The one place that knows the difference.

Kernel: ESP in the kernel, met as an XFRM interface, so that packets of sites come and go by an interface of their own.
Userland: charon's kernel-libipsec does ESP and makes a TUN device. Either way the interface has the same name, so
rules and routes are the same text on both. Only what has no SA differs: a TUN device without charon is not there, an
XFRM interface without an SA answers "host unreachable".
"""

from enum import StrEnum

from linux.errors import LinuxError
from linux.runner import Runner

#: Packets of sites come in and go out here. kernel-libipsec names its first TUN device so.
TUNNEL_INTERFACE = "ipsec0"
#: A kernel that meets ESP for the first time loads and tests its ciphers: seconds on a slow processor. An answer that
#: is not waited for would be taken for "no ESP".
FIRST_USE_TIMEOUT_S = 60.0

#: Ties the XFRM interface to the connection's SAs (kernel ESP only). Any number that nobody else uses.
XFRM_INTERFACE_ID = 1107


class Dataplane(StrEnum):
    """Who encrypts."""

    KERNEL = "kernel"
    USERLAND = "userland"


#: An SA that could never be met: loopback to loopback. The key is no secret, the SA lives for a moment.
_PROBE_IDENTITY = ("src", "127.0.0.1", "dst", "127.0.0.1", "proto", "esp", "spi", "0x4b594f31")
_PROBE_ALGORITHM = ("mode", "tunnel", "aead", "rfc4106(gcm(aes))", "0x" + "00" * 20, "128")


#: An XFRM interface for a moment; its number is nobody's.
_PROBE_INTERFACE = "ky-probe"
_PROBE_INTERFACE_ID = XFRM_INTERFACE_ID + 1


def detect(runner: Runner) -> Dataplane:
    """Ask the kernel for an ESP SA with AES-GCM and for an XFRM interface, and take both back.

    This loads modules where there are any. A kernel that has only one of the two is not used for ESP.
    """
    try:
        added = runner.run(
            ["ip", "xfrm", "state", "add", *_PROBE_IDENTITY, *_PROBE_ALGORITHM],
            timeout_s=FIRST_USE_TIMEOUT_S,
            check=False,
        )
        if added.status != 0:
            return Dataplane.USERLAND
        runner.run(["ip", "xfrm", "state", "delete", *_PROBE_IDENTITY], check=False)
        kind = ["type", "xfrm", "dev", "lo", "if_id", str(_PROBE_INTERFACE_ID)]
        made = runner.run(["ip", "link", "add", _PROBE_INTERFACE, *kind], timeout_s=FIRST_USE_TIMEOUT_S, check=False)
        if made.status != 0:
            return Dataplane.USERLAND
        runner.run(["ip", "link", "delete", _PROBE_INTERFACE], check=False)
    except LinuxError:
        return Dataplane.USERLAND
    return Dataplane.KERNEL


def ensure_interface(runner: Runner, dataplane: Dataplane) -> None:
    """Make the XFRM interface where the kernel does ESP; in user space charon makes its own. Idempotent.

    Raises LinuxError: the kernel refuses, as `detect` has seen that it would not.
    """
    if dataplane is Dataplane.KERNEL:
        found = runner.run(["ip", "link", "show", "dev", TUNNEL_INTERFACE], check=False)
        if found.status != 0:
            kind = ["type", "xfrm", "dev", "lo", "if_id", str(XFRM_INTERFACE_ID)]
            runner.run(["ip", "link", "add", TUNNEL_INTERFACE, *kind], timeout_s=FIRST_USE_TIMEOUT_S)
        runner.run(["ip", "link", "set", TUNNEL_INTERFACE, "mtu", "1400", "up"])


def arrived_match(dataplane: Dataplane) -> str:
    """What iptables asks of a packet that came through the tunnel. Valid in PREROUTING, INPUT and FORWARD.

    The interface alone would do: an XFRM interface delivers only what one of its SAs decrypted. The policy match is the
    second guard, in the kernel's own words; in user space there is no such mark on a packet.
    """
    guard = " -m policy --dir in --pol ipsec --mode tunnel" if dataplane is Dataplane.KERNEL else ""
    return f"-i {TUNNEL_INTERFACE}{guard}"


def child_options(dataplane: Dataplane) -> dict[str, str]:
    """What a CHILD_SA's section says besides (swanctl.conf): its SAs belong to the XFRM interface."""
    if dataplane is Dataplane.USERLAND:
        return {}
    return {"if_id_in": str(XFRM_INTERFACE_ID), "if_id_out": str(XFRM_INTERFACE_ID)}
