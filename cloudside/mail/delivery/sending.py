"""Hands one recipient's mail to the smarthost, over a session that is kept or a new one, and says what came of it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cloudside.mail.address import valid
from cloudside.mail.bounces import verp
from cloudside.mail.delivery.conversation import Answer, BrokenError, Letter
from cloudside.mail.delivery.outcome import Outcome, Stage, Verdict, judge, remote_id_of
from cloudside.mail.delivery.signing import Signer
from cloudside.mail.delivery.smarthost import REPLY_MAX_CHARS, NoSessionError, Sessions, words_of
from cloudside.mail.message import one_line
from cloudside.mail.model import Attempt, Kind

#: A smarthost that answered another session within this time is there: one session more than it likes, no fault.
ALIVE_S = 30.0
#: So many different mails in a row on which the connection broke, and it is not the mails.
BROKEN_MAX = 3


class CrowdedError(Exception):
    """The smarthost takes no further session while others work; ``words`` are its own."""


@dataclass(frozen=True, slots=True)
class ReturnPath:
    """What return addresses are made of (see bounces.verp). The first key signs."""

    keys: Sequence[bytes]
    domain: str

    def of(self, attempt: Attempt) -> str:
        """The MAIL FROM of one recipient's mail."""
        own = attempt.original.kind is not Kind.MAIL
        address = verp.ReturnAddress(attempt.original.id, attempt.index, own)
        return verp.compose(address, key=self.keys[0], domain=self.domain)


class Sender:
    """Sends. Several sends may be under way at once."""

    def __init__(self, sessions: Sessions, return_path: ReturnPath, signer: Signer | None = None) -> None:
        self._sessions = sessions
        self._return_path = return_path
        self._signer = signer
        self._answered_at = float("-inf")
        self._broken: set[tuple[int, int]] = set()

    async def send(self, attempt: Attempt) -> Outcome:
        """One transaction. Raises CrowdedError: nothing was tried, send it later over a session that works."""
        if not valid(attempt.recipient):
            return Outcome(Verdict.PERMANENT, "501 5.1.3 this is no mail address that can be sent to")
        try:
            letter = await self._letter(attempt)
        except OSError as error:
            return Outcome(Verdict.TEMPORARY, words_of(error))
        is_new = False
        while True:
            conversation = None if is_new else self._sessions.kept()
            was_kept = conversation is not None
            try:
                conversation = conversation or await self._sessions.open()
            except NoSessionError as error:
                self._raise_if_crowded(error.outcome)
                return error.outcome
            try:
                answer = await conversation.send(letter)
            except BrokenError as error:
                self._sessions.drop(conversation)
                # A kept session that had died is nobody's fault; but after the whole mail went out it may be taken.
                if was_kept and not error.whole:
                    is_new = True
                    continue
                return self._outcome_of_break(attempt, error)
            except BaseException as error:
                self._sessions.drop(conversation)
                if isinstance(error, OSError):  # the body's file
                    return Outcome(Verdict.TEMPORARY, words_of(error))
                raise
            self._broken.clear()
            self._sessions.keep(conversation)
            outcome = _outcome(answer)
            if outcome.verdict is Verdict.UNREACHABLE:
                if was_kept:
                    is_new = True
                    continue
                self._raise_if_crowded(outcome)
            else:
                self._answered_at = time.monotonic()
            return outcome

    async def _letter(self, attempt: Attempt) -> Letter:
        head, size = attempt.head, attempt.size
        if self._signer is not None:
            field = await asyncio.to_thread(self._signer.signature, head, attempt.body)
            head, size = field + head, size + len(field)
        return Letter(self._return_path.of(attempt), attempt.recipient, head, attempt.body, size)

    def _raise_if_crowded(self, outcome: Outcome) -> None:
        others_work = self._sessions.count > 0 and time.monotonic() - self._answered_at < ALIVE_S
        if outcome.verdict is Verdict.UNREACHABLE and others_work:
            raise CrowdedError(outcome.reply)

    def _outcome_of_break(self, attempt: Attempt, error: BrokenError) -> Outcome:
        """The connection broke on this very mail: it counts, or one mail could block the queue for ever. But when it
        breaks on whatever mail, it is the smarthost."""
        words = one_line(str(error), REPLY_MAX_CHARS)
        self._broken.add((attempt.original.id, attempt.index))
        is_smarthost = len(self._broken) >= BROKEN_MAX and not error.whole
        if len(self._broken) > BROKEN_MAX:
            self._broken.pop()
        return Outcome(Verdict.UNREACHABLE if is_smarthost else Verdict.TEMPORARY, words)


def _outcome(answer: Answer) -> Outcome:
    reply = answer.reply
    words = one_line(f"{reply.code} {reply.text}", REPLY_MAX_CHARS)
    if answer.to == "data" and reply.is_good:
        return Outcome(Verdict.DELIVERED, words, remote_id_of(reply.text))
    if reply.code < 400:
        # 2xx or 3xx where it means nothing: RFC 5321 4.3.2 knows 250 and 251, and 354 for DATA.
        return Outcome(Verdict.TEMPORARY, words)
    return Outcome(judge(reply.code, reply.text, Stage.MESSAGE), words)
