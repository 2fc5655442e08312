"""The queue at one moment, read through the product's own operations while no relay runs."""

import re
import time
from collections import defaultdict
from pathlib import Path

from cloudside.config import Config
from cloudside.mail.model import Attempt, Kind, Selection, State
from cloudside.mail.store.queue import open_queue
from lab.mail_proof.traffic import digest, number_of
from lab.mail_proof.verdict import Standing

_ALL = 10_000_000
_CLAIM = 500
#: Later than any recipient's next try.
_FAR_S = 400 * 86400.0
_REPORTED = re.compile(rb"^Final-Recipient:\s*rfc822;\s*(\S+)", re.IGNORECASE | re.MULTILINE)


async def standing_of(config: Config) -> Standing:
    """Who stands where. What waits is taken out for delivery to see its body: use it on a copy, or at the end."""
    queue = open_queue(config)
    try:
        await queue.recover(time.time())
        states: dict[str, tuple[State, ...]] = defaultdict(tuple)
        for entry in await queue.entries(Selection(), _ALL):
            if number_of(entry.recipient) is not None:
                states[entry.recipient] += (State(entry.state),)
        await queue.release(Selection(states=(State.HELD,)), time.time())
        waiting: dict[str, str] = {}
        reported: set[str] = set()
        while attempts := await queue.claim(time.time() + _FAR_S, _CLAIM):
            for attempt in attempts:
                body = _body(attempt)
                if attempt.original.kind is Kind.DSN:
                    reported |= {found.decode(errors="replace") for found in _REPORTED.findall(body)}
                else:
                    waiting[attempt.recipient] = digest(body)
        return Standing(states, waiting, frozenset(reported))
    finally:
        queue.close()


def _body(attempt: Attempt) -> bytes:
    return attempt.body.read_bytes() if isinstance(attempt.body, Path) else attempt.body
