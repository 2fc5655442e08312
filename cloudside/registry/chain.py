"""The audit log's chain: what an entry's hash covers, and whether a row of entries is whole. Pure.

Each hash covers its entry and the hash before it, so whoever changes, removes, inserts or reorders entries would have
to compute all later hashes anew. Against that, and against a tail that was cut off, helps only what was written down
elsewhere: the number and hash of the newest entry at some time (a Head).
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

#: What stands before the first entry.
ORIGIN = "0" * 64

_HEAD = re.compile(r"\s*(\d{1,18}):([0-9a-f]{64})\s*")


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry at some time. Number 0: the log was empty."""

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


EMPTY = Head(0, ORIGIN)


@dataclass(frozen=True, slots=True)
class Entry:
    """One change; see tables.AuditEntry. ``before`` and ``after`` are JSON objects or None."""

    number: int
    at: datetime
    actor: str
    tenant: str | None
    action: str
    kind: str
    subject: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    previous: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """``key`` None: everything fits. Else the message that says why entry ``number`` is the first that does not.

    ``head`` is the last entry that fits.
    """

    head: Head
    key: str | None = None
    number: int = 0


def digest(entry: Entry) -> str:
    """The entry's hash, hexadecimal: SHA-256 over its JSON with sorted names, no blanks, ASCII only."""
    document = {
        "number": entry.number,
        "at": entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": entry.actor,
        "tenant": entry.tenant,
        "action": entry.action,
        "kind": entry.kind,
        "subject": entry.subject,
        "before": entry.before,
        "after": entry.after,
        "previous": entry.previous,
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_head(text: str) -> Head | None:
    """``NUMBER:HASH`` as ``str`` writes it; None: it is none."""
    found = _HEAD.fullmatch(text)
    return None if found is None else Head(int(found[1]), found[2])


def verify(entries: Iterable[tuple[Entry, str]], witnesses: Sequence[Head] = ()) -> Verdict:
    """Hold all entries with their hashes, by number, against the chain and against what was written down elsewhere."""
    wanted: dict[int, set[str]] = {}
    for witness in witnesses:
        wanted.setdefault(witness.number, set()).add(witness.hash)
    last = EMPTY
    for entry, found in entries:
        number = last.number + 1
        if entry.number > number:
            return Verdict(last, "audit.missing", number)
        if entry.number < number:
            return Verdict(last, "audit.put-in", entry.number)
        if digest(entry) != found:
            return Verdict(last, "audit.changed", number)
        if entry.previous != last.hash:
            return Verdict(last, "audit.out-of-chain", number)
        if wanted.get(number, {found}) != {found}:
            return Verdict(last, "audit.not-as-witnessed", number)
        last = Head(number, found)
    newest = max(wanted, default=0)
    if newest > last.number:
        return Verdict(last, "audit.tail-missing", last.number + 1)
    if wanted.get(0, {ORIGIN}) != {ORIGIN}:
        return Verdict(last, "audit.not-as-witnessed", 0)
    return Verdict(last)
