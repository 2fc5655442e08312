"""The mail side of a world: the SES stand-in with its certificate, and the mailbox host, started on their machines."""

from dataclasses import dataclass

from lab import topology
from lab.ground import Ground
from lab.mail import MailboxHost, SesStandIn
from lab.network import Host, wait_until
from linux.runner import SubprocessRunner

BOUNCE_DOMAIN = "bounces.kyoten.example"
STAFF = "staff@kyoten.example"
SES_USER, SES_PASSWORD = "AKIALABLABLABLABLAB", "lab-only-not-a-secret"

#: Mailboxes that exist; anything else in these domains is refused with 550 5.1.1.
MAILBOXES = (STAFF, "facilities@acme.example", "alarm@acme.example", "facilities@birch.example", "alarm@birch.example")


@dataclass(frozen=True, slots=True)
class MailHosts:
    """Both, configured and running."""

    ses: SesStandIn
    mailboxes: MailboxHost


def start(ground: Ground) -> MailHosts:
    """Write the configurations, start both Postfixes, wait until they answer."""
    directory = ground.network.directory / "ses"
    directory.mkdir(exist_ok=True)
    certificate, key = directory / "ca.crt", directory / "server.key"
    SubprocessRunner().run([
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=ses.lab", "-addext", f"subjectAltName=IP:{topology.SES_PUBLIC}",
        "-keyout", str(key), "-out", str(certificate),
    ])  # fmt: skip
    domains = sorted({known.rpartition("@")[2] for known in MAILBOXES})
    routes = dict.fromkeys(domains, (topology.MAILBOX_PUBLIC, 25))
    ses = SesStandIn(
        directory=directory / "postfix",
        address=topology.SES_PUBLIC,
        routes={**routes, BOUNCE_DOMAIN: (topology.GATEWAY_PUBLIC, 25)},
        certificate=certificate,
        key=key,
        user=SES_USER,
        password=SES_PASSWORD,
    )
    mailboxes = MailboxHost(ground.network.directory / "mailbox" / "postfix", topology.MAILBOX_PUBLIC, MAILBOXES)
    ses.write(SubprocessRunner())
    mailboxes.write()
    for host, argv, port in ((ground.ses, ses.argv(), 587), (ground.mailbox, mailboxes.argv(), 25)):
        process = host.start("postfix", argv)
        wait_until(f"Postfix on {host.name} (see {process.log})", lambda: _listens(host, port), timeout_s=15)  # noqa: B023
    return MailHosts(ses, mailboxes)


def _listens(host: Host, port: int) -> bool:
    shown = host.run(["ss", "-Hltn", f"sport = :{port}"]).stdout
    return bool(shown.strip())
