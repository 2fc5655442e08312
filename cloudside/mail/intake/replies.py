"""Replies for what went wrong. 4xx is ours or passes by itself, 5xx is the client's; no text of an error leaves us."""

from cloudside.errors import RefusedError
from cloudside.mail.model import LimitExceededError
from cloudside.mail.store.engine import StorageFullError

REFUSED_FAULT = "451 4.3.0 A fault on our side, try again later"
REFUSED_FULL = "452 4.3.1 Out of storage, try again later"
REFUSED_MEMORY = "452 4.3.1 Too much mail at once, try again later"


def status_for(error: Exception) -> str:
    """The reply to a client when ``error`` stopped its command. Tells nothing of the error's text."""
    if isinstance(error, StorageFullError):
        return REFUSED_FULL
    if isinstance(error, LimitExceededError):
        return f"450 4.7.1 The limit of the {error.params.get('scope', 'site')} is used up, try again later"
    if isinstance(error, RefusedError):
        return "550 5.7.1 You may not send mail here"
    return REFUSED_FAULT
