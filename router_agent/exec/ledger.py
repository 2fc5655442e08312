"""Commands that were begun and what came of them, a file each in ``<state>/commands``, written before anything is done.

A command that is in here is never run again, whoever asks. One that was begun and has no end was interrupted; for a
restart that is the very purpose.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from linux.files import write_durably
from router_agent.errors import StateError
from router_agent.problems import Problem
from router_agent.report.requests import CommandReport, moment, read_moment

FORMAT = 1
#: Commands that are remembered. The cloud asks for a command for a week at most, and hands few out at once.
KEPT = 200
#: Of these, so many with their output: it may be asked for again when its first answer was lost.
OUTPUTS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """``boot``: the boot id it was begun under. ``report`` None: begun, no more is known. ``handed_over``: the cloud
    has the report."""

    id: str
    name: str
    began_at: datetime
    boot: str
    report: CommandReport | None = None
    handed_over: bool = False


class Ledger:
    """Reads at its first use. All writing raises StateError: the disk is full or read-only."""

    def __init__(self, state: Path) -> None:
        self._directory = state / "commands"
        self._entries: dict[str, Entry] | None = None

    def find(self, identifier: str) -> Entry | None:
        """The entry of a command; None: it was never begun."""
        return self._all().get(identifier)

    def undelivered(self) -> tuple[Entry, ...]:
        """Ended ones whose report the cloud has not taken yet."""
        return tuple(one for one in self._all().values() if one.report is not None and not one.handed_over)

    def open(self) -> tuple[Entry, ...]:
        """Begun ones without an end."""
        return tuple(one for one in self._all().values() if one.report is None)

    def begin(self, entry: Entry) -> None:
        """Write it down before it is done."""
        self._keep(entry)
        self._prune()

    def end(self, identifier: str, report: CommandReport) -> Entry:
        """It is over."""
        entry = replace(self._all()[identifier], report=report)
        self._keep(entry)
        return entry

    def handed_over(self, identifier: str) -> None:
        """The cloud has its report."""
        self._keep(replace(self._all()[identifier], handed_over=True))

    def _all(self) -> dict[str, Entry]:
        if self._entries is None:
            found = []
            try:
                for path in self._directory.glob("*.json"):
                    entry = _read(path)
                    if entry is not None:
                        found.append(entry)
            except OSError:
                pass
            self._entries = {one.id: one for one in sorted(found, key=lambda one: one.began_at)}
        return self._entries

    def _keep(self, entry: Entry) -> None:
        report = entry.report
        document = {
            "format": FORMAT,
            "id": entry.id,
            "name": entry.name,
            "began_at": moment(entry.began_at),
            "boot": entry.boot,
            "report": None if report is None else report.document(),
            "handed_over": entry.handed_over,
        }
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            write_durably(self._directory / f"{entry.id}.json", json.dumps(document).encode())
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StateError("agent.state-unwritable", path=str(self._directory), reason=reason) from error
        self._all()[entry.id] = entry

    def _prune(self) -> None:
        """Forget the oldest ones that are over; the older ones that stay lose their output."""
        entries = self._all()
        over = [one for one in entries.values() if one.handed_over]
        for one in over[: max(0, len(entries) - KEPT)]:
            (self._directory / f"{one.id}.json").unlink(missing_ok=True)
            del entries[one.id]
        for one in over[:-OUTPUTS_KEPT]:
            if one.id in entries and one.report is not None and one.report.output:
                self._keep(replace(one, report=replace(one.report, output="", truncated=True)))


def _read(path: Path) -> Entry | None:
    """The entry in a file. One that is damaged still names its command: it is not run again."""
    try:
        fields = json.loads(path.read_bytes())
        told = fields["report"]
        return Entry(
            id=str(fields["id"]),
            name=str(fields["name"]),
            began_at=read_moment(fields["began_at"]),
            boot=str(fields["boot"]),
            report=None if told is None else _report(told),
            handed_over=fields["handed_over"] is True,
        )
    except (OSError, ValueError, KeyError, TypeError):
        lost = CommandReport("interrupted", problem=Problem("agent.command-record-damaged"))
        return Entry(path.stem, "", datetime.fromtimestamp(0, UTC), "", lost, handed_over=True)


def _report(fields: Mapping[str, object]) -> CommandReport:
    problem = fields.get("problem")
    began_at, status, duration_s = fields.get("began_at"), fields.get("status"), fields.get("duration_s")
    return CommandReport(
        state=str(fields["state"]),
        status=status if isinstance(status, int) else None,
        output=str(fields.get("output", "")),
        truncated=fields.get("truncated") is True,
        began_at=read_moment(began_at) if isinstance(began_at, str) and began_at else None,
        duration_s=float(duration_s) if isinstance(duration_s, int | float) else 0.0,
        problem=Problem(str(problem["key"]), problem["params"]) if isinstance(problem, dict) else None,
    )
