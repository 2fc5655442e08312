"""Builds the listeners for sites and devices from the configuration. Call it while the event loop runs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cloudside.config import Config
from cloudside.mail.intake import cram, urgency
from cloudside.mail.intake.directory import Directory
from cloudside.mail.intake.doors import IDLE_S, Door
from cloudside.mail.intake.gate import Gate, LoginThrottle, Rate
from cloudside.mail.intake.handlers import Reception, SiteHandler, Taking
from cloudside.mail.intake.listener import Server
from cloudside.mail.intake.passwords import Passwords
from cloudside.mail.intake.spool import Memory, Spool
from cloudside.mail.intake.submission import SubmissionHandler, SubmissionServer
from cloudside.mail.intake.tls import Certificates
from cloudside.mail.metrics import Metrics
from cloudside.mail.watch.sightings import Sightings

#: In the queue's directory: bodies of mail that is still coming in.
INCOMING = "incoming"


@dataclass(frozen=True, slots=True)
class Intake:
    """The doors, and what belongs to all of them. ``submission`` and ``tls`` need a certificate."""

    site: Door
    submission: Door | None
    tls: Door | None
    memory: Memory
    spool: Spool
    throttle: LoginThrottle
    passwords: Passwords

    def close(self) -> None:
        """End the threads, after the last connection."""
        self.passwords.close()
        self.spool.close()


def intake(
    config: Config,
    queue: Taking,
    directory: Directory,
    accepted: Callable[[], None],
    *,
    certificate: tuple[Path, Path] | None = None,
    metrics: Metrics | None = None,
    sightings: Sightings | None = None,
    idle_s: float = IDLE_S,
) -> Intake:
    """Everything that ``relay`` in the configuration says about taking mail.

    ``accepted`` is called when new mail waits. ``certificate``: the chain's and the key's PEM file. Raises
    ConfigurationError: certificate or key of CRAM-MD5 unusable.
    """
    relay = config.relay
    metrics = metrics or Metrics()
    memory = Memory()
    spool = Spool(config.queue_directory / INCOMING, spill_bytes=relay.spill_bytes, require_space=queue.require_space)
    reception = Reception(
        queue,
        directory,
        relay.host_name,
        relay.bounce_domain,
        accepted,
        urgent=urgency.compiled(relay.urgent),
        recipients_max=relay.recipients_max,
        rate=Rate(relay.rate_per_minute),
        metrics=metrics,
        sightings=sightings or Sightings(),
    )
    throttle = LoginThrottle()
    passwords = Passwords()
    seal = cram.seal(config.state_directory / "mail" / cram.FILE_NAME) if relay.cram_md5 else None
    certificates = None if certificate is None else Certificates(*certificate)

    def door(kind: type[Server], handler: SiteHandler, name: str, *, implicit_tls: bool = False) -> Door:
        return Door(
            kind,
            handler,
            name=name,
            host_name=relay.host_name,
            size_max=relay.max_message_bytes,
            gate=Gate(relay.connections_max, relay.connections_per_site),
            memory=memory,
            spool=spool,
            certificates=certificates if kind is SubmissionServer else None,
            implicit_tls=implicit_tls,
            old_tls=handler.old_tls,
            saw_old_tls=handler.saw_old_tls,
            metrics=metrics,
            idle_s=idle_s,
        )

    submission = tls = None
    if certificates is not None:
        users = SubmissionHandler(reception, throttle, passwords=passwords, seal=seal)
        submission = door(SubmissionServer, users, "submission")
        if relay.tls_listen is not None:
            tls = door(SubmissionServer, users, "tls", implicit_tls=True)
    site = door(Server, SiteHandler(reception), "site")
    return Intake(site, submission, tls, memory, spool, throttle, passwords)
