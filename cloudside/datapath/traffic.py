"""What each site's tunnel carried, counted by the kernel in the entries of two sets, one for each direction.

The counts know nothing of SAs, so no rekeying, reconnecting or restart of charon or of this daemon touches them. They
are taken by cutting: fresh sets take the place of those that counted, in one step each, and those, under the name of
the cut, are read in peace and told; then they are thrown away. What cannot be told stays in the kernel until it can,
and a daemon that died in between leaves its cut to the next one.
"""

import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cloudside.datapath.skeleton import COUNTING_KIND, FROM_SITES_SET, TO_SITES_SET
from linux.netfilter import Netfilter

_CUT = re.compile(rf"(?:{FROM_SITES_SET}|{TO_SITES_SET})\.(\d+)")
_ENTRY = re.compile(r"add \S+ (\S+) packets (\d+) bytes (\d+)")


@dataclass(frozen=True, slots=True)
class Carried:
    """Bytes inside the tunnel, IP headers included, in one cut."""

    from_site: int
    to_site: int


class Traffic:
    """The counting sets. `lines` and `lock` are for whoever admits sites, on one thread; the rest for another one.

    Methods raise LinuxError when ipset says no.
    """

    def __init__(self, netfilter: Netfilter) -> None:
        self._netfilter = netfilter
        #: Prefixes that came since the last cut.
        self._members: set[str] = set()
        #: Held while the sets are written: an entry must not go into a set that is being exchanged.
        self.lock = threading.Lock()

    def lines(self, come: Iterable[str]) -> str:
        """ipset-restore text that makes these prefixes count; to be used with the lock held. Those that went keep
        counting until the next cut.
        """
        new = sorted(come)
        self._members.update(new)
        return "".join(f"add -exist {name} {one}\n" for one in new for name in (FROM_SITES_SET, TO_SITES_SET))

    def cut(self, number: int, prefixes: Iterable[str]) -> None:
        """Begin to count anew, with these prefixes and those that came since the last one; the old count is ``number``.

        Each number once only, even after a failure: one of the two directions may have been cut, and is told with it.
        """
        wanted = sorted(prefixes)
        made = "".join(
            f"create {name}.{number} {COUNTING_KIND}\n" + "".join(f"add {name}.{number} {one}\n" for one in wanted)
            for name in (FROM_SITES_SET, TO_SITES_SET)
        )
        self._netfilter.restore_sets(made)
        with self.lock:
            meanwhile = sorted(self._members.difference(wanted))
            self._netfilter.restore_sets(
                "".join(
                    "".join(f"add -exist {name}.{number} {one}\n" for one in meanwhile)
                    + f"swap {name}.{number} {name}\n"
                    for name in (FROM_SITES_SET, TO_SITES_SET)
                )
            )
            self._members.clear()

    def cuts(self) -> tuple[int, ...]:
        """The cuts that are in the kernel, told or not, oldest first."""
        found = (_CUT.fullmatch(name) for name in self._netfilter.set_names())
        return tuple(sorted({int(one[1]) for one in found if one is not None}))

    def read(self, number: int) -> dict[str, Carried]:
        """What a cut counted, by prefix; those that carried nothing are left out."""
        from_sites, to_sites = (
            parse_counts(self._netfilter.save_sets([f"{name}.{number}"])) for name in (FROM_SITES_SET, TO_SITES_SET)
        )
        return {
            prefix: Carried(from_sites.get(prefix, 0), to_sites.get(prefix, 0))
            for prefix in sorted({*from_sites, *to_sites})
        }

    def forget(self, number: int) -> None:
        """Throw a cut away: it is told."""
        names = self._netfilter.set_names()
        gone = [f"{name}.{number}" for name in (FROM_SITES_SET, TO_SITES_SET) if f"{name}.{number}" in names]
        self._netfilter.restore_sets("".join(f"destroy {name}\n" for name in gone))


def parse_counts(text: str) -> Mapping[str, int]:
    """Bytes by entry, of ipset-save text; entries that counted none are left out."""
    found = (_ENTRY.match(line) for line in text.splitlines())
    return {one[1]: int(one[3]) for one in found if one is not None and one[3] != "0"}
