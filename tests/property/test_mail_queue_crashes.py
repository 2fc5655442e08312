"""Whatever is done to the queue, and wherever it is cut off: each accepted recipient is in one state, the right one.

A crash is a copy of the queue's files, opened elsewhere: between two operations, or in the middle of one, just before
its COMMIT (nothing of it may be there) or just after (all of it is, though nobody was told).
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloudside.errors import UnavailableError
from cloudside.mail.model import (
    UNFINISHED,
    Action,
    Attempt,
    Kind,
    Limit,
    LimitExceededError,
    NewMessage,
    Scope,
    Selection,
    State,
)
from cloudside.mail.store.moving import RECOVERIES_MAX
from cloudside.mail.store.queue import Queue

START = 1_800_000_000.0
HEAD = b"Subject: s\r\n"
SITES = ("tokyo-1", "osaka-1")

Key = tuple[int, int]


@dataclass
class Recipient:
    """What the machine believes of a recipient."""

    site: str
    state: State
    accepted_at: float
    due: float
    body: bytes
    recovered: int = 0


@dataclass
class _Trap:
    """A connection that leaves a copy of the queue's directory at its next COMMIT, as a power cut there would."""

    real: Any
    before: bool
    leave: Callable[[], None]
    sprung: bool = field(default=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def execute(self, statement: str, *parameters: Any) -> Any:
        if statement != "COMMIT" or self.sprung:
            return self.real.execute(statement, *parameters)
        self.sprung = True
        if self.before:
            self.leave()
        found = self.real.execute(statement)
        if not self.before:
            self.leave()
        return found


class Mail(RuleBasedStateMachine):
    """The queue beside a dictionary."""

    @initialize()
    def start(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="kyoten-queue-"))
        self.runner = asyncio.Runner()
        self.queue = Queue(self.place / "0", reserve_bytes=0)
        self.copies = 0
        self.now = START
        self.next_id = 1
        self.known: dict[Key, Recipient] = {}
        self.in_hand: dict[Key, Attempt] = {}
        self.suppressing = 0

    def teardown(self) -> None:
        self.queue.close()
        self.runner.close()
        shutil.rmtree(self.place, ignore_errors=True)

    # What relay and staff do

    @rule(
        recipients=st.integers(1, 3),
        site=st.sampled_from(SITES),
        large=st.booleans(),
        held=st.booleans(),
        urgent=st.booleans(),
        limit=st.sampled_from([None, *Action]),
    )
    def accept(self, recipients: int, site: str, large: bool, held: bool, urgent: bool, limit: Action | None) -> None:
        new = self._message(recipients, site, large=large, held=held, urgent=urgent, limit=limit)
        try:
            receipt = self._run(self.queue.accept(new))
        except LimitExceededError:
            assert limit is Action.REFUSE
            return
        assert receipt.taken and (bool(receipt.held) or not held)
        self._took(new, held=bool(receipt.held))

    @rule(limit=st.integers(1, 4), urgent_only=st.booleans())
    def claim(self, limit: int, urgent_only: bool) -> None:
        attempts = self._run(self.queue.claim(self.now, limit, urgent_only=urgent_only))
        due = self._in(State.QUEUED)
        if not urgent_only:
            assert len(attempts) == min(limit, sum(self.known[key].due <= self.now for key in due))
        for attempt in attempts:
            key = (attempt.original.id, attempt.index)
            recipient = self.known[key]
            assert recipient.state is State.QUEUED and recipient.due <= self.now
            body = attempt.body if isinstance(attempt.body, bytes) else attempt.body.read_bytes()
            assert body == recipient.body and attempt.head == HEAD
            recipient.state = State.SENDING
            self.in_hand[key] = attempt

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        key, attempt = self._attempt(data)
        self._run(self.queue.delivered(attempt, self.now, "250", f"r{key}"))
        self.known[key].state = State.DELIVERED

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), wait=st.sampled_from([0.0, 900.0]))
    def postpone(self, data: st.DataObject, wait: float) -> None:
        key, attempt = self._attempt(data)
        self._run(self.queue.postpone(attempt, self.now, until=self.now + wait, reply="451", counted=True))
        recipient = self.known[key]
        recipient.state, recipient.due, recipient.recovered = State.QUEUED, self.now + wait, 0

    @precondition(lambda self: self.known)
    @rule(data=st.data(), state=st.sampled_from([State.BOUNCED, State.EXPIRED]), report=st.booleans())
    def fail(self, data: st.DataObject, state: State, report: bool) -> None:
        """At the smarthost's word, or by a bounce that comes at any time."""
        key = data.draw(st.sampled_from(sorted(self.known)))
        reports = (self._message(1, "", kind=Kind.DSN),) if report else ()
        new = self._run(self.queue.fail(*key, state, self.now, "550", reports, permanent=True, suppress="bounce"))
        assert new is (self.known[key].state in _FAILS_FROM[state])
        if new:
            self._failed(key, state, reports)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def complain(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.known)))
        if self._run(self.queue.complained(*key, self.now, "abuse", (), feedback="f")):
            self.suppressing += 1
        assert not self._run(self.queue.complained(*key, self.now, "abuse", (), feedback="f"))

    @rule(site=st.sampled_from(SITES))
    def hold(self, site: str) -> None:
        changed = self._run(self.queue.hold(Selection(origins=(site,)), self.now, "hold: test"))
        assert changed == self._staff(State.QUEUED, State.HELD, site)

    @rule(site=st.sampled_from(SITES))
    def release(self, site: str) -> None:
        changed = self._run(self.queue.release(Selection(origins=(site,)), self.now))
        assert changed == self._staff(State.HELD, State.QUEUED, site)

    @rule(site=st.sampled_from(SITES))
    def retry(self, site: str) -> None:
        changed = self._run(self.queue.retry(Selection(origins=(site,)), self.now))
        assert changed == self._staff(State.QUEUED, State.QUEUED, site)

    @rule(site=st.sampled_from(SITES))
    def drop(self, site: str) -> None:
        changed = self._run(self.queue.drop(Selection(origins=(site,)), self.now, "test"))
        assert changed == self._staff(State.QUEUED, State.DROPPED, site) + self._staff(State.HELD, State.DROPPED, site)

    @rule(seconds=st.sampled_from([1.0, 1000.0, -500.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(age=st.sampled_from([0.0, 600.0]))
    def purge(self, age: float) -> None:
        before = self.now - age
        messages: dict[int, list[Recipient]] = {}
        for (message_id, _), recipient in self.known.items():
            messages.setdefault(message_id, []).append(recipient)
        old = {
            message_id
            for message_id, all_of_it in messages.items()
            if all_of_it[0].accepted_at < before and not any(one.state in UNFINISHED for one in all_of_it)
        }
        assert self._run(self.queue.purge(before, before)) == len(old)
        self.known = {key: recipient for key, recipient in self.known.items() if key[0] not in old}

    # What ends it

    @rule()
    def restart(self) -> None:
        directory = self.queue.incoming.parent
        self.queue.close()
        self._opened(directory)

    @rule()
    def killed(self) -> None:
        self._opened(self._leave())

    @rule(before=st.booleans(), large=st.booleans(), recipients=st.integers(1, 2))
    def killed_while_accepting(self, before: bool, large: bool, recipients: int) -> None:
        new = self._message(recipients, "tokyo-1", large=large)
        self._killed(self.queue.accept(new), before, lambda: self._took(new, held=False))

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), before=st.booleans(), bounced=st.booleans())
    def killed_while_recording(self, data: st.DataObject, before: bool, bounced: bool) -> None:
        key, attempt = self._attempt(data)
        if bounced:
            reports = (self._message(1, "", kind=Kind.DSN),)
            work = self.queue.fail(*key, State.BOUNCED, self.now, "550", reports, permanent=True, suppress="bounce")
            self._killed(work, before, lambda: self._failed(key, State.BOUNCED, reports))
            return

        def delivered() -> None:
            self.known[key].state = State.DELIVERED

        self._killed(self.queue.delivered(attempt, self.now, "250"), before, delivered)

    @rule(before=st.booleans())
    def killed_while_claiming(self, before: bool) -> None:
        def claimed() -> None:
            due = [key for key in self._in(State.QUEUED) if self.known[key].due <= self.now]
            for key in due:
                self.known[key].state = State.SENDING

        self._killed(self.queue.claim(self.now, 1000), before, claimed)

    @precondition(lambda self: self._in(State.QUEUED))
    @rule(before=st.booleans())
    def killed_while_dropping(self, before: bool) -> None:
        def dropped() -> None:
            for key in self._in(State.QUEUED, State.HELD):
                self.known[key].state = State.DROPPED

        self._killed(self.queue.drop(Selection(), self.now, "test"), before, dropped)

    # What must hold

    @invariant()
    def each_recipient_is_where_it_belongs(self) -> None:
        entries = self._run(self.queue.entries(Selection(), 10_000))
        found = Counter((int(entry.message, 16), entry.recipient) for entry in entries)
        assert set(found.values()) <= {1}
        states = {(int(entry.message, 16), int(entry.recipient.split("@")[0])): entry.state for entry in entries}
        assert states == {key: recipient.state.value for key, recipient in self.known.items()}
        assert self._run(self.queue.states()) == Counter(states.values())
        assert len(self._run(self.queue.suppressing())) == self.suppressing

    @invariant()
    def whoever_waits_is_called(self) -> None:
        waiting = [self.known[key].due for key in self._in(State.QUEUED)]
        assert self._run(self.queue.next_due()) == min(waiting, default=None)

    # How

    def _run(self, work: Awaitable[Any]) -> Any:
        async def run() -> Any:
            return await work

        return self.runner.run(run())

    def _message(
        self,
        recipients: int,
        site: str,
        *,
        large: bool = False,
        held: bool = False,
        urgent: bool = False,
        limit: Action | None = None,
        kind: Kind = Kind.MAIL,
    ) -> NewMessage:
        number, self.next_id = self.next_id, self.next_id + 1
        body = str(number).encode() * (30_000 if large else 1)
        limits = () if limit is None else (Limit(Scope.SITE, site, 4, None, limit),)
        return NewMessage(
            *(number, kind, site, "10.0.0.1", "p@x.test", tuple(f"{index}@x.test" for index in range(recipients))),
            *("s", HEAD, body * (3 if large else 1), self.now),
            tenant="acme" if site else "",
            held="hold: test" if held else "",
            urgent=urgent,
            limits=limits,
        )

    def _took(self, new: NewMessage, *, held: bool) -> None:
        state = State.HELD if held else State.QUEUED
        assert isinstance(new.body, bytes)
        for index in range(len(new.recipients)):
            self.known[new.id, index] = Recipient(new.origin, state, new.accepted_at, new.accepted_at, new.body)

    def _failed(self, key: Key, state: State, reports: Iterable[NewMessage]) -> None:
        self.known[key].state = state
        self.in_hand.pop(key, None)
        self.suppressing += 1
        for report in reports:
            self._took(report, held=False)

    def _in(self, *states: State) -> list[Key]:
        return sorted(key for key, recipient in self.known.items() if recipient.state in states)

    def _attempt(self, data: st.DataObject) -> tuple[Key, Attempt]:
        key = data.draw(st.sampled_from(sorted(self.in_hand)))
        return key, self.in_hand.pop(key)

    def _staff(self, source: State, target: State, site: str) -> int:
        keys = [key for key in self._in(source) if self.known[key].site == site]
        for key in keys:
            recipient = self.known[key]
            recipient.state, recipient.due, recipient.recovered = target, self.now, 0
        return len(keys)

    def _leave(self) -> Path:
        """A copy of the queue's files as they are now: what another process would find."""
        self.copies += 1
        there, here = self.queue.incoming.parent, self.place / str(self.copies)
        for path in sorted(there.rglob("*")):
            if path.is_file() and not path.name.endswith(("-shm", ".lock")):
                copy = here / path.relative_to(there)
                copy.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # a body that is being taken away
                    shutil.copyfile(path, copy)
        return here

    def _killed(self, work: Awaitable[Any], before: bool, happened: Callable[[], None]) -> None:
        """Cut off in the middle of ``work``; ``happened`` if it was after its COMMIT."""
        left: list[Path] = []
        engine = self.queue._engine
        engine._connection = trap = _Trap(  # type: ignore[attr-defined]
            engine._connection,  # type: ignore[attr-defined]
            before,
            lambda: left.append(self._leave()),
        )
        with suppress(UnavailableError):
            self._run(work)
        engine._connection = trap.real  # type: ignore[attr-defined]
        if not before:
            happened()
        self._opened(left[0])

    def _opened(self, directory: Path) -> None:
        """A relay starts on what is there."""
        if self.queue.incoming.parent != directory:
            self.queue.close()
        self.queue = Queue(directory, reserve_bytes=0)
        self._run(self.queue.recover(self.now))
        self.in_hand.clear()
        for key in self._in(State.SENDING):
            recipient = self.known[key]
            if recipient.recovered >= RECOVERIES_MAX:
                recipient.state = State.HELD
            else:
                recipient.state, recipient.due = State.QUEUED, self.now
                recipient.recovered += 1
        kept = {path.name for path in (directory / "bodies").iterdir()}
        assert kept == {
            f"{message_id:016x}"
            for (message_id, _), recipient in self.known.items()
            if recipient.state in UNFINISHED and len(recipient.body) > 64 * 1024
        }


_FAILS_FROM = {
    State.BOUNCED: frozenset({State.QUEUED, State.SENDING, State.HELD, State.DELIVERED}),
    State.EXPIRED: frozenset({State.SENDING}),
}

TestMail = Mail.TestCase
TestMail.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
