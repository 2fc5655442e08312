"""Whose packets the gateway itself listens to: the sets of admitted sites and of cloud servers, kept as wanted."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network

from cloudside.datapath.skeleton import SERVERS_SET, SITES_SET
from cloudside.datapath.traffic import Traffic
from linux.netfilter import Netfilter
from rules.model import Inventory
from rules.parts import Parts


class Admission:
    """Both sets. Methods raise LinuxError when ipset says no."""

    def __init__(self, netfilter: Netfilter) -> None:
        self._netfilter = netfilter
        #: Sites that are admitted are counted, too.
        self.traffic = Traffic(netfilter)
        self._parts = Parts()
        self._members: dict[str, set[str]] = {}

    @property
    def members(self) -> Mapping[str, set[str]]:
        """What each set holds, as far as it was written."""
        return self._members

    def admit(self, parts: Parts) -> bool:
        """True when something changed. Parts that are the very objects of the call before are not looked at."""
        before, after = ({**one.own, "": one.shared} for one in (self._parts, parts))
        gone, come = _admitted(()), _admitted(())
        for tenant in {*before, *after}:
            old, new = before.get(tenant), after.get(tenant)
            if old is not new:
                for table, part in ((gone, old), (come, new)):
                    for name, found in _admitted([part] if part is not None else []).items():
                        table[name] |= found
        text = ""
        for name in (SITES_SET, SERVERS_SET):
            if name not in self._members:
                text += _replacement(name, come[name])
                continue
            text += "".join(f"del -exist {name} {one}\n" for one in sorted(gone[name] - come[name]))
            text += "".join(f"add -exist {name} {one}\n" for one in sorted(come[name] - gone[name]))
        members = {name: (self._members.get(name, set()) - gone[name]) | come[name] for name in gone} if text else {}
        if text:
            # Half of it may be done when it fails: then everything is written anew.
            counted = members[SITES_SET] - self._members.get(SITES_SET, set())
            self._parts, self._members = Parts(), {}
            with self.traffic.lock:
                self._netfilter.restore_sets(text + self.traffic.lines(counted))
            self._members = members
        self._parts = parts
        return bool(text)

    def replacement(self, name: str) -> str:
        """ipset-restore text that puts a set back as it should be, in one step."""
        return _replacement(name, self._members[name])


def _admitted(parts: Iterable[Inventory]) -> dict[str, set[str]]:
    """The members of our two sets that these parts of the inventory are."""
    known = list(parts)
    return {
        SITES_SET: {str(one.prefix) for part in known for one in part.sites if isinstance(one.prefix, IPv4Network)},
        SERVERS_SET: {str(one.address) for part in known for one in part.servers if one.address.version == 4},
    }


def _replacement(name: str, members: Iterable[str]) -> str:
    new = f"{name}-new"
    return (
        f"create -exist {new} hash:net family inet maxelem 1000000\nflush {new}\n"
        + "".join(f"add {new} {member}\n" for member in sorted(members))
        + f"swap {new} {name}\ndestroy {new}\n"
    )
