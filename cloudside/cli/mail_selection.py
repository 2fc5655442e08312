"""Which mail a command means: by message id, address, site, device, tenant, time and state. All that is given must fit.

A tenant's administrator means the tenant's own mail, whatever else is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from cloudside.cli.context import Cli
from cloudside.cli.moments import moment
from cloudside.errors import InputError
from cloudside.mail.model import Scope, Selection, State, number_of

What = Annotated[
    list[str] | None, typer.Argument(metavar="WHAT", help="Message ids, one mail address, sites, server/NAME.")
]
Sites = Annotated[list[str] | None, typer.Option("--site", help="Mail of this site, or of server/NAME. Repeatable.")]
Device = Annotated[
    str | None, typer.Option("--device", help="Mail of this mail login, or of this overlay address if it has none.")
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Mail of this tenant's sites.")]
Address = Annotated[str | None, typer.Option("--address", help="Mail from or to this address.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="MOMENT", help="Accepted since: '2026-12-24 08:00' in UTC, or 2h, 7d.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="MOMENT", help="Accepted before; as --since.")]
States = Annotated[list[str] | None, typer.Option("--state", help=f"In this state: {', '.join(State)}. Repeatable.")]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line names. ``words``: what was given, for answers to it.

    ``subjects``: whose mail it is, scope and name each, if nothing narrower than that was said.
    """

    which: Selection
    words: str
    subjects: tuple[tuple[Scope, str], ...]


def asked(
    cli: Cli,
    what: Sequence[str] | None,
    *,
    sites: Sequence[str] | None,
    device: str | None,
    tenant: str | None,
    address: str | None,
    since: str | None,
    until: str | None,
    states: Sequence[str] | None,
) -> Asked:
    """Read it. Raises InputError: bad moment or state, two addresses, unknown tenant."""
    given = list(what or ())
    numbers = {word: number_of(word) for word in given}
    addresses = [word for word in given if "@" in word] + ([address] if address else [])
    if len(addresses) > 1:
        raise InputError("cli.mail-one-address", addresses=", ".join(addresses)[:200])
    named = [word for word in given if numbers[word] is None and "@" not in word] + list(sites or ())
    now = cli.now
    which = Selection(
        ids=tuple(number for number in numbers.values() if number is not None),
        origins=tuple(dict.fromkeys(named)) or None,
        tenant=_tenant(cli, tenant),
        device=device or "",
        address=addresses[0] if addresses else "",
        since=None if since is None else moment(since, now=now).timestamp(),
        until=None if until is None else moment(until, now=now).timestamp(),
        states=tuple(_state(word) for word in states or ()),
    )
    options = (("tenant", tenant), ("device", device), ("since", since), ("until", until))
    shown = [*(given or ()), *(sites or ()), *([address] if address else []), *(states or ())]
    shown += [f"{name} {value}" for name, value in options if value]
    return Asked(which, " ".join(shown), _subjects(which, tenant))


def require_something(asked: Asked) -> None:
    """Raise InputError if nothing was named: nobody acts on all mail by leaving a word out."""
    if not asked.words:
        raise InputError("cli.mail-what")


def nothing_found(asked: Asked) -> InputError:
    """In the same words for what is another tenant's and for what nobody has."""
    return InputError("mail.nothing-found", what=asked.words or "-")


def _tenant(cli: Cli, name: str | None) -> str | None:
    from cloudside.registry import tenants

    if name is None:
        return cli.tenant and cli.caller.tenant  # the registry is not needed to show an operator the queue
    with cli.read() as (session, caller):
        return tenants.get(session, caller, name).id


def _state(word: str) -> State:
    try:
        return State(word.strip().lower())
    except ValueError:
        raise InputError("cli.bad-mail-state", state=word[:40], known=", ".join(State)) from None


def _subjects(which: Selection, tenant: str | None) -> tuple[tuple[Scope, str], ...]:
    if which.ids or which.address or which.states or which.since is not None or which.until is not None:
        return ()
    if which.device:
        return ((Scope.DEVICE, which.device),)
    if which.origins is not None:
        return tuple((Scope.SITE, name) for name in which.origins)
    return ((Scope.TENANT, tenant),) if tenant is not None else ()
