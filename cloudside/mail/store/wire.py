"""What `kyoten mail` and a running relay say to each other: frames of JSON on a Unix socket. Pure.

Four octets of length, then the document. A request is ``{"do": name, "which": selection, ...}``; the answer's frames
carry ``part`` (some of a list), and at last ``done`` (a number, a mapping, null) or ``error``. Lists come in parts so
that no long one keeps the relay from its work. Not pickle: the relay runs without rights, its caller may have them.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from cloudside import errors
from cloudside.errors import KyotenError, UnavailableError
from cloudside.mail.model import Entry, Happening, Selection, State, Story

LENGTH = struct.Struct("!I")
#: A selection names at most some ten thousand sites.
REQUEST_MAX_BYTES = 4 * 1024 * 1024
#: Entries, or stories, in one frame.
PART_MAX = 100

_ENTRY_FIELDS = tuple(field.name for field in fields(Entry))
_ACCEPTED_AT = _ENTRY_FIELDS.index("accepted_at")
_NEXT_ATTEMPT = _ENTRY_FIELDS.index("next_attempt")


def frame(document: Mapping[str, Any]) -> bytes:
    """A document as it travels."""
    content = json.dumps(document, default=datetime.isoformat, separators=(",", ":")).encode()
    return LENGTH.pack(len(content)) + content


def selection_out(which: Selection) -> dict[str, Any]:
    """A selection as JSON has it."""
    return asdict(which)


def selection_in(document: Mapping[str, Any]) -> Selection:
    """The selection again. Raises TypeError, ValueError: it is none."""
    given = dict(document)
    for name in ("ids", "origins", "states"):
        if given.get(name) is not None:
            given[name] = tuple(given[name])
    given["states"] = tuple(State(state) for state in given.get("states", ()))
    return Selection(**given)


def out(item: Entry | Story) -> Any:
    """An entry or a story as JSON has it."""
    if isinstance(item, Story):
        return {
            "entries": [out(entry) for entry in item.entries],
            "happenings": [(one.at, one.recipient, one.event, one.detail) for one in item.happenings],
        }
    return [getattr(item, name) for name in _ENTRY_FIELDS]


def entry_in(values: Sequence[Any]) -> Entry:
    """The entry again."""
    given = list(values)
    given[_ACCEPTED_AT] = datetime.fromisoformat(given[_ACCEPTED_AT])
    given[_NEXT_ATTEMPT] = given[_NEXT_ATTEMPT] and datetime.fromisoformat(given[_NEXT_ATTEMPT])
    return Entry(*given)


def story_in(document: Mapping[str, Any]) -> Story:
    """The story again."""
    happenings = (
        Happening(datetime.fromisoformat(at), recipient, event, detail)
        for at, recipient, event, detail in document["happenings"]
    )
    return Story(tuple(entry_in(values) for values in document["entries"]), tuple(happenings))


def error_out(error: KyotenError) -> dict[str, Any]:
    """An error as JSON has it."""
    return {"kind": type(error).__name__, "key": error.key, "params": dict(error.params)}


def error_in(document: Mapping[str, Any]) -> KyotenError:
    """The error again, of the class that tells whose fault it is."""
    kind = getattr(errors, str(document["kind"]), UnavailableError)
    known = isinstance(kind, type) and issubclass(kind, KyotenError) and kind is not errors.InputErrors
    return (kind if known else UnavailableError)(str(document["key"]), **document["params"])
