"""Keeps the packet filter as the registry wants it: reads, compiles, applies, and looks whether it is still so.

The order is rules, admitted sites, grants. What a change leaves behind, and the flows that it no longer permits, go as
soon as there is time: they hold up no other change.
"""

from collections.abc import Callable, Collection, Generator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cloudside.config import Address, Config
from cloudside.datapath.flows import Flow, outlived
from cloudside.datapath.problems import Problem, problem
from cloudside.errors import KyotenError
from cloudside.vpn import desired
from cloudside.vpn.desired import Desired, DesiredReader
from cloudside.vpn.looks import Looks, Rotation
from cloudside.vpn.parts import Parts
from cloudside.vpn.troubles import Looking, Troubles
from linux.errors import LinuxError

log = structlog.get_logger("kyoten.gateway")

#: Seconds in which everything is looked at once: each tenant in the registry, whatever its marks say, and each entry of
#: each set. All at once would take a second and a half with 10,000 sites.
THOROUGH_S = 60.0
#: Flows that are judged before others have their turn: some 25 ms with 10,000 sites.
FLOWS_A_PIECE = 1000
#: How often a reading of the kernel is begun again because something was written meanwhile; then it holds up the rest.
READ_AGAIN = 3

_Read = TypeVar("_Read")


class RulesKeeper:
    """``now`` tells the time, ``clock`` monotonic seconds."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        reader: DesiredReader,
        troubles: Troubles,
        looks: Looks,
        *,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._config = config
        self._parts = parts
        self._reader = reader
        self._troubles = troubles
        self._looks = looks
        self._clock = clock
        self._now = now
        self._judge_flows = False
        self._swept = False
        #: What was read last; None: nothing yet.
        self.desired: Desired | None = None
        resync_s, start = config.gateway.resync_s, clock()
        self._tenants = Rotation(resync_s / THOROUGH_S)
        self._sets = Rotation(resync_s / THOROUGH_S)
        for name, part, look in (
            ("sweep", "datapath.sweep-failed", self._look_behind),
            ("flows", "datapath.flows-failed", self._look_at_flows),
            ("tables", "datapath.drift-failed", self._look_at_tables),
            ("sets", "datapath.sets-failed", self._look_at_sets),
            ("entries", "datapath.entries-failed", self._look_at_entries),
            ("registry", "vpn.registry-failed", self._look_at_registry),
        ):
            looks.add(name, resync_s, partial(troubles.look, part, look), now=start)

    def take_up(self, *, whole: bool) -> None:
        """The registry has changed. ``whole``: read all of it, whatever it says has changed."""
        self._troubles.step("vpn.registry-failed", lambda: self._read_registry(whole=whole))
        self._filter()

    def _filter(self) -> None:
        """Bring the packet filter to what is wanted."""
        self._troubles.step("datapath.filter-failed", self._enforce)
        self._troubles.step("datapath.admission-failed", self._admit)
        self._troubles.step("datapath.grants-failed", self._grant)
        if not self._swept:
            self._looks.soon("sweep", self._clock())
        if self._judge_flows:
            self._looks.soon("flows", self._clock())

    def _look_at_registry(self) -> Looking:
        """What is said to have changed, and some tenants whatever is said: one after the other, all in THOROUGH_S."""
        known = self.desired.parts.own if self.desired is not None else {}
        again = self._tenants.next(dict.fromkeys(known, 1))
        yield None
        try:
            return self._read_registry(again=again)
        finally:
            self._filter()

    def _look_at_tables(self) -> Looking:
        enforcement = self._parts.enforcement
        tables = yield from self._unwritten(enforcement.read_tables)
        return self._drifted(enforcement.judge_tables(tables))

    def _look_at_sets(self) -> Looking:
        enforcement = self._parts.enforcement
        headings = yield from self._unwritten(enforcement.read_headings)
        return self._drifted(enforcement.judge_headings(headings))

    def _look_at_entries(self) -> Looking:
        """Some sets entry by entry: one after the other, all in THOROUGH_S."""
        enforcement = self._parts.enforcement
        names = self._sets.next(enforcement.set_sizes())
        contents = yield from self._unwritten(lambda: enforcement.read_sets(names))
        return self._drifted(enforcement.judge_sets(names, contents))

    def _unwritten(self, read: Callable[[], _Read]) -> Generator[Callable[[], Any] | None, Any, _Read]:
        """What ``read`` finds, with nothing written while it was read: then it may also fail, because
        ``iptables-save`` asks for the name of a set that went away after it has read the rules.
        """
        enforcement = self._parts.enforcement
        for _ in range(READ_AGAIN):
            before = enforcement.writes
            try:
                found: _Read = yield read
            except LinuxError:
                if enforcement.writes == before:
                    raise
                continue
            if enforcement.writes == before:
                return found
        return read()

    def _look_behind(self) -> Looking:
        yield None
        if not self._swept:
            self._parts.enforcement.sweep()
            self._swept = True
        return ()

    def _look_at_flows(self) -> Looking:
        if not self._judge_flows or self.desired is None:
            return self._troubles.of("datapath.flows-failed")
        self._judge_flows = False
        try:
            flows = yield self._parts.flows.list
            own = {address.ip for interface in self._parts.routes.interfaces() for address in interface.addresses}
            for begin in range(0, len(flows), FLOWS_A_PIECE):
                # By what is wanted by then: a change that came in between will have all judged once more.
                self._end_flows(flows[begin : begin + FLOWS_A_PIECE], own)
                yield None
        except BaseException:
            self._judge_flows = True
            raise
        return ()

    def _drifted(self, what: tuple[str, ...]) -> tuple[Problem, ...]:
        if what:
            self._troubles.remember((problem("datapath.drift", what=", ".join(what)),))
            self._filter()
        return ()

    def _read_registry(self, *, whole: bool = False, again: Collection[str] | None = None) -> tuple[Problem, ...]:
        try:
            self.desired = self._reader.read(now=self._now(), whole=whole, again=again)
        except (KyotenError, SQLAlchemyError, OSError):
            self.desired = self._reader.later(now=self._now())
            raise
        return self.desired.problems

    def _enforce(self) -> tuple[Problem, ...]:
        if self.desired is None:
            return ()
        enforcement, rule_set = self._parts.enforcement, self.desired.rule_set
        if enforcement.fingerprint != rule_set.fingerprint:
            began = self._clock()
            # Before, because apply can break after the flip.
            self._judge_flows = True
            self._parts.deciding(rule_set)
            swept, self._swept = self._swept, False
            done = enforcement.apply(rule_set)
            # A change in place leaves nothing behind.
            self._swept = swept and done.how == "in place"
            seconds = round(self._clock() - began, 4)
            log.info("rule-set", fingerprint=rule_set.fingerprint[:12], how=done.how, seconds=seconds)
            return tuple(desired.of_rule(mistake) for mistake in done.problems)
        return self._troubles.of("datapath.filter-failed")

    def _admit(self) -> tuple[Problem, ...]:
        if self.desired is not None and self._parts.enforcement.admit(self.desired.parts):
            self._judge_flows = True
        return ()

    def _grant(self) -> tuple[Problem, ...]:
        if self.desired is None:
            return ()
        found = self._parts.enforcement.grant(self.desired.rule_set, now=self._now())
        return tuple(desired.of_rule(mistake) for mistake in found)

    def _end_flows(self, flows: Sequence[Flow], own: Collection[Address]) -> None:
        if self.desired is None:
            return
        rule_set = self.desired.rule_set

        def admitted(address: Address) -> bool:
            return bool(rule_set.whereabouts.at(address))

        gone = outlived(
            flows,
            rule_set,
            overlay=self._config.gateway.overlay,
            own=own,
            admitted=admitted,
        )
        if gone:
            log.info("flows-ended", count=self._parts.flows.end(gone))
