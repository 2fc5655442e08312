"""`kyoten site ticket`, `enroll`, `release`: how a site's router comes in, and how it goes."""

import re
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.output import confirm, done, print_text
from cloudside.errors import InputError, RefusedError
from cloudside.messages import text

_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_DURATION = re.compile(r"([1-9]\d{0,4})([dhm])\Z", re.ASCII)


def register(app: typer.Typer) -> None:
    """Put the commands into the tree."""
    for command in (ticket, enroll, release):
        app.command()(command)


def ticket(
    context: typer.Context,
    site: str,
    output: Annotated[Path | None, typer.Option(help="Ticket file; else SITE.ticket here.")] = None,
    valid: Annotated[str, typer.Option(help="How long, such as 7d, 12h, 30m.")] = "7d",
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Only take back those that were not used.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over the file.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Write what the site's router enrols itself with, once, over the network. Tickets before it are withdrawn."""
    from cloudside.pki import enrolment, tickets
    from cloudside.registry import tokens

    cli = cli_of(context)
    if withdraw:
        with cli.write() as (session, caller):
            count = tokens.withdraw(session, caller, site_id=site, now=cli.now)
        done(cli, {"site": site, "withdrawn": count}, "cli.tickets-withdrawn", site=site, count=count)
        return
    target = output or Path(f"{site}.ticket")
    lasts = read_duration(valid)
    with cli.write() as (session, caller):
        expires = tickets.write(
            session,
            cli.config,
            caller,
            site_id=site,
            output=target,
            valid=lasts,
            author=cli.person,
            now=cli.now,
            force=force,
        )
    document = {"site": site, "ticket": str(target), "expires": expires}
    done(cli, document, "cli.ticket-written", site=site, path=str(target), until=f"{expires:%Y-%m-%d %H:%M}")
    if not cli.as_json and not enrolment.reached_from_outside(cli.config):
        print_text(text("cli.ticket-needs-tunnel", {"site": site}))


def enroll(
    context: typer.Context,
    site: str,
    csr: Annotated[Path, typer.Option(help="The router's certificate request, PEM.")],
    device_id_file: Annotated[
        Path | None, typer.Option(help="File with its device id; else the request's name and .device-id.")
    ] = None,
    ssh_host_key_file: Annotated[
        Path | None, typer.Option(help="File with its public SSH host key; else the request's name and .ssh-host-key.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Bundle file; else SITE.bundle here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over the file.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Enrol a router that cannot be reached: from its request, the bundle to carry back. The one before is shut out."""
    from cloudside.pki import enrolment
    from cloudside.pki.requests import read_applicant
    from cloudside.registry import sites

    cli = cli_of(context)
    target = output or Path(f"{site}.bundle")
    device_id = device_id_file or csr.with_name(f"{csr.name}.device-id")
    host_key = ssh_host_key_file or csr.with_name(f"{csr.name}.ssh-host-key")
    applicant = read_applicant(_content(csr), _line(_content(device_id)), _line(_content(host_key)))
    with cli.write("gateway") as (session, caller):
        try:
            made = enrolment.enrol(
                session, cli.config, caller, site_id=site, applicant=applicant, output=target, now=cli.now, force=force
            )
        except enrolment.DeviceElsewhereError as error:
            # No incident, which nobody could date: the person who is here is told, unless it is another tenant's.
            with suppress(InputError):
                sites.get(session, caller, error.other)
                raise RefusedError("cli.device-elsewhere", site=site, other=error.other) from None
            raise
    document = {
        "site": made.site,
        "bundle": str(made.path),
        "certificate_sha256": made.fingerprint,
        "certificate_until": made.not_after,
        "certificates_revoked": made.replaced,
    }
    done(
        cli,
        document,
        "cli.enrolled" if not made.replaced else "cli.enrolled-again",
        site=made.site,
        path=str(made.path),
        until=f"{made.not_after:%Y-%m-%d}",
    )


def release(
    context: typer.Context,
    site: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Let a site's router go, so that it can be enrolled at another site. The site stays and can get another one."""
    from cloudside.pki import revocation
    from cloudside.registry import sites

    cli = cli_of(context)
    with cli.read() as (session, caller):
        sites.get(session, caller, site)
    if not yes:
        confirm(cli, "cli.confirm-release", site=site)
    with cli.write("gateway") as (session, caller):
        revoked = revocation.release_router(session, cli.config, caller, site_id=site, now=cli.now)
    done(cli, {"site": site, "certificates_revoked": revoked}, "cli.site-released", site=site)


def read_duration(given: str) -> timedelta:
    """A length of time as people write it. Raises InputError."""
    match = _DURATION.match(given)
    if match is None:
        raise InputError("cli.bad-duration", text=given[:40])
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(65_536)
    except OSError as error:
        raise InputError("cli.unreadable-file", path=str(path), reason=str(error.strerror)) from None


def _line(content: bytes) -> str:
    return content.decode("utf-8", "replace").strip()
