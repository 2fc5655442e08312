"""`kyoten mail hold`, `release`, `retry`, `drop`, `holds`: what staff do with mail that waits, and with mail to come.

Holding all mail of a site, device or tenant also states a hold in the registry, so that new mail waits too. A running
relay learns of it within SETTLE_S; what it took meanwhile is moved after that, so that nothing is left behind.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.mail_selection import (
    Address,
    Asked,
    Device,
    Since,
    Sites,
    States,
    Tenant,
    Until,
    What,
    asked,
    nothing_found,
    require_something,
)
from cloudside.cli.output import confirm, done, print_text, show_rows
from cloudside.errors import InputError, UnavailableError
from cloudside.mail.model import Scope, Selection, State
from cloudside.messages import text

if TYPE_CHECKING:
    from cloudside.mail.store.access import QueueAccess
    from cloudside.registry.tables import MailHold

#: Seconds after which a running relay goes by what the registry says now: it looks each second.
SETTLE_S = 2.5
#: Recipients that are counted before somebody is asked; of more it is only said that there are more.
COUNTED_MAX = 1000
#: What opening the queue says before a relay ever ran.
_NO_QUEUE = "mail.no-queue"

COLUMNS = ("scope", "name", "tenant", "reason", "author", "since", "imposed")

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for whoever finds it.")]


@dataclass(frozen=True, slots=True)
class _Verb:
    """What can be done. ``states``: to what; ``confirm`` asks first; ``nothing``: what is there is in no such state."""

    states: tuple[State, ...]
    confirm: str
    nothing: str


_HOLD = _Verb((State.QUEUED,), "cli.confirm-mail-hold", "cli.mail-nothing-to-hold")
_RELEASE = _Verb((State.HELD,), "cli.confirm-mail-release", "cli.mail-nothing-to-release")
_RETRY = _Verb((State.QUEUED,), "cli.confirm-mail-retry", "cli.mail-nothing-to-retry")
_DROP = _Verb((State.QUEUED, State.HELD), "cli.confirm-mail-drop", "cli.mail-nothing-to-drop")

_Move = Callable[["QueueAccess", Selection], int]


def register(app: typer.Typer) -> None:
    """Put the commands into `kyoten mail`."""
    for command in (hold, release, retry, drop, holds):
        app.command(command.__name__)(command)


def hold(
    context: typer.Context,
    reason: Reason,
    what: What = None,
    site: Sites = None,
    device: Device = None,
    tenant: Tenant = None,
    address: Address = None,
    since: Since = None,
    until: Until = None,
    state: States = None,
    only_waiting: Annotated[
        bool, typer.Option("--only-waiting", help="Leave mail to come alone, also of a site, device or tenant.")
    ] = False,
    yes: Yes = False,
    _json: JsonFlag = False,
) -> None:
    """Let mail wait until it is released. Of a site, device or tenant as a whole: new mail too."""
    from cloudside.registry import mail_holds

    cli = cli_of(context)
    given = asked(
        cli, what, sites=site, device=device, tenant=tenant, address=address, since=since, until=until, states=state
    )
    require_something(given)
    mail_holds.require_reason(reason)
    subjects = () if only_waiting else given.subjects
    for scope, name in subjects:
        _require_known(cli, scope, name)
    _agree(cli, _HOLD, given, yes=yes, found_wanted=not subjects)
    if subjects:
        with cli.write("relay") as (session, caller):
            for scope, name in subjects:
                mail_holds.put(session, caller, scope=scope, name=name, reason=reason, author=cli.person, now=cli.now)
    moved = _moved(
        cli, _HOLD, given, lambda queue, which: queue.hold(which, _now(cli), f"hold: {reason}"), settle=bool(subjects)
    )
    document: dict[str, Any] = {"changed": moved, "new_mail": "held" if subjects else "unchanged"}
    key = "cli.mail-hold-standing" if subjects else "cli.mail-hold-done"
    done(cli, document, key, recipients=moved, what=given.words)


def release(
    context: typer.Context,
    what: What = None,
    site: Sites = None,
    device: Device = None,
    tenant: Tenant = None,
    address: Address = None,
    since: Since = None,
    until: Until = None,
    state: States = None,
    yes: Yes = False,
    _json: JsonFlag = False,
) -> None:
    """Let held mail go out. Of a site, device or tenant as a whole: a hold on its new mail ends too."""
    from cloudside.registry import mail_holds

    cli = cli_of(context)
    given = asked(
        cli, what, sites=site, device=device, tenant=tenant, address=address, since=since, until=until, states=state
    )
    require_something(given)
    standing: list[tuple[Scope, str]] = []
    if cli.tenant is not None or given.subjects:  # an operator can release single messages without the registry
        with cli.read() as (session, caller):
            mail_holds.require_release(session, caller, origins=given.which.origins, device=given.which.device)
            standing = [
                (scope, name)
                for scope, name in given.subjects
                if mail_holds.find(session, caller, scope=scope, name=name) is not None
            ]
    _agree(cli, _RELEASE, given, yes=yes, found_wanted=not standing)
    if standing:
        with cli.write("relay") as (session, caller):
            for scope, name in standing:
                mail_holds.take_away(session, caller, scope=scope, name=name)
    moved = _moved(cli, _RELEASE, given, lambda queue, which: queue.release(which, _now(cli)), settle=bool(standing))
    left = _still_held(cli, given.subjects)
    document: dict[str, Any] = {
        "changed": moved,
        "new_mail": "released" if standing else "unchanged",
        "still_held": [_hold_row(row) for row in left],
    }
    key = "cli.mail-release-standing" if standing else "cli.mail-release-done"
    done(cli, document, key, recipients=moved, what=given.words)
    if not cli.as_json:
        for row in left:
            print_text(text("cli.mail-still-held", {"scope": row.scope, "name": row.name, "reason": row.reason}))


def retry(
    context: typer.Context,
    what: What = None,
    site: Sites = None,
    device: Device = None,
    tenant: Tenant = None,
    address: Address = None,
    since: Since = None,
    until: Until = None,
    state: States = None,
    yes: Yes = False,
    _json: JsonFlag = False,
) -> None:
    """Try mail that waits for its next attempt now."""
    cli = cli_of(context)
    given = asked(
        cli, what, sites=site, device=device, tenant=tenant, address=address, since=since, until=until, states=state
    )
    require_something(given)
    _agree(cli, _RETRY, given, yes=yes)
    moved = _moved(cli, _RETRY, given, lambda queue, which: queue.retry(which, _now(cli)))
    done(cli, {"changed": moved}, "cli.mail-retry-done", recipients=moved, what=given.words)


def drop(
    context: typer.Context,
    reason: Reason,
    what: What = None,
    site: Sites = None,
    device: Device = None,
    tenant: Tenant = None,
    address: Address = None,
    since: Since = None,
    until: Until = None,
    state: States = None,
    yes: Yes = False,
    _json: JsonFlag = False,
) -> None:
    """Give mail up for good. Nobody is told, not even its sender; what it was and who did it stays in its story."""
    from cloudside.registry import mail_holds

    cli = cli_of(context)
    given = asked(
        cli, what, sites=site, device=device, tenant=tenant, address=address, since=since, until=until, states=state
    )
    require_something(given)
    mail_holds.require_reason(reason)
    _agree(cli, _DROP, given, yes=yes)
    told = f"{cli.person}: {reason}"
    moved = _moved(cli, _DROP, given, lambda queue, which: queue.drop(which, _now(cli), told))
    done(cli, {"changed": moved}, "cli.mail-drop-done", recipients=moved, what=given.words)


def holds(context: typer.Context, _json: JsonFlag = False) -> None:
    """Whose new mail waits, and why. Held mail itself: `kyoten mail queue --state held`."""
    from cloudside.registry import mail_holds

    cli = cli_of(context)
    with cli.read() as (session, caller):
        rows = [_hold_row(row) for row in mail_holds.every(session, caller)]
    show_rows(cli, "mail-holds", rows, COLUMNS)


def _hold_row(row: "MailHold") -> dict[str, Any]:
    return {
        "scope": row.scope,
        "name": row.name,
        "tenant": row.tenant_id,
        "reason": row.reason,
        "author": row.author,
        "since": row.since,
        "imposed": row.imposed,
    }


def _agree(cli: Cli, verb: _Verb, given: Asked, *, yes: bool, found_wanted: bool = True) -> None:
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


def _moved(cli: Cli, verb: _Verb, given: Asked, move: _Move, *, settle: bool = False) -> int:
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


def _acted_on(verb: _Verb, which: Selection) -> Selection:
    states: Sequence[State] = which.states or verb.states
    return replace(which, states=tuple(state for state in states if state in verb.states))


def _relay_may_run(cli: Cli) -> bool:
    # A queue that relays share may have one on another machine.
    return bool(cli.config.relay.queue_url) or (cli.config.runtime_directory / "relay.sock").exists()


def _require_known(cli: Cli, scope: Scope, name: str) -> None:
    """A wrong name is told before anything is asked or done."""
    from cloudside.registry import mail_scopes

    with cli.read() as (session, caller):
        mail_scopes.subject(session, caller, scope, name)


def _still_held(cli: Cli, subjects: Sequence[tuple[Scope, str]]) -> "list[MailHold]":
    """Holds that keep these waiting all the same: on the site of a device, on the tenant of both."""
    from cloudside.registry import mail_holds, mail_scopes

    if not subjects:
        return []
    left: dict[tuple[str, str], MailHold] = {}
    with cli.read() as (session, caller):
        standing = mail_holds.every(session, caller)
        for scope, name in subjects if standing else ():
            try:
                subject = mail_scopes.subject(session, caller, scope, name)
            except InputError:
                continue  # gone; its mail was here still
            wider = ((Scope.SITE, subject.origin), (Scope.TENANT, subject.tenant))
            left |= {(row.scope, row.name): row for row in standing if (row.scope, row.name) in wider}
    return list(left.values())


def _now(cli: Cli) -> float:
    return cli.now.timestamp()
