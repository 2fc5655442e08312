"""Applies the router's packet filter, looks at it every few seconds and repairs it when someone has changed it."""

import logging

from linux.errors import LinuxError
from linux.netfilter import Netfilter
from router_agent.firewall.ruleset import TABLES, Ruleset, comparable
from router_agent.problems import Problem

_log = logging.getLogger(__name__)


class FirewallKeeper:
    """The filter of this network namespace. ``ipv6`` is None where the kernel has no IPv6."""

    def __init__(self, ipv4: Netfilter, ipv6: Netfilter | None, ruleset: Ruleset) -> None:
        self._ipv4 = ipv4
        self._ipv6 = ipv6
        self._ruleset = ruleset
        self._kept: tuple[str, ...] | None = None
        self._ipv4_set = False

    @property
    def in_force(self) -> bool:
        """Whether the IPv4 filter was set since the start: only IPv4 is forwarded."""
        return self._ipv4_set

    def use(self, ruleset: Ruleset) -> None:
        """Hold the kernel against another filter from the next `check` on: that is no repair."""
        if ruleset != self._ruleset:
            self._ruleset = ruleset
            self._kept = None

    def check(self) -> tuple[Problem | None, bool]:
        """Look, and repair what differs. Answers what stands wrong now (the filter cannot be set), and whether a filter
        that was in force had been changed by someone else."""
        try:
            if self._kept is not None and self._saved() == self._kept:
                return None, False
            changed = self._kept is not None
            self._apply()
        except LinuxError as error:
            _log.error("the packet filter cannot be set: %s", error)
            return Problem("agent.firewall-failed", {"reason": str(error)[:200]}), False
        if changed:
            _log.warning("the packet filter was changed by someone else: restored")
        return None, changed

    def _apply(self) -> None:
        self._ipv4.restore_rules(self._ruleset.ipv4, keep_others=False)
        self._ipv4_set = True
        if self._ipv6 is not None:
            self._ipv6.restore_rules(self._ruleset.ipv6, keep_others=False)
        # Compared with what the kernel shows afterwards: it writes some rules another way than they were given.
        self._kept = self._saved()

    def _saved(self) -> tuple[str, ...]:
        shown = [comparable(self._ipv4.save_rules(table)) for table in TABLES]
        if self._ipv6 is not None:
            shown.append(comparable(self._ipv6.save_rules("filter")))
        return tuple(line for lines in shown for line in lines)
