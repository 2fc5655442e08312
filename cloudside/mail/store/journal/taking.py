"""What the queue does with mails of a journal: one transaction that also says how far it came."""

import os
from collections.abc import Sequence
from pathlib import Path

from cloudside.mail.model import Receipt
from cloudside.mail.store.accepting import Refusal, insert
from cloudside.mail.store.engine import Session
from cloudside.mail.store.journal.records import Record, message_of
from linux.files import flush_directory

#: Mails in one transaction.
GROUP_MAX = 64

_REACHED = "INSERT INTO journals (name, number) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET number = excluded.number"


def take(session: Session, name: str, records: Sequence[Record]) -> list[Receipt]:
    """Write the mails of consecutive records, and that the queue has everything up to the last. Raises ValueError."""
    receipts = []
    for _, payload in records:
        found = insert(session, message_of(payload), perhaps_again=True)
        if isinstance(found, Refusal):
            raise ValueError("a mail with a limit that refuses belongs into no journal")
        receipts.append(found)
    session.execute(_REACHED, (name, records[-1][0]))
    return receipts


def put_aside(path: Path, record: Record) -> Path:
    """Keep what the queue does not take, for a reason that no new try removes, beside its journal; where it is."""
    number, payload = record
    place = path.with_name(f"{path.stem}-{number}.aside")
    with place.open("wb") as stream:
        stream.write(payload)
        stream.flush()
        os.fsync(stream.fileno())
    flush_directory(place.parent)
    return place
