"""Fetches the next certificate, installs it beside the old one, tries it, keeps or undoes it.

Journal, act, verify, commit: the key is on the disk before the request is sent; the new identity takes the old one's
place in one rename, with the old one kept; a tunnel with the new certificate is made while the one with the old still
stands; then the old one goes. A restart anywhere in between finds on the disk where it was.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from router_agent import bundle, identity
from router_agent.enrolment import certificates, renew, waiting
from router_agent.enrolment.renew import Line, Stage, Verdict
from router_agent.errors import AgentError, CloudRefusedError, StateError
from router_agent.identity import Identity
from router_agent.problems import Problem

_log = logging.getLogger(__name__)


class Renewal:
    """``ask`` sends a request (PEM) to the cloud. ``adopt`` makes the tunnel use what is installed now; True: it is the
    one before, given back. ``prove`` makes everything else use it: until a tunnel stands with a new certificate,
    heartbeats go by the one before, so that the cloud hears of the trial.
    """

    def __init__(
        self,
        installed: Identity,
        state: Path,
        *,
        ask: Callable[[str], None],
        adopt: Callable[[Identity, bool], None],
        prove: Callable[[Identity], None],
        now: float,
    ) -> None:
        self._identity = installed
        self._state = state
        self._ask = ask
        self._adopt = adopt
        self._prove = prove
        self._stage = renew.start(now, on_trial=identity.is_on_trial(state))
        self._validity = _validity(installed.directory)
        self._old_ends = _ends_of_the_old(state)
        self._roll = renew.spread(installed.device_id, self._validity.serial)
        self._trouble: Problem | None = None

    @property
    def on_trial(self) -> bool:
        """Whether the installed certificate has yet to prove itself."""
        return self._stage.stage is Stage.TRYING

    @property
    def ends(self) -> datetime:
        """When the installed certificate ends."""
        return self._validity.ends

    def problems(self, clock: datetime) -> tuple[Problem, ...]:
        """What is wrong with certificate, clock or renewal."""
        here = clock.isoformat(timespec="minutes")
        found = [] if self._trouble is None else [self._trouble]
        if clock < self._validity.begins:
            params = {"here": here, "begins": self._validity.begins.isoformat(timespec="minutes")}
            found.append(Problem("agent.clock-behind", params))
        elif clock > self._validity.ends:
            params = {"here": here, "ends": self._validity.ends.isoformat(timespec="minutes")}
            found.append(Problem("agent.certificate-expired", params))
        return tuple(found)

    def step(self, now: float, clock: datetime, *, asked: bool, skew_s: float | None, line: Line, roll: float) -> None:
        """Ask when it is time; judge a trial. ``asked``: the cloud wants a renewal."""
        if self._stage.stage is Stage.TRYING:
            self._judge(now, clock, line, roll)
        elif renew.wants(
            self._stage, self._validity, now=now, clock=clock, skew_s=skew_s, roll=self._roll, asked=asked
        ):
            try:
                waits = waiting.prepare(self._state, waiting.NEXT, self._identity.enrolment.site)
            except StateError as error:
                self._fail(Problem.of(error), now, roll)
                return
            self._stage = renew.asking(self._stage, now)
            _log.info("asking for the next certificate; this one ends at %s", self._validity.ends)
            self._ask(waits.csr_pem.decode())

    def answered(self, files: Mapping[str, bytes], now: float, clock: datetime, roll: float) -> None:
        """The cloud has sent files: check, install, begin the trial. What does not fit changes nothing."""
        try:
            changed = self._install(files, clock)
        except (AgentError, ValueError) as error:
            self._fail(Problem("agent.renewal-unfit", {"reason": str(error)[:200]}), now, roll)
            return
        if changed is None:
            # The cloud does not think it is time: ask again, but not soon.
            self._trouble = None
            self._stage = renew.failed(self._stage, now, roll)
            return
        self._take(changed)
        self._trouble = None
        self._stage = renew.trying(now)
        _log.info("a new certificate is installed, good until %s; trying it", self._validity.ends)
        self._adopt(changed, False)

    def refused(self, error: AgentError, now: float, roll: float) -> None:
        """The request came to nothing."""
        params = {"reason": str(error)[:200], "ends": self._validity.ends.isoformat(timespec="minutes")}
        key = "agent.renewal-refused" if isinstance(error, CloudRefusedError) else "agent.renewal-unanswered"
        self._fail(Problem(key, params), now, roll)

    def _install(self, files: Mapping[str, bytes], clock: datetime) -> Identity | None:
        """Raises AgentError: unfit, or the disk is full; nothing has changed then. None: nothing new."""
        before = identity.members(self._identity)
        own = {name: content for name, content in before.items() if name in bundle.OWN_MEMBERS}
        public = {name: before[name] for name in bundle.MEMBERS if name in before and name not in own}
        new = bundle.of_files({**public, **files})
        waits = waiting.find(self._state, waiting.NEXT)
        if waits is not None and certificates.is_for(new.members[certificates.SITE], waits.key_pem):
            own[waiting.KEY] = waits.key_pem
        members = {**before, **new.members, **own}
        if members == before:
            return None
        problems = certificates.check(
            members,
            new.enrolment,
            site=self._identity.enrolment.site,
            key_pem=own[waiting.KEY],
            root=before[certificates.ROOT],
        )
        if problems:
            raise problems[0]
        if certificates.validity(members[certificates.SITE]).ends < clock:
            raise CloudRefusedError("agent.certificate-expired", here=str(clock), ends="")
        identity.exchange(new.enrolment, members, self._state, keep=True)
        waiting.forget(self._state, waiting.NEXT)
        return identity.load(self._state)

    def _judge(self, now: float, clock: datetime, line: Line, roll: float) -> None:
        verdict = renew.judge(self._stage, line, now=now, clock=clock, old_ends=self._old_ends)
        if verdict is Verdict.KEEP:
            identity.keep_new(self._state)
            self._stage = renew.kept(now)
            self._prove(self._identity)
            _log.info("the new certificate works; the old one is gone")
        elif verdict is Verdict.UNDO:
            try:
                old = identity.restore(self._state)
            except AgentError as error:
                self._fail(Problem.of(error), now, roll)
                return
            refused = self._validity.ends.isoformat(timespec="minutes")
            self._take(old)
            self._fail(Problem("agent.certificate-refused", {"ends": refused}), now, roll)
            self._adopt(old, True)
            self._prove(old)

    def _take(self, installed: Identity) -> None:
        self._identity = installed
        self._validity = _validity(installed.directory)
        self._old_ends = _ends_of_the_old(self._state)
        self._roll = renew.spread(installed.device_id, self._validity.serial)

    def _fail(self, problem: Problem, now: float, roll: float) -> None:
        self._trouble = problem
        self._stage = renew.failed(self._stage, now, roll)
        _log.warning("renewal: %s %s", problem.key, dict(problem.params))


def _validity(directory: Path) -> certificates.Validity:
    """Raises StateError: the certificate is missing or damaged."""
    path = directory / certificates.SITE
    try:
        return certificates.validity(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StateError("agent.identity-damaged", path=str(directory), reason=str(error)[:200]) from error


def _ends_of_the_old(state: Path) -> datetime:
    try:
        return _validity(state / "identity.before").ends
    except StateError:
        return datetime.fromtimestamp(0, UTC)
