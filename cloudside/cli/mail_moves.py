"""Doing something with the mail that a command names: see what it is, ask, do it.

A change of what the registry says reaches a running relay within SETTLE_S. What it took meanwhile is moved after that,
so that nothing is left behind.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cloudside.cli.context import Cli
from cloudside.cli.mail_selection import Asked, nothing_found
from cloudside.cli.output import confirm
from cloudside.errors import InputError, UnavailableError
from cloudside.mail.model import Selection, State

if TYPE_CHECKING:
    from cloudside.mail.store.access import QueueAccess

#: Seconds after which a running relay goes by what the registry says now: it looks each second.
SETTLE_S = 2.5
#: Recipients that are counted before somebody is asked; of more it is only said that there are more.
COUNTED_MAX = 1000
#: What opening the queue says before a relay ever ran.
_NO_QUEUE = "mail.no-queue"


@dataclass(frozen=True, slots=True)
class Verb:
    """What can be done. ``states``: to what; ``confirm`` asks first; ``nothing``: what is there is in no such state."""

    states: tuple[State, ...]
    confirm: str
    nothing: str


HOLD = Verb((State.QUEUED,), "cli.confirm-mail-hold", "cli.mail-nothing-to-hold")
RELEASE = Verb((State.HELD,), "cli.confirm-mail-release", "cli.mail-nothing-to-release")
RETRY = Verb((State.QUEUED,), "cli.confirm-mail-retry", "cli.mail-nothing-to-retry")
DROP = Verb((State.QUEUED, State.HELD), "cli.confirm-mail-drop", "cli.mail-nothing-to-drop")

Move = Callable[["QueueAccess", Selection], int]


def agree(cli: Cli, verb: Verb, given: Asked, *, yes: bool, found_wanted: bool = True) -> None:
    """See what is meant, and ask if it is more than one message. The queue is not kept open while somebody thinks.

    Raises InputError: nothing is there, or nothing that can be acted on, unless it need not be.
    """
    from cloudside.mail.store.access import opened

    which = _acted_on(verb, given.which)
    try:
        with opened(cli.config) as queue:
            found = queue.entries(which, COUNTED_MAX) if which.states else []
            other = queue.entries(given.which, 1) if found_wanted and not found else []
    except UnavailableError as error:
        if found_wanted or error.key != _NO_QUEUE:
            raise
        return  # no relay ran yet: what is held is what comes
    if not found and found_wanted:
        if not other:
            raise nothing_found(given)
        raise InputError(verb.nothing, what=given.words, state=other[0].state)
    messages, more = len({entry.message for entry in found}), "+" if len(found) == COUNTED_MAX else ""
    if messages > 1 and not yes:
        counted = {"messages": f"{messages}{more}", "recipients": f"{len(found)}{more}"}
        confirm(cli, verb.confirm, what=given.words, **counted)


def moved(cli: Cli, verb: Verb, given: Asked, move: Move, *, settle: bool = False) -> int:
    """Do it; how many recipients changed."""
    from cloudside.mail.store.access import opened

    which, count = _acted_on(verb, given.which), 0
    for moment in range(2 if settle and _relay_may_run(cli) else 1):
        time.sleep(SETTLE_S * moment)
        try:
            with opened(cli.config) as queue:
                count += move(queue, which)
        except UnavailableError as error:
            if not settle or error.key != _NO_QUEUE:
                raise
    return count


def _acted_on(verb: Verb, which: Selection) -> Selection:
    states: Sequence[State] = which.states or verb.states
    return replace(which, states=tuple(state for state in states if state in verb.states))


def _relay_may_run(cli: Cli) -> bool:
    # A queue that relays share may have one on another machine.
    return bool(cli.config.relay.queue_url) or (cli.config.runtime_directory / "relay.sock").exists()
