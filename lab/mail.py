"""Real mail hosts for a world: a stand-in for Amazon SES, the host with the customer's mailboxes, an ordinary relay.

All are Postfix. Each has one directory of its own with configuration, queue, data, log; /etc/postfix and
/var/spool/postfix are not touched, and no name is looked up in DNS. The caller runs ``argv()`` in the host's network
namespace and waits until the port answers. The directory and those above it must be searchable by everyone: Postfix
gives up root.
"""

import mailbox
import os
import pwd
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from lab import box
from linux.runner import Runner

Address = IPv4Address | IPv6Address

_DAEMONS = Path("/usr/lib/postfix/sbin")
_QUEUE_DIRECTORIES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "saved", "trace")
_MAILDIR_OWNER = "nobody"
_POLICY_PROGRAM = Path(__file__).with_name("mail_policy.py")


class PlaceError(Exception):
    """The directory cannot be used by Postfix's unprivileged processes; the text names what to change."""


class Mood(StrEnum):
    """How the SES stand-in answers MAIL."""

    NORMAL = "DUNNO"
    RATE_EXCEEDED = "454 Throttling failure: Maximum sending rate exceeded."
    QUOTA_EXCEEDED = "454 Throttling failure: Daily message quota exceeded."


@dataclass(frozen=True, slots=True)
class MailboxHost:
    """Takes mail for known ``addresses`` on port 25; refuses others of the same domains with 550 5.1.1."""

    directory: Path
    address: Address
    addresses: Sequence[str]
    name: str = "mx.customer.test"
    port: int = 25

    def write(self) -> None:
        """Lay the directory out. Raises PlaceError."""
        boxes = self.directory / "mailboxes"
        _lay_out(self.directory)
        boxes.mkdir(exist_ok=True)
        owner = pwd.getpwnam(_MAILDIR_OWNER)
        os.chown(boxes, owner.pw_uid, owner.pw_gid)
        _write_map(self.directory / "users", {known: f"{known}/" for known in self.addresses})
        settings = _common(self.directory, self.name, self.address) | {
            "virtual_mailbox_domains": ", ".join(sorted({known.rpartition("@")[2] for known in self.addresses})),
            "virtual_mailbox_maps": f"texthash:{self.directory}/users",
            "virtual_mailbox_base": str(boxes),
            "virtual_uid_maps": f"static:{owner.pw_uid}",
            "virtual_gid_maps": f"static:{owner.pw_gid}",
            "virtual_minimum_uid": "1",
            "smtpd_relay_restrictions": "reject_unauth_destination",
        }
        _write_configuration(self.directory, settings, [_inet(self.port, "smtpd")])

    def argv(self) -> list[str]:
        """Runs Postfix in the foreground; ending the process ends it."""
        return _argv(self.directory)

    def messages(self, known: str) -> list[Message]:
        """What lies in the mailbox of an address, in the order of delivery."""
        place = self.directory / "mailboxes" / known
        # Postfix makes the Maildir at the first delivery, one folder after the other.
        if not all((place / part).exists() for part in ("cur", "new", "tmp")):
            return []
        found = mailbox.Maildir(str(place), create=False)
        return [found[key] for key in sorted(found.keys())]


@dataclass(frozen=True, slots=True)
class SesStandIn:
    """A smarthost like SES's: port 587, STARTTLS and AUTH required, at most 50 recipients.

    ``routes`` maps a domain to the host (address and port) that takes its mail; other domains bounce. Failures come
    back as real bounces to the return path, so the bounce domain needs a route as well.
    """

    directory: Path
    address: Address
    routes: Mapping[str, tuple[Address, int]]
    certificate: Path
    key: Path
    user: str
    password: str = field(repr=False)
    name: str = "email-smtp.ses.test"
    port: int = 587

    def write(self, runner: Runner) -> None:
        """Lay the directory out and make the password database. Raises PlaceError, LinuxError."""
        _lay_out(self.directory)
        # Debian's Postfix reads <config_directory>/sasl/smtpd.conf and ignores cyrus_sasl_config_path.
        sasl = self.directory / "etc" / "sasl"
        sasl.mkdir(exist_ok=True)
        database = sasl / "sasldb2"
        database.unlink(missing_ok=True)
        (sasl / "smtpd.conf").write_text(
            f"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\nsasldb_path: {database}\n"
        )
        runner.run(["saslpasswd2", "-p", "-c", "-f", str(database), "-u", self.name, self.user], stdin=self.password)
        postfix = pwd.getpwnam("postfix")
        os.chown(database, postfix.pw_uid, postfix.pw_gid)
        shutil.copyfile(_POLICY_PROGRAM, self.directory / "policy.py")
        for source, target in ((self.certificate, "certificate.pem"), (self.key, "key.pem")):
            # Postfix reads them as root before it gives up its rights.
            copied = self.directory / target
            copied.touch(mode=0o600)
            copied.write_bytes(source.read_bytes())
        self.set_mood(Mood.NORMAL)
        _write_map(self.directory / "transport", {domain: _nexthop(*host) for domain, host in self.routes.items()})
        settings = _common(self.directory, self.name, self.address) | {
            "transport_maps": f"texthash:{self.directory}/transport",
            "default_transport": "error:5.4.4 no route to this domain in the lab",
            "smtpd_tls_security_level": "encrypt",
            "smtpd_tls_cert_file": str(self.directory / "certificate.pem"),
            "smtpd_tls_key_file": str(self.directory / "key.pem"),
            "smtpd_tls_auth_only": "yes",
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_sasl_type": "cyrus",
            "smtpd_sasl_path": "smtpd",
            "smtpd_sasl_local_domain": self.name,
            "smtpd_recipient_limit": "50",
            "smtpd_delay_reject": "no",
            # Asked at each MAIL, which is where SES throttles.
            "smtpd_sender_restrictions": "check_policy_service unix:private/policy",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
        }
        policy = (
            f"policy unix - n n - 0 spawn user={_MAILDIR_OWNER}"
            f" argv=/usr/bin/python3 -S -E {self.directory}/policy.py {self.directory}/mood"
        )
        _write_configuration(self.directory, settings, [_inet(self.port, "smtpd"), policy])

    def set_mood(self, mood: Mood) -> None:
        """Change the answers from the next MAIL on, on open connections too."""
        temporary = self.directory / "mood.new"
        temporary.write_text(mood.value)
        temporary.chmod(0o644)
        temporary.rename(self.directory / "mood")

    def argv(self) -> list[str]:
        """Runs Postfix in the foreground; ending the process ends it."""
        return _argv(self.directory)


@dataclass(frozen=True, slots=True)
class PlainRelay:
    """An ordinary Postfix that takes mail of ``clients`` and hands it to ``next_hop``, to compare with.

    Its queue is as durable as Debian delivers it: nothing of that is set here.
    """

    directory: Path
    address: Address
    clients: str
    next_hop: tuple[Address, int]
    name: str = "relay.postfix.test"
    port: int = 25

    def write(self) -> None:
        """Lay the directory out. Raises PlaceError."""
        _lay_out(self.directory)
        host, port = self.next_hop
        settings = _common(self.directory, self.name, self.address) | {
            "mynetworks": self.clients,
            "smtpd_relay_restrictions": "permit_mynetworks, reject",
            "relayhost": f"[{host}]:{port}" if host.version == 4 else f"[ipv6:{host}]:{port}",
        }
        _write_configuration(self.directory, settings, [_inet(self.port, "smtpd")])

    def argv(self) -> list[str]:
        """Runs Postfix in the foreground; ending the process ends it."""
        return _argv(self.directory)


def log_text(directory: Path) -> str:
    """What a host's Postfix logged, for a failed test's report."""
    path = directory / "log" / "mail.log"
    return path.read_text(errors="replace") if path.exists() else ""


def _argv(directory: Path) -> list[str]:
    return [str(_DAEMONS / "master"), "-c", str(directory / "etc"), "-d"]


def _common(directory: Path, name: str, address: Address) -> dict[str, str]:
    return {
        "compatibility_level": "3.6",
        "queue_directory": str(directory / "queue"),
        "data_directory": str(directory / "data"),
        "daemon_directory": str(_DAEMONS),
        "command_directory": "/usr/sbin",
        "maillog_file": str(directory / "log" / "mail.log"),
        "maillog_file_prefixes": str(directory / "log"),
        "import_environment": "MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ=UTC LANG=C",
        "myhostname": name,
        "myorigin": name,
        "mydestination": "",
        "mynetworks": "",
        "local_recipient_maps": "",
        "alias_maps": "",
        "alias_database": "",
        "inet_interfaces": str(address),
        "inet_protocols": f"ipv{address.version}",
        "smtp_dns_support_level": "disabled",
        "smtp_host_lookup": "native",
        "smtp_tls_security_level": "none",
        "smtpd_peername_lookup": "no",
        "notify_classes": "",
        "biff": "no",
        "minimal_backoff_time": "2s",
        "maximal_backoff_time": "10s",
        "queue_run_delay": "2s",
        "smtpd_client_connection_rate_limit": "0",
        "smtpd_client_connection_count_limit": "0",
    }


def _lay_out(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for above in (directory, *directory.parents):
        if box.inside() and above.is_relative_to(box.directory()):
            above.chmod(above.stat().st_mode | 0o011)
        if not above.stat().st_mode & 0o001:
            raise PlaceError(f"Postfix cannot enter {above}: run chmod o+x {above}, or choose another directory")
    postfix = pwd.getpwnam("postfix")
    for name in ("etc", "log", "queue", "queue/pid"):
        (directory / name).mkdir(exist_ok=True)
    for name in (
        "data",
        "queue/private",
        "queue/public",
        "queue/maildrop",
        *(f"queue/{q}" for q in _QUEUE_DIRECTORIES),
    ):
        (directory / name).mkdir(exist_ok=True)
        os.chown(directory / name, postfix.pw_uid, 0)
        (directory / name).chmod(0o700)


def _write_configuration(directory: Path, settings: Mapping[str, str], services: Sequence[str]) -> None:
    main = "".join(f"{name} = {value}\n" for name, value in settings.items())
    (directory / "etc" / "main.cf").write_text(main)
    (directory / "etc" / "master.cf").write_text("\n".join([*services, *_INTERNAL_SERVICES, ""]))
    # Postfix looks for this beside main.cf; the lab's map types are built in.
    (directory / "etc" / "dynamicmaps.cf").write_text("")


#: Postfix's own services (master(5)), none in a chroot.
_INTERNAL_SERVICES = (
    "cleanup unix n - n - 0 cleanup",
    "qmgr unix n - n 300 1 qmgr",
    "tlsmgr unix - - n 1000? 1 tlsmgr",
    "rewrite unix - - n - - trivial-rewrite",
    "bounce unix - - n - 0 bounce",
    "defer unix - - n - 0 bounce",
    "trace unix - - n - 0 bounce",
    "verify unix - - n - 1 verify",
    "flush unix n - n 1000? 0 flush",
    "proxymap unix - - n - - proxymap",
    "smtp unix - - n - - smtp",
    "error unix - - n - - error",
    "retry unix - - n - - error",
    "discard unix - - n - - discard",
    "virtual unix - n n - - virtual",
    "anvil unix - - n - 1 anvil",
    "scache unix - - n - 1 scache",
    "postlog unix-dgram n - n - 1 postlogd",
)


def _inet(port: int, program: str) -> str:
    return f"{port} inet n - n - - {program}"


def _nexthop(address: Address, port: int) -> str:
    return f"smtp:[{address}]:{port}" if address.version == 4 else f"smtp:[ipv6:{address}]:{port}"


def _write_map(path: Path, entries: Mapping[str, str]) -> None:
    path.write_text("".join(f"{left} {right}\n" for left, right in entries.items()))
