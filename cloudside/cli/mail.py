"""`kyoten mail`: what waits in the relay's queue, and the life of one message. The relay may run or not."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cloudside.cli import mail_actions, mail_keys, mail_limits, mail_profile, suppressions
from cloudside.cli.context import JsonFlag, cli_of
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
from cloudside.cli.output import console, in_words, print_json, print_text, printable, show_one
from cloudside.errors import InputError
from cloudside.mail.model import UNFINISHED, Entry, Selection, Story, number_of
from cloudside.messages import text

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="The mail relay: its queue, the life of one message, limits and holds.")

_COLUMNS = ("message", "origin", "sender", "recipient", "subject", "accepted", "state", "tries", "next", "reply")
_RECIPIENT_COLUMNS = ("recipient", "state", "outcome", "tries", "next", "reply", "remote-id")
_STORY_COLUMNS = ("time", "recipient", "event", "detail")


@app.command()
def queue(
    context: typer.Context,
    what: What = None,
    site: Sites = None,
    device: Device = None,
    tenant: Tenant = None,
    address: Address = None,
    since: Since = None,
    until: Until = None,
    state: States = None,
    most: Annotated[int, typer.Option("--most", min=1, max=100_000, help="At most so many recipients.")] = 1000,
    _json: JsonFlag = False,
) -> None:
    """Mail that is accepted and not finished, oldest first. Totals are of everybody's mail: only operators see them."""
    from cloudside.mail.store.access import opened

    cli = cli_of(context)
    given = asked(
        cli, what, sites=site, device=device, tenant=tenant, address=address, since=since, until=until, states=state
    )
    which = given.which if given.which.states else _in_states(given.which)
    with opened(cli.config) as access:
        entries = access.entries(which, most + 1)
        totals = access.states() if cli.tenant is None and not given.words else {}
    entries, cut = entries[:most], len(entries) > most
    if cli.as_json:
        print_json({"waiting": [asdict(entry) for entry in entries], "totals": totals, "more": cut})
        return
    if entries:
        console().print(_table("waiting", [_row(entry) for entry in entries], _COLUMNS))
    else:
        print_text(text("mail.table-empty"))
    if cut:
        print_text(text("cli.mail-more", {"most": most}))
    if totals:
        shown = ", ".join(f"{state} {count}" for state, count in sorted(totals.items()))
        print_text(text("mail.table-totals", {"totals": shown}))


@app.command()
def show(
    context: typer.Context,
    message: Annotated[str, typer.Argument(metavar="ID", help="Message id, 16 hexadecimal digits.")],
    _json: JsonFlag = False,
) -> None:
    """One message: whose it is, and where each recipient stands."""
    cli = cli_of(context)
    if number_of(message) is None:
        raise InputError("cli.bad-message-id", message=message[:40])
    given = asked(
        cli, [message], sites=None, device=None, tenant=None, address=None, since=None, until=None, states=None
    )
    (story,) = _stories(context, given, 1)
    first = story.entries[0]
    document = {
        "message": first.message,
        "kind": first.kind,
        "tenant": first.tenant,
        "site": first.origin,
        "device": first.device,
        "sender": first.sender,
        "subject": first.subject,
        "size": first.size,
        "accepted": first.accepted_at,
        "urgent": first.urgent,
    }
    if cli.as_json:
        print_json(document | {"recipients": [asdict(entry) for entry in story.entries]})
        return
    show_one(cli, document | {"sender": first.sender or "<>"})
    console().print(_table(None, [_recipient_row(entry) for entry in story.entries], _RECIPIENT_COLUMNS))


@app.command()
def trace(
    context: typer.Context,
    what: What = None,
    site: Sites = None,
    device: Device = None,
    tenant: Tenant = None,
    address: Address = None,
    since: Since = None,
    until: Until = None,
    state: States = None,
    most: Annotated[int, typer.Option("--most", min=1, max=1000, help="At most so many messages.")] = 20,
    _json: JsonFlag = False,
) -> None:
    """The whole life of a message, or of the latest ones of an address, a site, a device or a time."""
    from rich.text import Text

    cli = cli_of(context)
    given = asked(
        cli, what, sites=site, device=device, tenant=tenant, address=address, since=since, until=until, states=state
    )
    require_something(given)
    stories = _stories(context, given, most)
    if cli.as_json:
        print_json([asdict(story) for story in stories])
        return
    screen = console()
    for story in stories:
        first = story.entries[0]
        screen.print(Text(printable(f"{first.message}  {first.subject}"), style="bold"))
        screen.print(_table(None, [_row(entry) for entry in story.entries], _COLUMNS))
        rows = [[in_words(item.at), item.recipient, item.event, item.detail] for item in story.happenings]
        screen.print(_table(None, rows, _STORY_COLUMNS))
    if len(stories) == most:
        print_text(text("cli.mail-more", {"most": most}))


mail_actions.register(app)
mail_profile.register(app)
mail_keys.register(app)
app.add_typer(mail_limits.app, name="limits")
app.add_typer(suppressions.app, name="suppressions")


def _stories(context: typer.Context, given: Asked, most: int) -> list[Story]:
    """Raises InputError: none."""
    from cloudside.mail.store.access import opened

    with opened(cli_of(context).config) as access:
        found = access.stories(given.which, most)
    if not found:
        raise nothing_found(given)
    return found


def _in_states(which: Selection) -> Selection:
    from dataclasses import replace

    return replace(which, states=UNFINISHED)


def _row(entry: Entry) -> list[str]:
    return [
        *(entry.message, entry.origin or "-", entry.sender or "<>", entry.recipient, entry.subject),
        *(_time(entry.accepted_at), entry.state, str(entry.attempts)),
        *(_time(entry.next_attempt) if entry.next_attempt else "-", entry.reply),
    ]


def _recipient_row(entry: Entry) -> list[str]:
    return [
        *(entry.recipient, entry.state, entry.outcome or "-", str(entry.attempts)),
        *(_time(entry.next_attempt) if entry.next_attempt else "-", entry.reply, entry.remote_id or "-"),
    ]


def _table(title: str | None, rows: Iterable[list[str]], columns: tuple[str, ...]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=text(f"mail.table-{title}") if title else None)
    for name in columns:
        table.add_column(text(f"mail.column-{name}"), overflow="fold")
    for row in rows:
        # Text, not markup: a subject such as "[red]" is a stranger's and must not colour the terminal.
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
