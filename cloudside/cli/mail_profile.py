"""`kyoten mail profile`: what is special about a site's mail."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.moments import duration
from cloudside.cli.output import print_text, show_one
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from cloudside.registry.tables import MailProfile

#: What a person writes for nobody, and for what the relay learns by itself.
_NONE, _AUTO = "none", "auto"


def register(app: typer.Typer) -> None:
    """Put the command into `kyoten mail`."""
    app.command("profile")(profile)


def profile(
    context: typer.Context,
    site: Annotated[str, typer.Argument()],
    notify: Annotated[
        str | None,
        typer.Option("--notify", help="This address gets a copy of each report of a failure; 'none': nobody."),
    ] = None,
    old_tls: Annotated[
        bool | None, typer.Option("--old-tls/--no-old-tls", help="Its devices may use TLS 1.0 and 1.1.")
    ] = None,
    silent_after: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Tell staff when no mail came for so long: 26h; 'auto': as it is learnt."),
    ] = None,
    sender: Annotated[
        list[str] | None,
        typer.Option("--sender", help="It may send as this address or @domain only. Repeatable; replaces the list."),
    ] = None,
    any_sender: Annotated[bool, typer.Option("--any-sender", help="It may send as anybody.")] = False,
    recipient: Annotated[
        list[str] | None,
        typer.Option("--recipient", help="It may send to this address or @domain only. Repeatable; replaces the list."),
    ] = None,
    any_recipient: Annotated[bool, typer.Option("--any-recipient", help="It may send to anybody.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Show what is special about a site's mail, or change it. The lists are for mail that is known by its address."""
    from cloudside.registry import mail_profiles

    cli = cli_of(context)
    senders = one_of("--sender", sender, any_sender)
    recipients = one_of("--recipient", recipient, any_recipient)
    silence = None if silent_after is None else _silence(silent_after)
    told = "" if notify is not None and notify.strip().lower() == _NONE else notify
    if (told, old_tls, silence, senders, recipients) == (None, None, None, None, None):
        with cli.read() as (session, caller):
            document = _document(mail_profiles.get(session, caller, site))
        show_one(cli, document)
        return
    with cli.write("relay") as (session, caller):
        row = mail_profiles.change(
            session,
            caller,
            site_id=site,
            notify=told,
            old_tls=old_tls,
            senders=senders,
            recipients=recipients,
            silent_after=silence,
        )
        document = _document(row)
    show_one(cli, document)
    if not cli.as_json:
        print_text(text("cli.mail-profile-changed", {"site": site}))
        if row.old_tls and old_tls:
            print_text(text("cli.mail-old-tls", {"site": site}))


def one_of(option: str, given: list[str] | None, anybody: bool) -> list[str] | None:
    """A list, the empty one for no restriction, or None for what stays. Raises InputError: both were given."""
    if given and anybody:
        raise InputError("cli.list-or-any", option=option, any=option.replace("--", "--any-", 1))
    return [] if anybody else (given or None)


def _silence(word: str) -> timedelta:
    return timedelta(0) if word.strip().lower() == _AUTO else duration(word)


def _document(row: "MailProfile") -> dict[str, Any]:
    return {
        "site": row.site_id,
        "notify": row.notify,
        "old_tls": row.old_tls,
        "silent_after_s": row.silent_after_s,
        "senders": row.senders,
        "recipients": row.recipients,
    }
