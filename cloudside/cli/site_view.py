"""`kyoten site show`: one site, as stated and as it is."""

import typer

from cloudside.cli import sites as stated
from cloudside.cli.context import JsonFlag, cli_of
from cloudside.cli.output import show_one


def register(app: typer.Typer) -> None:
    """Put the commands into the group of `kyoten site`."""
    app.command("show")(show)


def show(context: typer.Context, site: str, _json: JsonFlag = False) -> None:
    """One site: addresses, enrolment, devices, settings and what became of them."""
    from cloudside.pki.issuing import tenant_authority_name
    from cloudside.registry import certificates, devices, settings, sites
    from cloudside.registry.addresses import router_address
    from cloudside.registry.tables import Router

    cli = cli_of(context)
    with cli.read() as (session, caller):
        found = sites.get(session, caller, site)
        router = session.get(Router, found.id)
        certificate = certificates.current(
            session, authority=tenant_authority_name(found.tenant_id), kind="site", subject=found.id
        )
        document = {
            **stated.row_of(found),
            "router_address": str(router_address(found.overlay)),
            "mail_hourly_limit": found.mail_hourly_limit,
            "enrolled": None if router is None else router.enrolled_at,
            "host_key": None if router is None else router.ssh_host_key,
            "certificate_until": None if certificate is None else certificate.not_after,
            "devices": [device.name for device in devices.every(session, caller, site_id=found.id)],
            "settings": [stated.settings_row(row) for row in settings.versions(session, caller, found.id)[:5]],
        }
    show_one(cli, document)
