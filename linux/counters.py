"""Interface counters over netlink: how many bytes an interface has carried since it was made.

One `Counters` belongs to one thread. pyroute2 ends here.
"""

import errno
from dataclasses import dataclass
from pathlib import Path

from linux.netlink import IPRoute, NetlinkError
from linux.routes import RouteError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class InterfaceCounters:
    """Bytes in each direction (rtnl_link_stats64). ``epoch`` is another one once the counters began at zero again: they
    belong to an interface of one boot, and an index is not given twice in a boot."""

    epoch: str
    received_bytes: int
    sent_bytes: int


class Counters:
    """Reads the counters of this network namespace's interfaces."""

    def __init__(self) -> None:
        self._netlink = IPRoute()
        self._boot = _BOOT_ID.read_text().strip()

    def close(self) -> None:
        """Give the netlink socket back."""
        self._netlink.close()

    def read(self, interface: str) -> InterfaceCounters | None:
        """The counters now; None: there is no such interface. Raises RouteError: the kernel does not answer."""
        try:
            for link in self._netlink.get_links(ifname=interface):
                statistics = link.get_attr("IFLA_STATS64")
                if statistics is not None:
                    epoch = f"{self._boot}:{link['index']}"
                    return InterfaceCounters(epoch, statistics["rx_bytes"], statistics["tx_bytes"])
        except NetlinkError as error:
            if error.code not in (errno.ENODEV, errno.ENOENT):
                raise RouteError(f"cannot read the counters of {interface}: {error.args[-1]}") from error
        except OSError as error:
            raise RouteError(f"cannot read the counters of {interface}: {error}") from error
        return None
