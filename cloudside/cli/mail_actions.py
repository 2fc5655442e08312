"""`kyoten mail hold`, `release`, `retry`, `drop`, `holds`: what staff do with mail that waits, and with mail to come.

Holding all mail of a site, device or tenant also states a hold in the registry, so that new mail waits too.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.mail_moves import DROP, HOLD, RELEASE, RETRY, agree, moved
from cloudside.cli.mail_selection import (
    Address,
    Device,
    Since,
    Sites,
    States,
    Tenant,
    Until,
    What,
    asked,
    require_something,
)
from cloudside.cli.output import done, show_rows
from cloudside.errors import InputError, RefusedError
from cloudside.mail.model import Scope

if TYPE_CHECKING:
    from cloudside.registry.tables import MailHold

COLUMNS = ("scope", "name", "tenant", "reason", "author", "since", "imposed")

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for whoever finds it.")]


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
    agree(cli, HOLD, given, yes=yes, found_wanted=not subjects)
    if subjects:
        with cli.write("relay") as (session, caller):
            for scope, name in subjects:
                mail_holds.put(session, caller, scope=scope, name=name, reason=reason, author=cli.person, now=cli.now)
    # What is picked by hand waits for a hand: the relay itself releases what a hold that ended has left behind.
    told = f"{'hold' if subjects else 'by hand'}: {reason}"
    count = moved(cli, HOLD, given, lambda queue, which: queue.hold(which, _now(cli), told), settle=bool(subjects))
    document: dict[str, Any] = {"changed": count, "new_mail": "held" if subjects else "unchanged"}
    key = "cli.mail-hold-standing" if subjects else "cli.mail-hold-done"
    done(cli, document, key, recipients=count, what=given.words)


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
    wider = _wider_holds(cli, given.subjects)
    if wider and not standing:
        row = wider[0]
        raise RefusedError("cli.mail-held-wider", what=given.words, scope=row.scope, name=row.name, reason=row.reason)
    if not wider:
        try:
            agree(cli, RELEASE, given, yes=yes, found_wanted=not standing)
        except InputError:
            for scope, name in given.subjects:  # a wrong name is a better answer than no mail
                _require_known(cli, scope, name)
            raise
    if standing:
        with cli.write("relay") as (session, caller):
            for scope, name in standing:
                mail_holds.take_away(session, caller, scope=scope, name=name)
    count = 0
    if not wider:
        count = moved(cli, RELEASE, given, lambda queue, which: queue.release(which, _now(cli)), settle=bool(standing))
    document: dict[str, Any] = {
        "changed": count,
        "new_mail": "released" if standing and not wider else "unchanged",
        "still_held": [_hold_row(row) for row in wider],
    }
    if wider:
        row = wider[0]
        key = "cli.mail-release-wider"
        done(cli, document, key, what=given.words, scope=row.scope, name=row.name, reason=row.reason)
        return
    key = "cli.mail-release-standing" if standing else "cli.mail-release-done"
    done(cli, document, key, recipients=count, what=given.words)


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
    agree(cli, RETRY, given, yes=yes)
    count = moved(cli, RETRY, given, lambda queue, which: queue.retry(which, _now(cli)))
    done(cli, {"changed": count}, "cli.mail-retry-done", recipients=count, what=given.words)


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
    agree(cli, DROP, given, yes=yes)
    told = f"{cli.person}: {reason}"
    count = moved(cli, DROP, given, lambda queue, which: queue.drop(which, _now(cli), told))
    done(cli, {"changed": count}, "cli.mail-drop-done", recipients=count, what=given.words)


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


def _require_known(cli: Cli, scope: Scope, name: str) -> None:
    """A wrong name is told before anything is asked or done."""
    from cloudside.registry import mail_scopes

    with cli.read() as (session, caller):
        mail_scopes.subject(session, caller, scope, name)


def _wider_holds(cli: Cli, subjects: Sequence[tuple[Scope, str]]) -> "list[MailHold]":
    """Holds that keep these waiting all the same: on the site of a device, on the tenant of both."""
    from cloudside.registry import mail_holds, mail_scopes

    if not subjects:
        return []
    found: dict[tuple[str, str], MailHold] = {}
    with cli.read() as (session, caller):
        standing = mail_holds.every(session, caller)
        for scope, name in subjects if standing else ():
            try:
                subject = mail_scopes.subject(session, caller, scope, name)
            except InputError:
                continue  # gone; its mail may be here still
            above = [(Scope.TENANT, subject.tenant)] if scope is not Scope.TENANT else []
            above += [(Scope.SITE, subject.origin)] if scope is Scope.DEVICE else []
            found |= {(row.scope, row.name): row for row in standing if (row.scope, row.name) in above}
    return list(found.values())


def _now(cli: Cli) -> float:
    return cli.now.timestamp()
