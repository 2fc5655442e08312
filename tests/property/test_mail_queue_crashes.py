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
        # There is something to work on from the beginning: left to chance, most runs would play with an empty queue.
        for site, recipients, large, urgent in (("tokyo-1", 3, False, False), ("osaka-1", 2, True, True)):
            for _ in range(3):
                new = self._message(recipients, site, large=large, urgent=urgent)
                self._run(self.queue.accept(new))
                self._took(new, held=False)

    def teardown(self) -> None:
        self.queue.close()
        self.runner.close()
        shutil.rmtree(self.place, ignore_errors=True)

    # What relay and staff do

    @rule(
        recipients=st.integers(1, 3),
        site=st.sampled_from(SITES),
        large=st.booleans(),
        held=st.sampled_from([False, False, True]),
        urgent=st.booleans(),
        limit=st.sampled_from([None, None, *Action]),
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

    @rule(
        urgent_only=st.booleans(),
        outcomes=st.lists(
            st.sampled_from(["delivered", "later", "soon", "bounced", "expired", "under way"]), min_size=1, max_size=5
        ),
    )
    def work(self, urgent_only: bool, outcomes: list[str]) -> None:
        """Claim as many as there are outcomes, and tell the queue of each."""
        attempts = self._run(self.queue.claim(self.now, len(outcomes), urgent_only=urgent_only))
        if not urgent_only:
            assert len(attempts) == min(len(outcomes), len(self._due()))
        for attempt, outcome in zip(attempts, outcomes, strict=False):
            key = (attempt.original.id, attempt.index)
            recipient = self.known[key]
            assert recipient.state is State.QUEUED and recipient.due <= self.now
            body = attempt.body if isinstance(attempt.body, bytes) else attempt.body.read_bytes()
            assert body == recipient.body and attempt.head == HEAD
            recipient.state = State.SENDING
            self.in_hand[key] = attempt
            self._settle(key, outcome)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), outcome=st.sampled_from(["delivered", "later"]))
    def one_more_ends(self, data: st.DataObject, outcome: str) -> None:
        self._settle(data.draw(st.sampled_from(sorted(self.in_hand))), outcome)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), word=st.sampled_from(["bounced", "expired", "complained"]), report=st.booleans())
    def a_word_comes(self, data: st.DataObject, word: str, report: bool) -> None:
        """A bounce or a complaint, at any time and maybe twice."""
        key = data.draw(st.sampled_from(sorted(self.known)))
        if word == "complained":
            self.suppressing += self._run(self.queue.complained(*key, self.now, "abuse", (), feedback="f"))
            assert not self._run(self.queue.complained(*key, self.now, "abuse", (), feedback="f"))
            return
        reports = (self._message(1, "", kind=Kind.DSN),) if report else ()
        state = State(word)
        new = self._run(self.queue.fail(*key, state, self.now, "550", reports, permanent=True, suppress="bounce"))
        assert new is (self.known[key].state in _FAILS_FROM[state])
        if new:
            self._failed(key, state, reports)

    @rule(site=st.sampled_from(SITES), what=st.sampled_from(["release", "retry", "hold", "release", "retry", "drop"]))
    def staff(self, site: str, what: str) -> None:
        which = Selection(origins=(site,))
        if what == "hold":
            changed = self._run(self.queue.hold(which, self.now, "hold: test"))
            assert changed == self._moved(State.QUEUED, State.HELD, site)
        elif what == "release":
            changed = self._run(self.queue.release(which, self.now))
            assert changed == self._moved(State.HELD, State.QUEUED, site)
        elif what == "retry":
            changed = self._run(self.queue.retry(which, self.now))
            assert changed == self._moved(State.QUEUED, State.QUEUED, site)
        else:
            changed = self._run(self.queue.drop(which, self.now, "test"))
            dropped = self._moved(State.QUEUED, State.DROPPED, site) + self._moved(State.HELD, State.DROPPED, site)
            assert changed == dropped

    @rule(seconds=st.sampled_from([1.0, 1000.0, -500.0]), retention=st.sampled_from([None, None, 600.0, 0.0]))
    def time_passes(self, seconds: float, retention: float | None) -> None:
        self.now += seconds
        if retention is None:
            return
        before = self.now - retention
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

    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        if kill:
            self._opened(self._leave())
            return
        self.queue.close()
        self._opened(self.queue.incoming.parent)

    @rule(
        data=st.data(),
        what=st.sampled_from(["accept", "claim", "delivered", "bounced", "hold"]),
        before=st.booleans(),
    )
    def killed_while(self, data: st.DataObject, what: str, before: bool) -> None:
        if what == "accept":
            new = self._message(data.draw(st.integers(1, 2)), "tokyo-1", large=data.draw(st.booleans()))
            self._killed(self.queue.accept(new), before, lambda: self._took(new, held=False))
        elif what == "claim":
            due = self._due()
            self._killed(self.queue.claim(self.now, 1000), before, lambda: self._all(due, State.SENDING))
        elif what == "hold":
            keys = self._in(State.QUEUED)
            work = self.queue.hold(Selection(), self.now, "test")
            self._killed(work, before, lambda: self._all(keys, State.HELD))
        elif self.in_hand:
            key = data.draw(st.sampled_from(sorted(self.in_hand)))
            attempt = self.in_hand.pop(key)
            if what == "delivered":
                done = self.queue.delivered(attempt, self.now, "250")
                self._killed(done, before, lambda: self._all([key], State.DELIVERED))
            else:
                reports = (self._message(1, "", kind=Kind.DSN),)
                fail = self.queue.fail(*key, State.BOUNCED, self.now, "550", reports, permanent=True, suppress="bounce")
                self._killed(fail, before, lambda: self._failed(key, State.BOUNCED, reports))

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

    def _due(self) -> list[Key]:
        return [key for key in self._in(State.QUEUED) if self.known[key].due <= self.now]

    def _all(self, keys: list[Key], state: State) -> None:
        for key in keys:
            self.known[key].state = state
            self.known[key].recovered *= state is State.SENDING

    def _settle(self, key: Key, outcome: str) -> None:
        attempt, recipient = self.in_hand[key], self.known[key]
        if outcome == "under way" or recipient.state is not State.SENDING:
            return
        if outcome == "delivered":
            self._run(self.queue.delivered(attempt, self.now, "250", f"r{key}"))
            recipient.state = State.DELIVERED
        elif outcome in ("later", "soon"):
            until = self.now + (900.0 if outcome == "later" else 0.0)
            self._run(self.queue.postpone(attempt, self.now, until=until, reply="451", counted=True))
            recipient.state, recipient.due, recipient.recovered = State.QUEUED, until, 0
        else:
            state, reports = State(outcome), (self._message(1, "", kind=Kind.DSN),)
            assert self._run(self.queue.fail(*key, state, self.now, "550", reports, permanent=True, suppress="bounce"))
            self._failed(key, state, reports)
        self.in_hand.pop(key, None)

    def _moved(self, source: State, target: State, site: str) -> int:
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
                recipient.state, recipient.due = State.QUEUED, min(recipient.due, self.now)
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
