"""Takes over what is left in journals of processes that are dead, before anything else happens in the queue.

What the queue cannot take now (no space) stays in its journal until the next start.
"""

import fcntl
import os
import time
from pathlib import Path

import structlog

from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.mail.store.engine import Engine, Session
from cloudside.mail.store.journal.records import Record, records_in
from cloudside.mail.store.journal.taking import GROUP_MAX, put_aside, take
from linux.files import flush_directory

log = structlog.get_logger(__name__)

SUFFIX = ".journal"
#: How long we wait for a process to end that lost the one that had the queue: it does so at once.
LOCK_WAIT_S = 5.0

_HAS = "SELECT number FROM journals WHERE name = ?"


def take_over(directory: Path, engine: Engine) -> int:
    """Bring into the queue what it has not, and remove the journals; how many mails.

    Raises ConfigurationError: the process that writes one of them lives.
    """
    count = 0
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        records = records_of(path)
        try:
            count += _bring(path, records, engine)
        except UnavailableError as error:
            log.error("journal-not-taken-over", path=str(path), reason=error.key)
        else:
            path.unlink()
    # Only when their names are gone for good: one that came back without its number would be taken over again.
    flush_directory(directory)
    left = {path.name for path in directory.glob(f"*{SUFFIX}")}
    engine.submit(lambda session: _forget(session, left)).result()
    return count


def _bring(path: Path, records: list[Record], engine: Engine) -> int:
    name = path.name
    row = engine.read(lambda session: session.execute(_HAS, (name,)).fetchone()).result()
    new = [record for record in records if record[0] > (int(row[0]) if row else 0)]
    groups = [new[start : start + GROUP_MAX] for start in range(0, len(new), GROUP_MAX)]
    for group in groups:
        try:
            engine.submit(lambda session, group=group: take(session, name, group)).result()  # type: ignore[misc]
        except UnavailableError:
            raise
        except Exception:
            for record in group:
                _bring_one(path, record, engine)
    return len(new)


def _bring_one(path: Path, record: Record, engine: Engine) -> None:
    try:
        engine.submit(lambda session: take(session, path.name, [record])).result()
    except UnavailableError:
        raise
    except Exception as error:
        log.error("mail-put-aside", path=str(put_aside(path, record)), exc_info=error)


def records_of(path: Path) -> list[Record]:
    """Everything in a journal that nobody writes to any more, in order. Raises ConfigurationError: somebody does."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigurationError("mail.queue-in-use", path=str(path)) from None
                time.sleep(0.01)
        content = path.read_bytes()
    finally:
        os.close(opened)
    half = len(content) // 2
    return sorted([*records_in(content[:half]), *records_in(content[half:])])


def _forget(session: Session, left: set[str]) -> None:
    for (name,) in session.execute("SELECT name FROM journals").fetchall():
        if name not in left:
            session.execute("DELETE FROM journals WHERE name = ?", (name,))
