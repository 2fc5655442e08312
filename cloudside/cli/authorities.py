"""`kyoten authority`: the authorities, and those of tenants below a root that is on another machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cloudside.cli.context import JsonFlag, operators_cli_of
from cloudside.cli.output import confirm, done, show_rows
from cloudside.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Authorities, and a root that is kept on another machine.")


@app.command("list")
def list_(context: typer.Context, _json: JsonFlag = False) -> None:
    """The authorities that sign, what they may hand out, and until when their revocation lists are good."""
    from sqlalchemy import select

    from cloudside.pki import address_blocks, issuing
    from cloudside.registry import certificates
    from cloudside.registry.tables import Certificate

    cli = operators_cli_of(context)
    rows: list[dict[str, Any]] = []
    with cli.read() as (session, _):
        query = select(Certificate).where(Certificate.kind.in_(("root", "authority")), Certificate.revoked_at.is_(None))
        for record in session.scalars(query.order_by(Certificate.kind.desc(), Certificate.subject)):
            blocks = address_blocks.read(issuing.parse(record)) or ()
            kept = certificates.revocation_list(session, record.subject)
            rows.append(
                {
                    "authority": record.subject,
                    "blocks": [str(block) for block in blocks],
                    "certificate_until": record.not_after,
                    "list": None if kept is None else kept.number,
                    "list_until": None if kept is None else kept.next_update,
                }
            )
    show_rows(cli, "authorities", rows, ("authority", "blocks", "certificate_until", "list", "list_until"))


@app.command()
def request(
    context: typer.Context,
    tenant: Annotated[str | None, typer.Argument(help="Whose authority; without it only the root's list.")] = None,
    output: Annotated[Path, typer.Option(help="File to carry to the root.")] = Path("authority.request"),
    _json: JsonFlag = False,
) -> None:
    """Write what the root is to sign: a tenant's authority, and always its own next revocation list."""
    from cloudside.pki import issuing, offline
    from cloudside.pki.store import KeyStore, write_secret
    from cloudside.registry import tenants

    cli = operators_cli_of(context)
    with cli.read() as (session, caller):
        found = None if tenant is None else tenants.get(session, caller, tenant)
        name = None if found is None else issuing.tenant_authority_name(found.id)
        block = None if found is None else found.block
        asked = offline.request(session, KeyStore.of(cli.config), name=name, block=block, now=cli.now)
    write_secret(output, asked.encode(), mode=0o644)
    done(cli, {"authority": name, "request": str(output)}, "cli.authority-requested", path=str(output))


@app.command()
def sign(
    context: typer.Context,
    asked: Annotated[Path, typer.Argument(metavar="REQUEST")],
    root_certificate: Annotated[Path, typer.Option(help="The root's certificate.")],
    root_key: Annotated[str, typer.Option(help="The root's key: a file, or a PKCS#11 URI.")],
    output: Annotated[Path, typer.Option(help="File to carry back.")] = Path("authority.answer"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    _json: JsonFlag = False,
) -> None:
    """Sign a request, on the machine that has the root's key. Neither configuration nor registry is needed there."""
    from cryptography import x509

    from cloudside.pki import issuing, offline
    from cloudside.pki.authority import Authority
    from cloudside.pki.store import read_root_key, write_secret

    cli = operators_cli_of(context)
    wanted = offline.read(_content(asked))
    name, block = str(wanted.get("name") or "-")[:80], str(wanted.get("block") or "-")[:80]
    if not yes:
        confirm(cli, "cli.confirm-sign", authority=name, block=block)
    try:
        certificate = x509.load_pem_x509_certificate(_content(root_certificate))
    except ValueError:
        raise InputError("pki.other-root") from None
    key = read_root_key(root_key)
    if key.public_key() != certificate.public_key():
        raise InputError("pki.other-root")
    answer = offline.sign(wanted, Authority(issuing.ROOT, certificate, key), now=cli.now)
    write_secret(output, answer.encode(), mode=0o644)
    done(cli, {"authority": name, "answer": str(output)}, "cli.authority-signed", path=str(output), authority=name)


@app.command()
def install(
    context: typer.Context, answer: Annotated[Path, typer.Argument(metavar="ANSWER")], _json: JsonFlag = False
) -> None:
    """Take in what the root has signed. The gateways learn of it at once."""
    from cloudside.pki import issuing, offline
    from cloudside.pki.store import KeyStore
    from cloudside.registry import tenants

    cli = operators_cli_of(context)
    document = offline.read(_content(answer))
    with cli.write("gateway") as (session, caller):
        names = {issuing.tenant_authority_name(one.id): one.block for one in tenants.every(session, caller)}
        block = names.get(str(document.get("name")))
        name = offline.install(session, KeyStore.of(cli.config), document, block=block, now=cli.now)
    done(cli, {"authority": name or None}, "cli.authority-installed", authority=name or "-")


def _content(path: Path) -> bytes:
    from cloudside.pki.offline import FILE_MAX_BYTES

    try:
        with path.open("rb") as stream:
            return stream.read(FILE_MAX_BYTES)
    except OSError as error:
        raise InputError("cli.unreadable-file", path=str(path), reason=str(error.strerror)) from None
