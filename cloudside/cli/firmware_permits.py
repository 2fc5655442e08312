"""`kyoten firmware permit`: documents that let routers go back to an older release."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloudside.cli.context import JsonFlag, operators_cli_of
from cloudside.cli.firmware_signing import KeyOption, PassphraseFile, open_signer
from cloudside.cli.moments import duration
from cloudside.cli.output import confirm, done, show_one
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from tuf.api.metadata import Root

    from firmware.permit import Permit, SignedPermit

app = typer.Typer(no_args_is_help=True, help="Permits to go back to an older release.")

PermitFile = Annotated[Path, typer.Argument(metavar="FILE", help="The permit.")]
RootFile = Annotated[
    Path | None,
    typer.Option("--root", help="File with the root that counts; else the repository's. For a machine without one."),
]


@app.command()
def make(
    context: typer.Context,
    hardware: Annotated[str, typer.Option("--hardware", help="Kind of hardware.")],
    from_counter: Annotated[int, typer.Option("--from", help="Counter of the release that runs.")],
    to_counter: Annotated[int, typer.Option("--to", help="Counter of the release to go back to.")],
    site: Annotated[str, typer.Option("--site", help="One site, or * for all.")],
    length: Annotated[str, typer.Option("--for", metavar="TIME", help="How long it is good: 7d, 12h; 30d at most.")],
    output: Annotated[Path, typer.Option("--output", help="File to write.")] = Path("downgrade.permit"),
    _json: JsonFlag = False,
) -> None:
    """Write a permit for one step back. It is good once holders of targets keys have signed it."""
    from cloudside.fleet.releases import translated
    from firmware import permit
    from firmware.fields import TIME_FORMAT

    cli = operators_cli_of(context)
    lasts = duration(length)
    if lasts > timedelta(seconds=permit.LIFE_MAX_S):
        raise InputError("firmware.permit-long", days=permit.LIFE_MAX_S // 86400)
    if to_counter >= from_counter:
        raise InputError("firmware.permit-upwards", from_counter=from_counter, to_counter=to_counter)
    made = permit.Permit(site, hardware, from_counter, to_counter, (cli.now + lasts).strftime(TIME_FORMAT))
    with translated():
        content = permit.render(permit.SignedPermit(made, {}))
        permit.parse(content)
    _write(output, content)
    done(cli, {"permit": str(output), "expires": made.expires}, "firmware.permit-made", path=str(output))


@app.command()
def sign(
    context: typer.Context,
    file: PermitFile,
    key: KeyOption,
    passphrase_file: PassphraseFile = None,
    root: RootFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Add one holder's signature to a permit."""
    from cloudside.fleet.releases import translated
    from firmware import permit
    from firmware.repository import roles

    cli = operators_cli_of(context)
    found = _read(file)
    judge = _root(context, root)
    if not yes:
        confirm(cli, "firmware.confirm-sign", what=_what(found.permit))
    signer = open_signer(key, passphrase_file)
    if not roles.entitled(roles.TARGETS, signer.public_key.keyid, [judge]):
        raise InputError("firmware.key-not-entitled", keyid=signer.public_key.keyid[:12])
    with translated():
        signed = permit.sign(found, signer)
        missing, _ = permit.missing(signed, judge)
    _write(file, permit.render(signed))
    done(cli, {"permit": str(file), "missing": missing}, "firmware.permit-signed", path=str(file), missing=missing)


@app.command()
def show(context: typer.Context, file: PermitFile, root: RootFile = None, _json: JsonFlag = False) -> None:
    """What a permit allows, and whose signatures are missing."""
    from dataclasses import asdict

    from firmware import permit

    cli = operators_cli_of(context)
    found = _read(file)
    missing, could = permit.missing(found, _root(context, root))
    show_one(cli, {**asdict(found.permit), "missing": missing, "could": list(could)})


def _root(context: typer.Context, file: Path | None) -> "Root":
    from tuf.api.metadata import Root

    from cloudside.fleet.releases import translated
    from firmware.repository import storage

    with translated():
        if file is not None:
            return storage.read(file, Root).signed
        return storage.Storage(operators_cli_of(context).config.firmware_directory).published_root().signed


def _read(file: Path) -> "SignedPermit":
    from cloudside.fleet.releases import translated
    from firmware import permit

    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError("cli.unreadable-file", path=str(file), reason=str(error.strerror)) from None
    with translated():
        return permit.parse(content)


def _write(file: Path, content: bytes) -> None:
    from firmware import durable

    try:
        durable.write(file, content)
    except OSError as error:
        raise InputError("firmware.file-unwritable", path=str(file), reason=str(error.strerror)) from None


def _what(permit: "Permit") -> str:
    return text(
        "firmware.what-permit",
        {
            "from_counter": permit.from_counter,
            "to_counter": permit.to_counter,
            "hardware": permit.hardware,
            "site": permit.site,
            "until": permit.expires,
        },
    )
