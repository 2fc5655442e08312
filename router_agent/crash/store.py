"""Crash reports on disk, ``<state>/crashes``: few and small, whatever crashes how often. Any thread may call.

A report that is there already is counted. The count goes to disk at most once a minute and to the cloud at most once an
hour: a fault in every tick must wear out neither flash nor data budget.
"""

import json
import logging
import threading
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from linux.files import write_durably
from router_agent.report.requests import CrashReport, read_moment

_log = logging.getLogger(__name__)

FORMAT = 1
#: Reports that are kept; the oldest that the cloud has goes first.
KEPT = 20
WRITE_EVERY = timedelta(minutes=1)
SEND_EVERY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class _Kept:
    """``sent``: the count that the cloud has, 0: it has nothing; ``sent_at``, ``written_at``: when that was."""

    report: CrashReport
    sent: int = 0
    sent_at: datetime | None = None
    written_at: datetime | None = None


class Store:
    """Reads at its first use. A disk that is full costs reports, never the agent."""

    def __init__(self, state: Path) -> None:
        self._directory = state / "crashes"
        self._kept: dict[str, _Kept] | None = None
        self._lock = threading.Lock()

    def add(self, report: CrashReport) -> None:
        """Keep a report, or count one that is there."""
        with self._lock:
            kept = self._all()
            known = kept.get(report.id)
            if known is None:
                kept[report.id] = _Kept(report)
                self._write(report.id, report.last_at)
                self._bound()
                return
            counted = replace(known.report, last_at=report.last_at, count=known.report.count + report.count)
            kept[report.id] = replace(known, report=counted)
            if known.written_at is None or report.last_at - known.written_at >= WRITE_EVERY:
                self._write(report.id, report.last_at)

    def knows(self, identifier: str) -> bool:
        """Whether it is there: an end that is told of once."""
        with self._lock:
            return identifier in self._all()

    def due(self, now: datetime) -> tuple[CrashReport, ...]:
        """What the cloud has not got, the oldest first; a count that grew only each SEND_EVERY."""
        with self._lock:
            return tuple(
                one.report
                for one in sorted(self._all().values(), key=lambda one: one.report.first_at)
                if one.sent == 0
                or (one.report.count > one.sent and (one.sent_at is None or abs(now - one.sent_at) >= SEND_EVERY))
            )

    def sent(self, report: CrashReport, now: datetime) -> None:
        """The cloud has it."""
        with self._lock:
            known = self._all().get(report.id)
            if known is not None:
                self._all()[report.id] = replace(known, sent=report.count, sent_at=now)
                self._write(report.id, now)

    def _all(self) -> dict[str, _Kept]:
        if self._kept is None:
            self._kept = {}
            try:
                for path in self._directory.glob("*.json"):
                    found = _read(path)
                    if found is None:
                        path.unlink(missing_ok=True)
                    else:
                        self._kept[found.report.id] = found
            except OSError as error:
                _log.warning("crash reports cannot be read: %s", error)
        return self._kept

    def _write(self, identifier: str, now: datetime) -> None:
        known = self._all()[identifier]
        sent_at = None if known.sent_at is None else known.sent_at.isoformat()
        document = {"format": FORMAT, "sent": known.sent, "sent_at": sent_at, "report": known.report.document()}
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            write_durably(self._directory / f"{identifier}.json", json.dumps(document).encode())
        except OSError as error:
            _log.warning("a crash report cannot be kept: %s", error)
        self._all()[identifier] = replace(known, written_at=now)

    def _bound(self) -> None:
        kept = self._all()
        # Those that the cloud has not got go last; of the others the oldest goes first.
        order = sorted(kept.values(), key=lambda one: (one.sent == 0, one.report.last_at))
        for one in order[: max(0, len(kept) - KEPT)]:
            del kept[one.report.id]
            try:
                (self._directory / f"{one.report.id}.json").unlink(missing_ok=True)
            except OSError:
                pass


def _read(path: Path) -> _Kept | None:
    try:
        document = json.loads(path.read_bytes())
        fields = document["report"]
        report = CrashReport(
            id=str(fields["id"]),
            kind=str(fields["kind"]),
            process=str(fields["process"]),
            summary=str(fields["summary"]),
            first_at=read_moment(fields["first_at"]),
            last_at=read_moment(fields["last_at"]),
            count=int(fields["count"]),
            versions={str(name): str(version) for name, version in fields["versions"].items()},
            text=str(fields["text"]),
        )
        sent_at = document["sent_at"]
        return _Kept(report, int(document["sent"]), None if sent_at is None else datetime.fromisoformat(sent_at))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
