"""The device id, the router's second factor: ``<state>/device_id``, written once, at manufacture or first enrolment.

It belongs to the machine, not to the site: a router that moves to another site keeps it, and the cloud notices.
"""

import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

from linux.files import write_durably
from router_agent.errors import StateError

NAME = "device_id"
#: Random bytes; written as twice as many hexadecimal digits.
DEVICE_ID_BYTES = 32

_FORM = re.compile(rf"[0-9a-f]{{{2 * DEVICE_ID_BYTES}}}\Z")


def is_device_id(text: str) -> bool:
    """Whether this has the form of one."""
    return _FORM.match(text) is not None


def read(state: Path) -> str | None:
    """The device id; None: the router has none yet. Raises StateError: it is damaged or cannot be read.

    A router that was enrolled when the cloud still chose device ids has it in its identity.
    """
    for place in (state / NAME, state / "identity" / NAME):
        try:
            found = place.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise StateError("agent.state-unreadable", path=str(place), reason=_reason(error)) from error
        if not is_device_id(found):
            raise StateError("agent-cli.device-id-damaged", path=str(place))
        return found
    return None


def manufacture(state: Path, *, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """Write a new device id. Raises StateError: there is one already, or it cannot be written."""
    if read(state) is not None:
        raise StateError("agent-cli.device-id-exists", path=str(state))
    made = random_bytes(DEVICE_ID_BYTES).hex()
    temporary = state / f".{NAME}.{os.getpid()}.made"
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(temporary, f"{made}\n".encode())
        # A link takes no place that is taken: of two that write at once one fails.
        os.link(temporary, state / NAME)
    except FileExistsError:
        raise StateError("agent-cli.device-id-exists", path=str(state)) from None
    except OSError as error:
        raise StateError("agent.state-unwritable", path=str(state), reason=_reason(error)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return made


def ensure(state: Path) -> str:
    """The device id, made now if there is none. Raises StateError."""
    return read(state) or manufacture(state)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
