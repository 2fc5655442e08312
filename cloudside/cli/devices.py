"""`kyoten device`: equipment on sites' LANs, written SITE/DEVICE."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.output import done, show_rows
from cloudside.errors import InputError

if TYPE_CHECKING:
    from cloudside.registry.tables import Device, Site

app = typer.Typer(no_args_is_help=True, help="Controllers and other equipment on sites' LANs.")

DeviceName = Annotated[str, typer.Argument(metavar="SITE/DEVICE")]


@app.command()
def add(
    context: typer.Context,
    device: DeviceName,
    lan_address: Annotated[str, typer.Argument(help="Its real address on the LAN.")],
    host_key: Annotated[str | None, typer.Option(help="OpenSSH public host key, one line, for remote work.")] = None,
    _json: JsonFlag = False,
) -> None:
    """Take a device in."""
    from cloudside.registry import devices, sites

    cli = cli_of(context)
    site_id, name = _split(device)
    with cli.write("gateway") as (session, caller):
        added = devices.add(session, caller, site_id=site_id, name=name, lan_address=lan_address, ssh_host_key=host_key)
        row = _row(sites.get(session, caller, site_id), added)
    done(cli, row, "cli.device-added", device=device, overlay=row["overlay_address"])


@app.command("list")
def list_(
    context: typer.Context,
    site: Annotated[str | None, typer.Argument(help="Only this site's.")] = None,
    _json: JsonFlag = False,
) -> None:
    """All devices."""
    from cloudside.registry import devices, sites

    cli = cli_of(context)
    with cli.read() as (session, caller):
        homes = {home.id: home for home in sites.every(session, caller)}
        rows = [_row(homes[found.site_id], found) for found in devices.every(session, caller, site_id=site)]
    show_rows(cli, "devices", rows, ("device", "lan_address", "overlay_address", "host_key_pinned"))


@app.command()
def remove(context: typer.Context, device: DeviceName, _json: JsonFlag = False) -> None:
    """Forget a device; statements that name it allow nothing any more."""
    from cloudside.registry import devices

    cli = cli_of(context)
    site_id, name = _split(device)
    with cli.write("gateway") as (session, caller):
        devices.remove(session, caller, site_id=site_id, name=name)
    done(cli, {"device": device, "removed": True}, "cli.device-removed", device=device)


@app.command("set-host-key")
def set_host_key(
    context: typer.Context,
    device: DeviceName,
    key: Annotated[
        list[str] | None, typer.Argument(help="The key as ssh-keyscan or a .pub file has it; else standard input.")
    ] = None,
    _json: JsonFlag = False,
) -> None:
    """Pin the SSH host key that remote work is held to. Read it on the device itself, not over the network."""
    from cloudside.registry import devices

    cli = cli_of(context)
    site_id, name = _split(device)
    line = " ".join(key) if key else sys.stdin.readline(20_000).strip()
    with cli.write() as (session, caller):
        devices.pin_host_key(session, caller, site_id=site_id, name=name, ssh_host_key=line)
    done(cli, {"device": device, "host_key": line}, "cli.host-key-pinned", device=device)


def _split(device: str) -> tuple[str, str]:
    from cloudside.registry.names import split_target

    site_id, name = split_target(device)
    if name is None:
        raise InputError("cli.device-wanted", text=device[:80])
    return site_id, name


def _row(site: "Site", device: "Device") -> dict[str, Any]:
    from cloudside.registry.devices import overlay_address_of

    return {
        "device": f"{site.id}/{device.name}",
        "lan_address": str(device.lan_address),
        "overlay_address": str(overlay_address_of(site, device)),
        "host_key": device.ssh_host_key,
        "host_key_pinned": device.ssh_host_key is not None,
    }
