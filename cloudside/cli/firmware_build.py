"""`kyoten firmware build`, `module`: what is made before anything is signed, without configuration or registry."""

from pathlib import Path
from typing import Annotated

import typer

from cloudside.cli.context import Cli, JsonFlag, operators_cli_of
from cloudside.cli.output import done, printable
from cloudside.errors import InputError
from cloudside.messages import text

Hardware = Annotated[str, typer.Option("--hardware", help="Kind of hardware, such as generic-x86-64.")]
Version = Annotated[str, typer.Option("--version", help="Such as 2026.11.1.")]
Counter = Annotated[int, typer.Option("--counter", min=1, help="Orders releases; higher than all before it.")]
Output = Annotated[Path, typer.Option("--output", help="Directory to write; `kyoten firmware stage` takes it.")]
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
    bundle: Annotated[Path, typer.Option("--bundle", help="RAUC bundle, as `python -m firmware.image` makes it.")],
    slot: Annotated[Path, typer.Option("--slot", help="The slot.img inside it.")],
    slot_facts: Annotated[Path, typer.Option("--slot-facts", help="The slot.json beside it.")],
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
    notes: Notes = "",
    _json: JsonFlag = False,
) -> None:
    """Make a release out of a finished bundle: what travels whole, deltas from earlier releases, the document."""
    from cloudside.fleet.releases import translated
    from firmware import compose
    from firmware.fields import TIME_FORMAT
    from firmware.release import Applicability, parse_slot_facts

    cli = operators_cli_of(context)
    for path in (bundle, slot):
        _require(path)
    boards = tuple(dict.fromkeys([*(board or [hardware])]))
    identity = compose.Identity(
        hardware=hardware,
        version=version,
        counter=counter,
        created=cli.now.strftime(TIME_FORMAT),
        applicability=Applicability(minimum_from, boards, disk_mib, mains_power),
        notes=notes,
    )
    with translated():
        facts = parse_slot_facts(_read(slot_facts))
        made = compose.release(
            identity,
            bundle=bundle,
            slot=slot,
            facts=facts,
            earlier=tuple(earlier or ()),
            output=output,
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
