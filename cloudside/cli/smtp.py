"""`kyoten smtp`: what sites' devices log in with at the relay. Passwords come on standard input, never in argv."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import Cli, JsonFlag, cli_of
from cloudside.cli.mail_profile import one_of
from cloudside.cli.moments import duration
from cloudside.cli.output import done, print_text, show_one, show_rows
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from cloudside.registry.credentials import Encrypt
    from cloudside.registry.tables import SmtpCredential

app = typer.Typer(no_args_is_help=True, help="Mail logins of sites' devices.")

COLUMNS = ("user", "site", "device", "sources", "senders", "recipients", "cram_md5", "created", "rotated", "revoked")
#: Longest password that is read; argon2 would take any length.
_PASSWORD_MAX_CHARS = 1024
#: What a person writes for no time at all.
_NONE = "none"

Device = Annotated[str | None, typer.Option("--device", help="The device that has it, as `kyoten device list` has it.")]
Source = Annotated[
    list[str] | None,
    typer.Option("--source", help="Good from this overlay prefix or address only. Repeatable."),
]
Sender = Annotated[
    list[str] | None, typer.Option("--sender", help="May send as this address or @domain only. Repeatable.")
]
Recipient = Annotated[
    list[str] | None, typer.Option("--recipient", help="May send to this address or @domain only. Repeatable.")
]
Cram = Annotated[
    bool,
    typer.Option("--cram-md5", help="For a device that can do nothing else: its password is kept readable, encrypted."),
]


@app.command("add-user")
def add_user(
    context: typer.Context,
    site: str,
    user: str,
    device: Device = None,
    source: Source = None,
    sender: Sender = None,
    recipient: Recipient = None,
    cram_md5: Cram = False,
    _json: JsonFlag = False,
) -> None:
    """Give a site a mail login. The password is asked for, or is the first line of standard input."""
    from cloudside.registry import credentials, sites

    cli = cli_of(context)
    with cli.read() as (session, caller):
        sites.get(session, caller, site)  # a wrong name is told before a password is typed
    encrypt = _encrypt(cli) if cram_md5 else None
    password = _password(user)
    with cli.write("relay") as (session, caller):
        made = credentials.issue(
            session,
            caller,
            site_id=site,
            user=user,
            password=password,
            now=cli.now,
            device=device or "",
            sources=source or (),
            senders=sender or (),
            recipients=recipient or (),
            encrypt=encrypt,
        )
        document = _row(made)
    done(cli, document, "cli.smtp-user-added", user=made.user, site=made.site_id)


@app.command()
def rotate(
    context: typer.Context,
    user: str,
    grace: Annotated[
        str,
        typer.Option(metavar="TIME", help="How long the old password stays good: 24h, 7d; 'none' if it was stolen."),
    ] = "24h",
    cram_md5: Annotated[
        bool | None,
        typer.Option("--cram-md5/--no-cram-md5", help="Keep the new password readable, encrypted; else as it was."),
    ] = None,
    _json: JsonFlag = False,
) -> None:
    """Give a mail login another password. With CRAM-MD5 the old one is not good any more, whatever the grace."""
    from cloudside.registry import credentials

    cli = cli_of(context)
    stays = None if grace.strip().lower() == _NONE else duration(grace)
    with cli.read() as (session, caller):
        standing = credentials.standing(session, caller, user)  # what is wrong is told before a password is typed
    readable = standing.cram_secret is not None if cram_md5 is None else cram_md5
    encrypt = _encrypt(cli) if readable else None
    password = _password(user)
    now = cli.now
    with cli.write("relay") as (session, caller):
        row = credentials.rotate(
            session,
            caller,
            user=user,
            password=password,
            now=now,
            good_until=None if stays is None else now + stays,
            encrypt=encrypt,
        )
        document = _row(row)
    until = document["old_until"]
    key = "cli.smtp-rotated-at-once" if until is None else "cli.smtp-rotated"
    done(cli, document, key, user=row.user, until="-" if until is None else f"{until:%Y-%m-%d %H:%M} UTC")
    if until is not None and readable and not cli.as_json:
        print_text(text("cli.smtp-cram-no-grace", {"user": row.user}))


@app.command()
def restrict(
    context: typer.Context,
    user: str,
    device: Annotated[str | None, typer.Option("--device", help="The device that has it; 'none': nobody says.")] = None,
    source: Source = None,
    any_source: Annotated[bool, typer.Option("--any-source", help="Good from anywhere.")] = False,
    sender: Sender = None,
    any_sender: Annotated[bool, typer.Option("--any-sender", help="May send as anybody.")] = False,
    recipient: Recipient = None,
    any_recipient: Annotated[bool, typer.Option("--any-recipient", help="May send to anybody.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Change where a mail login is good for. A list that is given replaces the one before; the others stay."""
    from cloudside.registry import credentials

    cli = cli_of(context)
    changes: dict[str, Any] = {
        "device": "" if device is not None and device.strip().lower() == _NONE else device,
        "sources": one_of("--source", source, any_source),
        "senders": one_of("--sender", sender, any_sender),
        "recipients": one_of("--recipient", recipient, any_recipient),
    }
    if all(value is None for value in changes.values()):
        raise InputError("cli.smtp-restrict-nothing")
    with cli.write("relay") as (session, caller):
        document = _row(credentials.restrict(session, caller, user=user, **changes))
    show_one(cli, document)


@app.command("list")
def list_(
    context: typer.Context,
    site: Annotated[str | None, typer.Argument(help="Of this site only.")] = None,
    _json: JsonFlag = False,
) -> None:
    """Mail logins, revoked ones too."""
    from cloudside.registry import credentials

    cli = cli_of(context)
    with cli.read() as (session, caller):
        found = credentials.every(session, caller) if site is None else credentials.of_site(session, caller, site)
        rows = [_row(row) for row in found]
    show_rows(cli, "smtp-users", rows, COLUMNS)


@app.command("revoke-user")
def revoke_user(context: typer.Context, user: str, _json: JsonFlag = False) -> None:
    """End a mail login for good."""
    from cloudside.registry import credentials

    cli = cli_of(context)
    with cli.write("relay") as (session, caller):
        revoked = credentials.revoke(session, caller, user=user, now=cli.now)
    done(cli, {"user": revoked.user, "revoked": revoked.revoked_at}, "cli.smtp-user-revoked", user=revoked.user)


def _password(user: str) -> str:
    """Asked for twice, or the first line of standard input."""
    if sys.stdin.isatty():
        typed = typer.prompt(text("cli.password-for", {"user": user}), hide_input=True, confirmation_prompt=True)
        return str(typed)
    return sys.stdin.readline(_PASSWORD_MAX_CHARS).rstrip("\r\n")


def _encrypt(cli: Cli) -> "Encrypt":
    """Raises InputError: the relay does not offer CRAM-MD5, so nothing has to be readable. ConfigurationError."""
    from cloudside.mail.intake import cram

    if not cli.config.relay.cram_md5:
        raise InputError("cli.cram-md5-off")
    return cram.seal(cli.config.state_directory / "mail" / cram.FILE_NAME).encrypt


def _row(row: "SmtpCredential") -> dict[str, Any]:
    return {
        "user": row.user,
        "site": row.site_id,
        "device": row.device,
        "sources": row.sources,
        "senders": row.senders,
        "recipients": row.recipients,
        "cram_md5": row.cram_secret is not None,
        "created": row.created_at,
        "rotated": row.rotated_at,
        "old_until": row.previous_until,
        "revoked": row.revoked_at,
    }
