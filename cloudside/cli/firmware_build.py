"""`kyoten firmware build`, `module`: what is made before anything is signed, without configuration or registry."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloudside.cli.context import Cli, JsonFlag, operators_cli_of
from cloudside.cli.output import done, printable
from cloudside.errors import InputError
from cloudside.messages import text

if TYPE_CHECKING:
    from firmware.compose import Identity
    from firmware.release import SlotFacts

Hardware = Annotated[str, typer.Option("--hardware", help="Kind of hardware, such as generic-x86-64.")]
Version = Annotated[str, typer.Option("--version", help="Such as 2026.11.1.")]
Counter = Annotated[int, typer.Option("--counter", min=1, help="Orders releases; higher than all before it.")]
Output = Annotated[Path, typer.Option("--output", help="Directory to write; `kyoten firmware stage` takes it.")]
#: As small as zstd gets: made once, and carried over ten thousand lines (firmware.delta_make.LEVEL).
LEVEL = 19
#: squashfs keeps its time in 32 bits.
EPOCH_MAX = (1 << 32) - 1
Notes = Annotated[str, typer.Option("--notes", help="What is new, for people.")]


def register(firmware: typer.Typer) -> None:
    """Put the commands into the tree."""
    firmware.command()(build)
    firmware.command()(module)


def build(
    context: typer.Context,
    hardware: Hardware,
    version: Version,
    counter: Counter,
    output: Output,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="A finished RAUC bundle, with --slot and --slot-facts; else built.")
    ] = None,
    slot: Annotated[Path | None, typer.Option("--slot", help="The slot.img inside the bundle.")] = None,
    slot_facts: Annotated[Path | None, typer.Option("--slot-facts", help="The slot.json beside it.")] = None,
    signing: Annotated[
        Path | None,
        typer.Option("--signing", help="Directory with release.key, release.pem, authority.pem: who signs bundles."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="The root of the repository (`keys root`), for the image.")
    ] = None,
    epoch: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=EPOCH_MAX,
            help="When it was made, in seconds since 1970: the same gives the same bytes. Else now.",
        ),
    ] = None,
    earlier: Annotated[
        list[Path] | None,
        typer.Option("--from", help="Directory of an earlier release, to make a delta from; repeatable."),
    ] = None,
    board: Annotated[
        list[str] | None, typer.Option("--board", help="Board it runs on; repeatable. Else the hardware itself.")
    ] = None,
    minimum_from: Annotated[int, typer.Option(help="Lowest counter that may update directly; 0: any.")] = 0,
    disk_mib: Annotated[int, typer.Option(help="Free space on the data partition that it needs, in MiB.")] = 256,
    mains_power: Annotated[bool, typer.Option("--mains-power", help="Not for devices that run on battery.")] = False,
    level: Annotated[
        int, typer.Option(min=1, max=19, help="zstd's; 3 packs at once and a quarter larger, for trials.")
    ] = LEVEL,
    notes: Notes = "",
    _json: JsonFlag = False,
) -> None:
    """Make a release: build the image (root, Debian), or take a finished bundle; then what travels whole, deltas from
    earlier releases, the document."""
    from cloudside.fleet.releases import translated
    from firmware import compose
    from firmware.fields import TIME_FORMAT
    from firmware.release import Applicability

    cli = operators_cli_of(context)
    made_at = int(cli.now.timestamp()) if epoch is None else epoch
    boards = tuple(dict.fromkeys([*(board or [hardware])]))
    identity = compose.Identity(
        hardware=hardware,
        version=version,
        counter=counter,
        created=datetime.fromtimestamp(made_at, UTC).strftime(TIME_FORMAT),
        applicability=Applicability(minimum_from, boards, disk_mib, mains_power),
        notes=notes,
    )
    with translated():
        compose.check(identity)  # a slip of the pen is told before minutes of building
        finished = _finished(cli, identity, (bundle, slot, slot_facts), signing, root, made_at, output)
        made = compose.release(
            identity,
            bundle=finished.bundle,
            slot=finished.slot,
            facts=finished.facts,
            earlier=tuple(earlier or ()),
            output=output,
            level=level,
            say=lambda key, params: _say(cli, key, params),
        )
    document = {
        "release": str(output),
        "hardware": hardware,
        "version": version,
        "full_bytes": made.full.size,
        "deltas": [{"from_counter": one.from_counter, "bytes": one.file.size} for one in made.deltas],
    }
    done(cli, document, "firmware.built", version=version, hardware=hardware, path=str(output))


def module(
    context: typer.Context,
    content: Annotated[Path, typer.Argument(help="The file that routers shall have.")],
    name: Annotated[str, typer.Option("--name", help="The module's name: small letters, digits, hyphens.")],
    version: Version,
    counter: Counter,
    kind: Annotated[str, typer.Option("--kind", help="plugin, modem-table, ca-bundle, ...")],
    output: Output,
    board: Annotated[list[str] | None, typer.Option("--board", help="Board it is for; repeatable. Else all.")] = None,
    agent_from: Annotated[str, typer.Option(help="Lowest agent version that it is for.")] = "",
    agent_below: Annotated[str, typer.Option(help="The agent version that it is not for any more.")] = "",
    notes: Notes = "",
    _json: JsonFlag = False,
) -> None:
    """Make a module out of a file: a small part that routers install by themselves."""
    from cloudside.fleet.releases import translated
    from firmware import compose
    from firmware.fields import TIME_FORMAT
    from firmware.release import ModuleApplicability

    cli = operators_cli_of(context)
    _require(content)
    with translated():
        made = compose.module(
            content,
            name=name,
            version=version,
            counter=counter,
            created=cli.now.strftime(TIME_FORMAT),
            kind=kind,
            applicability=ModuleApplicability(tuple(board or ()), agent_from, agent_below),
            notes=notes,
            output=output,
        )
    document = {"module": str(output), "name": name, "version": version, "bytes": made.file.size}
    done(cli, document, "firmware.module-built", name=name, version=version, path=str(output))


@dataclass(frozen=True)
class _Finished:
    """A bundle, and the slot image inside it."""

    bundle: Path
    slot: Path
    facts: "SlotFacts"


def _finished(
    cli: Cli,
    identity: "Identity",
    given: tuple[Path | None, Path | None, Path | None],
    signing: Path | None,
    root: Path | None,
    made_at: int,
    output: Path,
) -> _Finished:
    from firmware.image import places
    from firmware.image.bundle import holds
    from firmware.release import parse_slot_facts

    bundle, slot, slot_facts = given
    if bundle is not None and slot is not None and slot_facts is not None:
        for path in (bundle, slot):
            _require(path)
        facts = parse_slot_facts(_read(slot_facts))
        if (slot.stat().st_size, places.sha256(slot)) != (facts.image_size, facts.image_sha256):
            raise InputError("firmware.slot-other", slot=str(slot), facts=str(slot_facts))
        if not holds(bundle, slot):
            raise InputError("firmware.bundle-other", bundle=str(bundle), slot=str(slot))
        return _Finished(bundle, slot, facts)
    if any(given) or signing is None or root is None:
        raise InputError("firmware.nothing-to-build")
    from firmware.image.build import Name, release
    from firmware.image.errors import ImageError
    from firmware.image.signing import Signing

    signed_by = Signing(signing / "release.key", signing / "release.pem", signing / "authority.pem")
    for path in (signed_by.key, signed_by.certificate, signed_by.authority, root):
        _require(path)
    name = Name(identity.hardware, identity.version, identity.counter, made_at)

    def say(line: str) -> None:
        if not cli.as_json:
            typer.echo(printable(line), err=True)

    try:
        made = release(name, output / "image", signed_by=signed_by, say=say, trust_root=root)
    except ImageError as error:
        raise InputError("firmware.image-failed", reason=str(error)) from None
    return _Finished(made.bundle, made.slot.image, made.slot.facts)


def _say(cli: Cli, key: str, params: dict[str, str | int]) -> None:
    if not cli.as_json:
        typer.echo(printable(text(key, params)), err=True)


def _require(path: Path) -> None:
    """It can be opened; what it holds is read later."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError("cli.unreadable-file", path=str(path), reason=str(error.strerror)) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError("cli.unreadable-file", path=str(path), reason=str(error.strerror)) from None
