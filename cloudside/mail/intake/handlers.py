"""Taking mail of clients we know: who sends, what that one may, and 250 after the queue's commit.

5xx is the client's fault and says which rule it broke; what is ours, or passes by itself, is 4xx.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from aiosmtpd.smtp import MISSING, Envelope, Session

from cloudside.errors import RefusedError, UnavailableError
from cloudside.mail.address import mailbox, permitted, routed, valid
from cloudside.mail.intake import urgency
from cloudside.mail.intake.directory import Directory
from cloudside.mail.intake.gate import Rate
from cloudside.mail.intake.listener import Server
from cloudside.mail.intake.mailing import Incoming
from cloudside.mail.intake.origins import Origin
from cloudside.mail.intake.replies import REFUSED_FULL
from cloudside.mail.message import RECEIVED_MAX, Prepared, Trace, prepare
from cloudside.mail.metrics import Metrics
from cloudside.mail.model import Kind, LimitExceededError, NewMessage, Receipt, shown_id
from cloudside.mail.store.engine import StorageFullError
from cloudside.mail.watch.sightings import Sight, Sightings

log = structlog.get_logger(__name__)

#: SES takes 50 recipients a message; we send one at a time, so this only bounds what one command sequence can cost.
RECIPIENTS_MAX = 100
RATE_PER_MINUTE = 600

REFUSED_REGISTRY = "451 4.3.0 The register of sites cannot be read now, try again later"


@dataclass(frozen=True, slots=True)
class Client:
    """Who sends. ``device`` is a user name or an address; ``senders`` and ``recipients`` empty: any."""

    origin: Origin
    device: str
    senders: frozenset[str]
    recipients: frozenset[str]


class Taking(Protocol):
    """The queue, as far as taking mail needs it; it may be in another process."""

    def require_space(self, size_bytes: int) -> None:
        """Raise StorageFullError unless a mail of this size fits."""
        ...

    async def accept(self, new: NewMessage) -> Receipt | None:
        """Make a mail durable; None: it is, and the queue's receipt comes later.

        Raises LimitExceededError, StorageFullError, UnavailableError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reception:
    """What a handler needs to take mail. ``accepted`` is called when new mail waits for delivery."""

    queue: Taking
    directory: Directory
    host_name: str
    domain: str
    accepted: Callable[[], None]
    urgent: tuple[urgency.Rule, ...] = ()
    recipients_max: int = RECIPIENTS_MAX
    rate: Rate = field(default_factory=lambda: Rate(RATE_PER_MINUTE))
    metrics: Metrics = field(default_factory=Metrics)
    sightings: Sightings = field(default_factory=Sightings)


class AcceptedLog:
    """The line in the log about each mail that was taken."""

    def __init__(self) -> None:
        # Bound once: looking up how to log takes as long as logging.
        self._log = log.bind()

    def __call__(self, new: NewMessage, receipt: Receipt) -> None:
        """Write it."""
        self._log.info(
            "mail-accepted",
            message=shown_id(new.id),
            origin=new.origin,
            device=new.device,
            source=new.source,
            recipients=len(new.recipients),
            size=new.size,
            hour_count=receipt.hour_count,
            held=receipt.held,
            urgent=new.urgent,
        )


class SiteHandler:
    """Takes mail of sites and cloud servers known by their tunnel address."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._log_accepted = AcceptedLog()

    def client(self, server: Server, session: Session) -> Client:
        """Who sends. Raises RefusedError, UnavailableError (no snapshot)."""
        origin = self._reception.directory.snapshot.origin_at(server.source)
        return Client(origin, server.source, origin.senders, origin.recipients)

    def place(self, source: str) -> str:
        """Whose connections are counted together: a site's, whichever of its addresses they come from.

        A device on a LAN can take any of its site's addresses: by address one site could take all places.
        """
        try:
            origin = self._reception.directory.snapshot.find(source)
        except UnavailableError:
            return source
        return source if origin is None or origin.revoked else origin.name

    def old_tls(self, source: str) -> bool:
        """Whether the site at this address may use TLS 1.0 and 1.1."""
        try:
            origin = self._reception.directory.snapshot.find(source)
        except UnavailableError:
            return False
        return origin is not None and origin.old_tls and not origin.revoked

    def saw_old_tls(self, source: str, version: str) -> None:
        """Somebody used it."""
        place = self.place(source)
        log.warning("old-tls", origin=place, source=source, version=version)
        self._reception.sightings.saw(Sight.OLD_TLS, place, source, time.time(), version)

    async def handle_MAIL(
        self, server: Server, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> Any:
        """MISSING takes the sender."""
        try:
            client = self.client(server, session)
        except UnavailableError:
            return self._refused("registry", REFUSED_REGISTRY)
        except RefusedError as refusal:
            log.warning("mail-refused", reason=refusal.key, source=server.source)
            self._reception.sightings.saw(Sight.UNKNOWN_SOURCE, server.source, server.source, time.time(), refusal.key)
            return self._refused("source", "550 5.7.1 This address belongs to no site that may send mail here")
        if address != "<>" and not valid(address):
            return self._refused("sender", "553 5.1.7 Malformed sender address")
        if address != "<>" and not permitted(address, client.senders):
            log.warning("sender-refused", origin=client.origin.name, device=client.device)
            return self._refused("sender-not-allowed", "550 5.7.1 This device may not send from this address")
        if not self._reception.rate.take(client.origin.name, time.monotonic()):
            return self._refused("rate", "450 4.7.1 Too many mails in a minute, try again later")
        try:
            self._reception.queue.require_space(_declared_size(options))
        except StorageFullError:
            log.error("mail-disk-full", origin=client.origin.name)
            return self._refused("disk-full", REFUSED_FULL)
        return MISSING

    async def handle_RCPT(
        self, server: Server, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> Any:
        """MISSING takes the recipient."""
        if not valid(address):
            return self._refused("recipient", "553 5.1.3 Malformed recipient address")
        most = self._reception.recipients_max
        if len(envelope.rcpt_tos) >= most:
            return self._refused("recipients", f"452 4.5.3 More than {most} recipients, send the rest separately")
        allowed = self.client(server, session).recipients
        if not permitted(address, allowed):
            return self._refused("recipient-not-allowed", "550 5.7.1 This device may not send to this address")
        if allowed and routed(address):
            return self._refused("recipient-not-allowed", "550 5.7.1 This device may not route by % or ! in an address")
        return MISSING

    async def handle_DATA(self, server: Server, session: Session, envelope: Envelope) -> str:
        """The reply after the commit. Raises what status_for knows."""
        incoming = envelope.content
        if not isinstance(incoming, Incoming):
            raise TypeError("a door for sites needs a spool")
        client = self.client(server, session)  # again: it may have been revoked on this connection
        now = time.time()
        new_id = secrets.randbits(63)
        sender = "" if envelope.mail_from == "<>" else str(envelope.mail_from)
        trace = Trace(
            helo=str(session.host_name),
            source=server.source,
            host_name=self._reception.host_name,
            protocol=_protocol(server, session),
            message_id=shown_id(new_id),
            at=datetime.fromtimestamp(now, UTC),
        )
        prepared = prepare(incoming.head, sender=sender, trace=trace, domain=self._reception.domain)
        if prepared.received_count > RECEIVED_MAX:
            log.warning("mail-loop", origin=client.origin.name, received=prepared.received_count)
            return self._refused("loop", "554 5.4.6 This mail has been through too many servers: it loops")
        if not _from_permitted(prepared, client.senders):
            log.warning("from-refused", origin=client.origin.name, device=client.device)
            return self._refused(
                "sender-not-allowed", "550 5.7.1 This device may not send with this From: one allowed address is wanted"
            )
        snapshot = self._reception.directory.snapshot
        hold = snapshot.hold(client.origin, client.device)
        new = NewMessage(
            id=new_id,
            kind=Kind.MAIL,
            origin=client.origin.name,
            source=server.source,
            sender=sender,
            recipients=tuple(dict.fromkeys(envelope.rcpt_tos)),
            subject=prepared.subject,
            head=prepared.head,
            body=incoming.body,
            accepted_at=now,
            automatic=prepared.automatic,
            tenant=client.origin.tenant,
            device=client.device,
            urgent=urgency.urgent(self._reception.urgent, client.origin.name, prepared.subject, prepared.fields),
            held=f"hold: {hold}" if hold else "",
            limits=snapshot.limits(client.origin, client.device),
        )
        self._reception.queue.require_space(new.size)
        incoming.handed_over = True
        # A client that leaves does not cancel us: it will send again, and twice is better than never.
        return await self._commit(new, server.listener)

    async def _commit(self, new: NewMessage, listener: str) -> str:
        began = time.perf_counter()
        try:
            receipt = await self._reception.queue.accept(new)
        except LimitExceededError as error:
            return self._limited(new, error)
        except UnavailableError as error:
            log.error("mail-not-queued", message=shown_id(new.id), origin=new.origin, reason=error.key)
            self._reception.metrics.refused("queue")
            raise
        self._accepted(new, receipt, listener, time.perf_counter() - began)
        return f"250 2.0.0 Queued as {shown_id(new.id)}"

    def _accepted(self, new: NewMessage, receipt: Receipt | None, listener: str, seconds: float) -> None:
        self._reception.metrics.accepted(listener, recipients=len(new.recipients), size=new.size, seconds=seconds)
        if receipt is not None:
            if not receipt.held:
                self._reception.accepted()
            self._log_accepted(new, receipt)

    def _limited(self, new: NewMessage, error: LimitExceededError) -> str:
        scope, name = str(error.params.get("scope", "")), str(error.params.get("name", ""))
        log.warning("mail-over-limit", origin=new.origin, device=new.device, scope=scope, name=name)
        subject = f"{scope}/{name}"
        self._reception.sightings.saw(Sight.LIMIT_REFUSED, subject, new.source, time.time(), new.subject)
        return self._refused("limit", f"450 4.7.1 The mail limit of {scope} {name} is used up, try again later")

    def _refused(self, reason: str, reply: str) -> str:
        self._reception.metrics.refused(reason)
        return reply


def _from_permitted(prepared: Prepared, senders: frozenset[str]) -> bool:
    """Whether the From field is one that the client may use. A missing one was filled with the envelope's sender."""
    if not senders or not prepared.froms:
        return True
    if len(prepared.froms) > 1:
        return False
    address = mailbox(prepared.froms[0])
    return address is not None and permitted(address, senders)


def _protocol(server: Server, session: Session) -> str:
    """The words of RFC 3848."""
    if not session.extended_smtp:
        return "SMTP"
    return "ESMTP" + ("S" if server.encrypted else "") + ("A" if session.authenticated else "")


def _declared_size(options: list[str]) -> int:
    for option in options:
        name, _, value = option.partition("=")
        if name.upper() == "SIZE" and value.isdigit():
            return int(value[:12])
    return 0
