"""`kyoten firmware keys`, `rotate`, `renew`: who signs releases, and how that changes."""

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import Cli, JsonFlag, operators_cli_of
from cloudside.cli.firmware_signing import PassphraseFile, make_key, read_public
from cloudside.cli.output import confirm, done, show_rows
from cloudside.errors import InputError

if TYPE_CHECKING:
    from firmware.repository.storage import Storage

app = typer.Typer(no_args_is_help=True, help="Keys that sign releases.")

_KINDS = ("ed25519", "ecdsa")


def register(firmware: typer.Typer) -> None:
    """Put the commands beside `keys` into the tree."""
    firmware.command()(rotate)
    firmware.command()(renew)


@app.command()
def make(
    context: typer.Context,
    holder: Annotated[str, typer.Argument(help="Who has the key: small letters, digits, hyphens.")],
    output: Annotated[Path, typer.Option("--output", help="File for the key; its public half gets .pub behind it.")],
    token: Annotated[
        str | None, typer.Option("--token", metavar="URI", help="Make it in a PKCS#11 token; only .pub is written.")
    ] = None,
    kind: Annotated[str, typer.Option("--kind", help="ed25519 or ecdsa (P-256).")] = "ed25519",
    passphrase_file: PassphraseFile = None,
    no_passphrase: Annotated[bool, typer.Option("--no-passphrase", help="Keep it unencrypted.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Make a key for a holder of root or targets. Neither configuration nor registry is needed."""
    from cloudside.fleet.releases import translated
    from firmware import durable
    from firmware.fields import NAME
    from firmware.repository import keys

    cli = operators_cli_of(context)
    if not NAME.match(holder):
        raise InputError("firmware.not-a-name", place="HOLDER")
    if kind not in _KINDS:
        raise InputError("cli.usage", message=f"--kind: {', '.join(_KINDS)}")
    public = output.with_name(f"{output.name}.pub")
    if public.exists():
        raise InputError("firmware.key-exists", path=str(public))
    if not public.parent.is_dir():
        raise InputError("firmware.key-unwritable", path=str(public), reason=os.strerror(errno.ENOENT))
    where = token or str(output)
    made = make_key(where, kind, passphrase_file, holder, encrypted=not no_passphrase)
    with translated():
        content = keys.render_public(made)
    try:
        durable.write(public, content)
    except OSError as error:
        raise InputError("firmware.key-unwritable", path=str(public), reason=str(error.strerror)) from None
    document = {"holder": holder, "keyid": made.keyid, "public": str(public)}
    if token is None:
        done(cli, document, "firmware.key-made", holder=holder, path=str(output), public=str(public))
    else:
        done(cli, document, "firmware.token-key-made", holder=holder, public=str(public))


@app.command()
def init(
    context: typer.Context,
    root: Annotated[list[Path], typer.Option("--root", help="Public key of a holder of root; repeatable.")],
    targets: Annotated[list[Path], typer.Option("--targets", help="Public key of a holder of targets; repeatable.")],
    root_threshold: Annotated[int, typer.Option(help="Signatures that a root wants.")] = 2,
    targets_threshold: Annotated[int, typer.Option(help="Signatures that a list of releases wants.")] = 2,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Begin a repository: stage the first root and an empty list of releases; make the online keys on this node."""
    from cloudside.fleet.releases import OnlineKeys, terms, translated
    from firmware.repository import roles, staging

    cli = operators_cli_of(context)
    storage = _storage(cli)
    online = OnlineKeys(cli.config.firmware_keys)
    holders = {roles.ROOT: read_public(root), roles.TARGETS: read_public(targets)}
    thresholds = {roles.ROOT: root_threshold, roles.TARGETS: targets_threshold}
    with translated():
        begun = storage.root() is None and storage.staged_root() is not None
    if begun and not yes:
        confirm(cli, "firmware.confirm-begin-anew", path=str(storage.staged_directory))
    with translated():
        staging.begin(storage, holders, thresholds, online.make, terms=terms(cli.config), now=cli.now)
    done(cli, {"staged": str(storage.staged_directory)}, "firmware.begun", path=str(storage.staged_directory))


@app.command("list")
def list_(context: typer.Context, _json: JsonFlag = False) -> None:
    """Who signs for what: of the root that counts, or of the first one while it is staged."""
    from cloudside.fleet.releases import online_key_path, translated
    from firmware.keymaterial import holder
    from firmware.repository import roles

    cli = operators_cli_of(context)
    storage = _storage(cli)
    with translated():
        metadata = storage.root() or storage.staged_root()
    rows: list[dict[str, Any]] = []
    for role in roles.ROLES if metadata is not None else ():
        found = metadata.signed.roles[role]  # type: ignore[union-attr]
        for keyid in found.keyids:
            key = metadata.signed.keys[keyid]  # type: ignore[union-attr]
            rows.append(
                {
                    "role": role,
                    "threshold": found.threshold,
                    "holder": holder(key),
                    "keyid": keyid[:12],
                    "scheme": key.scheme,
                    "here": online_key_path(cli.config.firmware_keys, keyid).exists(),
                }
            )
    show_rows(cli, "firmware-keys", rows, ("role", "threshold", "holder", "keyid", "scheme", "here"))


@app.command("root")
def root_(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", help="File to write.")] = Path("firmware-root.json"),
    _json: JsonFlag = False,
) -> None:
    """Write the newest published root: what routers' images have to know beforehand."""
    from cloudside.fleet.releases import translated
    from firmware import durable

    cli = operators_cli_of(context)
    storage = _storage(cli)
    with translated():
        version = storage.published_root().signed.version
        content = storage.root_bytes(version)
    try:
        durable.write(output, content)
    except OSError as error:
        raise InputError("firmware.file-unwritable", path=str(output), reason=str(error.strerror)) from None
    done(cli, {"version": version, "path": str(output)}, "firmware.root-written", version=version, path=str(output))


def rotate(
    context: typer.Context,
    role: Annotated[str, typer.Argument(help="root, targets, snapshot or timestamp.")],
    remove: Annotated[list[str] | None, typer.Option("--remove", help="Holder, or key id; repeatable.")] = None,
    add: Annotated[list[Path] | None, typer.Option("--add", help="Public key file; repeatable.")] = None,
    threshold: Annotated[int | None, typer.Option("--threshold", help="Signatures that are wanted.")] = None,
    _json: JsonFlag = False,
) -> None:
    """Stage a root with other keys. For snapshot and timestamp this node makes a new key in place of the old."""
    from cloudside.fleet.releases import OnlineKeys, terms, translated
    from firmware.repository import roles, staging
    from firmware.repository.staging import Change

    cli = operators_cli_of(context)
    storage = _storage(cli)
    _known(role, roles.ROLES)
    with translated():
        if role in roles.ONLINE:
            if remove or add or threshold is not None:
                raise InputError("firmware.online-role", role=role)
            storage.published_root()  # before a key is made for nothing
            made = OnlineKeys(cli.config.firmware_keys).make(role)
            change = Change(role, add=(made,), replace=True)
        else:
            change = Change(role, tuple(remove or ()), tuple(read_public(add or ())), threshold)
        staging.stage_rotation(storage, change, terms=terms(cli.config), now=cli.now)
    _say_wanted(cli, storage)


def renew(
    context: typer.Context,
    role: Annotated[str, typer.Argument(help="root or targets.")],
    _json: JsonFlag = False,
) -> None:
    """Stage root or targets as they are with a new expiry, for their holders to sign before the old one ends."""
    from cloudside.fleet.releases import terms, translated
    from firmware.repository import roles, staging

    cli = operators_cli_of(context)
    storage = _storage(cli)
    _known(role, roles.OFFLINE)
    with translated():
        if role == roles.ROOT:
            staging.stage_rotation(storage, None, terms=terms(cli.config), now=cli.now)
        else:
            staging.stage_targets(storage, terms=terms(cli.config), now=cli.now)
    _say_wanted(cli, storage)


def _say_wanted(cli: Cli, storage: "Storage") -> None:
    from cloudside.fleet.releases import translated
    from firmware.repository import staging

    with translated():
        found = staging.standing(storage)
    wanted = "; ".join(f"{one.role}: {one.missing} ({', '.join(one.could)})" for one in found)
    names = ", ".join(one.role for one in found)
    document = {one.role: {"missing": one.missing, "could": list(one.could)} for one in found}
    done(cli, document, "firmware.rotation-staged", role=names, wanted=wanted)


def _known(role: str, known: tuple[str, ...]) -> None:
    if role not in known:
        raise InputError("firmware.unknown-role", role=role[:40], known=", ".join(known))


def _storage(cli: Cli) -> "Storage":
    from firmware.repository.storage import Storage

    return Storage(cli.config.firmware_directory)
