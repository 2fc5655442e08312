"""What a report about one recipient changes, whichever way it came: by mail or as a notice.

Invariants: a failure and the reports about it are one transaction; the same failure told twice, in any order and on
both ways, is recorded and reported once; nobody is told of what is not final.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from cloudside.errors import UnavailableError
from cloudside.mail.bounces import dsn
from cloudside.mail.bounces.reading import Meaning, Report
from cloudside.mail.intake.directory import Directory
from cloudside.mail.model import Kind, Original, State, shown_id
from cloudside.mail.store.queue import Queue

log = structlog.get_logger(__name__)

NewId = Callable[[], int]


def random_id() -> int:
    """A new message's id."""
    return secrets.randbits(63)


def _nothing(_word: str) -> None:
    pass


def _no_address(_origin: str) -> str | None:
    return None


def notify_of(directory: Directory) -> Callable[[str], str | None]:
    """Looks up a site's address for notices; None while the registry has never been read."""

    def look(origin: str) -> str | None:
        try:
            found = directory.snapshot.origins.get(origin)
        except UnavailableError:
            return None
        return None if found is None else found.notify

    return look


@dataclass(frozen=True, slots=True)
class Recorder:
    """Writes reports into the queue. ``notify``: a site's address for notices, by origin. ``queued`` is called when a
    letter waits for delivery, ``counted`` with each meaning.
    """

    queue: Queue
    voice: dsn.Voice
    queued: Callable[[], None]
    notify: Callable[[str], str | None] = _no_address
    counted: Callable[[str], None] = _nothing
    new_id: NewId = field(default=random_id)

    async def known(self, message_id: int, index: int) -> tuple[Original, str] | None:
        """The mail and its recipient; None: unknown or past its retention. Raises UnavailableError."""
        return await self.queue.original(message_id, index)

    async def record(self, known: tuple[Original, str], index: int, report: Report, now: float) -> bool:
        """Take down what ``report`` says; False: nothing new. Raises UnavailableError: nothing was taken down."""
        original, recipient = known
        self.counted(report.meaning)
        if report.meaning is Meaning.FAILED:
            new, letters = await self._failed(original, recipient, index, report, now)
        elif report.meaning is Meaning.COMPLAINED:
            new, letters = await self._complained(original, recipient, index, report, now)
        else:
            event, detail = f"report-{report.meaning}", f"{report.status} {report.reason}"
            new = await self.queue.note(original.id, index, now, event, detail, feedback=report.feedback)
            letters = 0
        if new and letters:
            self.queued()
        log.info(
            "report-received",
            message=shown_id(original.id),
            recipient=index,
            meaning=report.meaning,
            status=report.status,
            new=new,
            letters=letters if new else 0,
        )
        return new

    async def _failed(
        self, original: Original, recipient: str, index: int, report: Report, now: float
    ) -> tuple[bool, int]:
        letters = dsn.reports(
            original,
            recipient,
            State.BOUNCED,
            status=report.status,
            reason=report.reason,
            voice=self.voice,
            now=now,
            notify=self.notify(original.origin),
            new_id=self.new_id,
            cause=report.cause,
        )
        new = await self.queue.fail(
            original.id,
            index,
            State.BOUNCED,
            now,
            f"{report.status} {report.reason}",
            letters,
            permanent=report.permanent,
            # Our own letters have no tenant: their addressee must not be closed to the cloud servers, which have none.
            suppress="bounce" if report.suppresses and original.kind is Kind.MAIL else "",
            feedback=report.feedback,
        )
        return new, len(letters)

    async def _complained(
        self, original: Original, recipient: str, index: int, report: Report, now: float
    ) -> tuple[bool, int]:
        letters = dsn.complaints(
            original,
            recipient,
            voice=self.voice,
            now=now,
            notify=self.notify(original.origin),
            new_id=self.new_id,
        )
        new = await self.queue.complained(original.id, index, now, report.reason, letters, feedback=report.feedback)
        return new, len(letters)
