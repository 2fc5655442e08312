"""`kyoten firmware`: releases of routers' firmware, from a build to what routers find. Keys: firmware_keys."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli import firmware_build, firmware_keys, firmware_modules, firmware_permits
from cloudside.cli.context import Cli, JsonFlag, operators_cli_of
from cloudside.cli.firmware_signing import KeyOption, PassphraseFile, open_signer
from cloudside.cli.output import confirm, done, show_rows
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from tuf.api.metadata import Root, Targets

    from firmware.repository.storage import Storage

app = typer.Typer(no_args_is_help=True, help="Firmware releases of routers.")
app.add_typer(firmware_keys.app, name="keys")
app.add_typer(firmware_permits.app, name="permit")
firmware_build.register(app)
firmware_keys.register(app)
app.command()(firmware_modules.modules)

StagedDirectory = Annotated[
    Path | None,
    typer.Option("--staged", help="A copy of the repository's directory `staged`, on the machine that has the key."),
]


@app.command("list")
def list_(context: typer.Context, _json: JsonFlag = False) -> None:
    """Releases and modules: published, staged for signing, taken back."""
    from cloudside.fleet.releases import translated
    from firmware.repository import entries

    cli = operators_cli_of(context)
    storage = _storage(cli)
    with translated():
        published, staged = storage.targets(), storage.staged_targets()
        now = {} if published is None else {one.path: one for one in entries.listed(published.signed)}
        then = {} if staged is None else {one.path: one for one in entries.listed(staged.signed)}
    rows = []
    for path, entry in sorted((now | then).items(), key=lambda item: (item[0].split("/")[:2], item[1].counter)):
        was = now.get(path)
        state = "published" if was is not None and was.yanked is None else "staged" if was is None else "yanked"
        if was is not None and was.yanked is None and entry.yanked is not None:
            state = "yank-staged"
        rows.append(
            {
                "path": path,
                "version": entry.version,
                "counter": entry.counter,
                "state": state if cli.as_json else text(f"firmware.state-{state}"),
                "reason": entry.yanked,
            }
        )
    show_rows(cli, "releases", rows, ("path", "version", "counter", "state", "reason"))


@app.command()
def staged(context: typer.Context, _json: JsonFlag = False) -> None:
    """What is up for signing, and whose signatures are missing."""
    from cloudside.fleet.releases import translated
    from firmware.repository import staging

    cli = operators_cli_of(context)
    with translated():
        found = staging.standing(_storage(cli))
    rows = [
        {"role": one.role, "signed": list(one.signed), "missing": one.missing, "could": list(one.could)}
        for one in found
    ]
    show_rows(cli, "staged", rows, ("role", "signed", "missing", "could"))


@app.command()
def stage(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(help="What `kyoten firmware build` or `module` wrote.")],
    _json: JsonFlag = False,
) -> None:
    """Take a release or module into the repository and put the list of releases up for signing."""
    from cloudside.fleet.releases import terms, translated
    from firmware.compose import MODULE_DOCUMENT, RELEASE_DOCUMENT
    from firmware.release import module_path, parse, parse_module, release_path
    from firmware.repository import staging

    cli = operators_cli_of(context)
    storage, good = _storage(cli), terms(cli.config)
    with translated():
        if (directory / RELEASE_DOCUMENT).exists():
            document = _content(directory / RELEASE_DOCUMENT)
            release = parse(document)
            known = cli.config.firmware.hardware
            if release.hardware not in known:
                raise InputError("firmware.other-hardware", hardware=release.hardware, known=", ".join(known))
            path = release_path(release.hardware, release.version)
            staging.stage_release(storage, release, document, directory, terms=good, now=cli.now)
        elif (directory / MODULE_DOCUMENT).exists():
            document = _content(directory / MODULE_DOCUMENT)
            module = parse_module(document)
            path = module_path(module.name, module.version)
            staging.stage_module(storage, module, document, directory, terms=good, now=cli.now)
        else:
            raise InputError("firmware.no-release-there", path=str(directory))
    done(cli, {"staged": path}, "firmware.staged", path=path)


@app.command()
def sign(
    context: typer.Context,
    key: KeyOption,
    passphrase_file: PassphraseFile = None,
    staged_directory: StagedDirectory = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Add one holder's signature to what is staged. With --staged neither configuration nor registry is needed."""
    from cloudside.fleet.releases import translated
    from firmware.repository import staging
    from firmware.repository.storage import STAGED

    cli = operators_cli_of(context)
    directory = staged_directory or cli.config.firmware_directory / STAGED
    with translated():
        what = "; ".join(_what(one.signed) for one in staging.read_staged(directory).values())
    if not yes:
        confirm(cli, "firmware.confirm-sign", what=what)
    signer = open_signer(key, passphrase_file)
    with translated():
        signed = staging.sign(directory, signer)
    done(cli, {"signed": list(signed)}, "firmware.signed", roles=", ".join(signed))


@app.command()
def publish(
    context: typer.Context,
    signed: Annotated[
        list[Path] | None, typer.Option("--signed", help="A copy of `staged` that a holder has signed; repeatable.")
    ] = None,
    _json: JsonFlag = False,
) -> None:
    """Let routers find what is staged, if enough holders have signed."""
    from cloudside.fleet.releases import OnlineKeys, register, terms, translated
    from firmware.repository import publish as repository
    from firmware.repository import staging

    cli = operators_cli_of(context)
    storage = _storage(cli)
    with translated():
        for copy in signed or ():
            staging.collect(storage, copy)
        online = OnlineKeys(cli.config.firmware_keys)
        made = repository.publish(storage, online, terms=terms(cli.config), now=cli.now)
        online.forget(storage.published_root().signed)
    with cli.write("web", "worker") as (session, caller):
        register(session, caller, storage, cli.now)
    document = {"root": made.root, "targets": made.targets, "snapshot": made.snapshot, "timestamp": made.timestamp}
    shown = {name: "-" if version is None else version for name, version in document.items()}
    done(cli, document, "firmware.published", **shown)


@app.command()
def yank(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="As `kyoten firmware list` has it: releases/HARDWARE/VERSION.json.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; routers that run it and people are told.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Take a release or module back: its rollouts halt at once, routers learn of it when that is signed."""
    from cloudside.fleet.releases import register, terms, translated
    from cloudside.registry import releases
    from firmware.repository import staging

    cli = operators_cli_of(context)
    storage = _storage(cli)
    if not yes:
        confirm(cli, "firmware.confirm-yank", path=path[:120])
    with translated():
        staging.stage_yank(storage, path, reason, terms=terms(cli.config), now=cli.now)
    kind, name, file = path.split("/")
    if kind == "releases":
        with cli.write("web", "worker") as (session, caller):
            published = register(session, caller, storage, cli.now)
            if path in published:
                version = file.removesuffix(".json")
                releases.yank(session, caller, hardware=name, version=version, reason=reason, now=cli.now)
    done(cli, {"yanked": path}, "firmware.yank-staged", path=path)


@app.command()
def refresh(context: typer.Context, _json: JsonFlag = False) -> None:
    """Renew snapshot and timestamp if it is time, as the worker does, and bring the registry in line."""
    from cloudside.fleet.releases import OnlineKeys, register, terms, translated
    from firmware.repository import publish as repository

    cli = operators_cli_of(context)
    storage = _storage(cli)
    with translated():
        made = repository.refresh(storage, OnlineKeys(cli.config.firmware_keys), terms=terms(cli.config), now=cli.now)
    with cli.write("web", "worker") as (session, caller):
        register(session, caller, storage, cli.now)
    document = {
        "snapshot": made.snapshot,
        "timestamp": made.timestamp,
        "root_until": made.root_until,
        "targets_until": made.targets_until,
    }
    done(
        cli,
        document,
        "firmware.refreshed",
        snapshot=made.snapshot or "-",
        timestamp=made.timestamp or "-",
        root_until=f"{made.root_until:%Y-%m-%d}",
        targets_until=f"{made.targets_until:%Y-%m-%d}",
    )


def _storage(cli: Cli) -> "Storage":
    from firmware.repository.storage import Storage

    return Storage(cli.config.firmware_directory)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError("cli.unreadable-file", path=str(path), reason=str(error.strerror)) from None


def _what(signed: "Root | Targets") -> str:
    """What a holder is about to vouch for."""
    from tuf.api.metadata import Root

    from firmware.repository import entries, roles

    params: dict[str, Any] = {"version": signed.version, "until": f"{signed.expires:%Y-%m-%d}"}
    if isinstance(signed, Root):
        parts = (
            f"{role}: {signed.roles[role].threshold}/{', '.join(roles.holders(signed, role))}" for role in roles.ROLES
        )
        return text("firmware.what-root", params | {"keys": "; ".join(parts)})
    listed = ", ".join(entry.path if entry.yanked is None else f"-{entry.path}" for entry in entries.listed(signed))
    return text("firmware.what-targets", params | {"entries": listed or "-"})
