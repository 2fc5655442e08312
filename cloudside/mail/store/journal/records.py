"""A mail as octets, and where mails are in a file. Pure.

Not pickle: `kyoten mail`, run by root, reads what the relay's user wrote. A record begins at a multiple of PAGE_BYTES,
so that what was promised is never written over in part; its number is one more than that of the record before it. What
an earlier use of the same place left has smaller numbers and is told from it by that.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from cloudside.mail.model import Action, Kind, Limit, NewMessage, Scope, Spilled

PAGE_BYTES = 4096
_MAGIC = b"KYJ1"
#: Magic, checksum of what follows, number, octets of the payload.
_FRAME = struct.Struct("!4sIQI")
_NUMBERED = struct.Struct("!QI")
#: Octets of facts, head and body.
_PARTS = struct.Struct("!III")
#: Made once: a relay writes a thousand a second.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

#: Number and payload.
Record = tuple[int, bytes]


def payload_of(new: NewMessage) -> bytes:
    """A message as octets. Raises ValueError: its body is in a file, or a text of it is none (lone surrogates).

    Limits that only notify are left out: the queue does not look at them.
    """
    if isinstance(new.body, Spilled):
        raise ValueError("a body in a file")
    limits = [
        (limit.scope.value, limit.name, limit.hourly, limit.daily, limit.action.value)
        for limit in new.limits
        if limit.action is not Action.NOTIFY
    ]
    facts = _ENCODER.encode((
        *(new.id, new.kind.value, new.origin, new.source, new.sender, new.recipients, new.subject, new.accepted_at),
        *(new.automatic, new.once, new.tenant, new.device, new.urgent, new.held, limits),
    )).encode()  # fmt: skip
    return b"".join((_PARTS.pack(len(facts), len(new.head), len(new.body)), facts, new.head, new.body))


def message_of(payload: bytes) -> NewMessage:
    """The message again. Raises ValueError: it is none."""
    try:
        facts_end, head_size, body_size = _PARTS.unpack_from(payload)
        facts_end += _PARTS.size
        head_end = facts_end + head_size
        if len(payload) != head_end + body_size:
            raise ValueError("parts do not make the whole")
        given: list[Any] = json.loads(payload[_PARTS.size : facts_end])
        (message_id, kind, origin, source, sender, recipients, subject, accepted_at, *more, limits) = given
        automatic, once, tenant, device, urgent, held = more
        return NewMessage(
            *(message_id, Kind(kind), origin, source, sender, tuple(recipients), subject),
            *(payload[facts_end:head_end], payload[head_end:], accepted_at),
            *(automatic, once, tenant, device, urgent, held),
            tuple(
                Limit(Scope(scope), name, hourly, daily, Action(action))
                for scope, name, hourly, daily, action in limits
            ),
        )
    except (struct.error, TypeError) as error:
        raise ValueError("no message") from error


def size_of(payload: bytes) -> int:
    """Octets that it takes in a file."""
    return -(-(_FRAME.size + len(payload)) // PAGE_BYTES) * PAGE_BYTES


def framed(number: int, payload: bytes) -> bytes:
    """As it is in a file, with what fills its last page."""
    checksum = zlib.crc32(payload, zlib.crc32(_NUMBERED.pack(number, len(payload))))
    frame = _FRAME.pack(_MAGIC, checksum, number, len(payload))
    return b"".join((frame, payload, bytes(-(_FRAME.size + len(payload)) % PAGE_BYTES)))


def records_in(content: bytes) -> Iterator[Record]:
    """Records from the beginning on, until one that is torn, or older than the one before it."""
    position, before = 0, 0
    while position + _FRAME.size <= len(content):
        magic, checksum, number, size = _FRAME.unpack_from(content, position)
        payload = content[position + _FRAME.size : position + _FRAME.size + size]
        if magic != _MAGIC or len(payload) != size or (before and number != before + 1):
            return
        if zlib.crc32(payload, zlib.crc32(_NUMBERED.pack(number, size))) != checksum:
            return
        yield number, payload
        before = number
        position += size_of(payload)
