"""Builds the sending half from the configuration."""

from collections.abc import Sequence
from typing import Protocol

from cloudside.config import Config
from cloudside.errors import ConfigurationError, UnavailableError
from cloudside.mail.bounces import dsn
from cloudside.mail.bounces.recording import notify_of
from cloudside.mail.delivery.conversation import Patience
from cloudside.mail.delivery.delivery import Delivery, Waiting
from cloudside.mail.delivery.pacer import Pacer
from cloudside.mail.delivery.sending import ReturnPath, Sender
from cloudside.mail.delivery.ses import SesAccount
from cloudside.mail.delivery.settling import Ledger, Schedule, Settler
from cloudside.mail.delivery.signing import Signer
from cloudside.mail.delivery.smarthost import Sessions, Smarthost
from cloudside.mail.delivery.supply import SupplyWatch
from cloudside.mail.intake.directory import Directory
from cloudside.mail.intake.origins import Suppressed
from cloudside.mail.metrics import Metrics


class Book(Waiting, Ledger, Protocol):
    """The queue, as far as delivery needs it."""


def delivery(
    config: Config,
    queue: Book,
    directory: Directory,
    *,
    keys: Sequence[bytes],
    voice: dsn.Voice,
    metrics: Metrics | None = None,
    patience: Patience | None = None,
) -> Delivery:
    """Everything that `relay` in the configuration says about sending.

    ``directory`` knows suppressed addresses and sites' addresses for notices; the first of ``keys`` signs return
    addresses. Raises ConfigurationError: no smarthost, no credentials, no usable DKIM key.
    """
    relay = config.relay

    def suppressed(tenant: str, address: str) -> Suppressed | None:
        try:
            return directory.snapshot.suppressed(tenant, address)
        except UnavailableError:  # never read: what waits was taken when it could be, and goes out
            return None

    sessions = Sessions(smarthost(config), relay.host_name, patience)
    signer = None if relay.dkim is None else Signer(relay.dkim.domain, relay.dkim.selector, relay.dkim.key)
    supply = None
    if relay.ses is not None:
        ses = relay.ses
        endpoint = ses.endpoint or f"https://email.{ses.region}.amazonaws.com"
        account = SesAccount(endpoint, ses.region, ses.credentials, ses.ca)
        supply = SupplyWatch(account, poll_s=ses.poll_s, reserve_pct=ses.reserve_pct, language=voice.language)
    metrics = metrics or Metrics()
    schedule = Schedule(relay.retry_first_s, relay.retry_later_s, relay.give_up_s)
    settler = Settler(queue, schedule, voice, notify=notify_of(directory), metrics=metrics)
    made = Delivery(
        queue,
        sessions,
        Sender(sessions, ReturnPath(keys, relay.bounce_domain), signer),
        settler,
        connections=relay.smarthost_connections,
        longest_rest_s=relay.retry_first_s,
        pacer=Pacer(relay.smarthost_rate),
        supply=supply,
        suppressed=suppressed,
        metrics=metrics,
    )
    settler.on_reports(made.wake)
    return made


def smarthost(config: Config) -> Smarthost:
    """Where mail goes out. Raises ConfigurationError."""
    relay = config.relay
    if not relay.smarthost:
        raise ConfigurationError("mail.no-smarthost")
    if relay.smarthost_tls and relay.smarthost_credentials is None:
        raise ConfigurationError("mail.no-credentials")
    return Smarthost(
        relay.smarthost, relay.smarthost_port, relay.smarthost_credentials, relay.smarthost_ca, relay.smarthost_tls
    )
