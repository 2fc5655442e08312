"""The conversation with the cloud: when to speak, what to say, what to make of the answer. Runs in the main loop; the
network is the courier's."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from router_agent.bundle import Endpoint, Enrolment
from router_agent.errors import AgentError, CloudUnreachableError
from router_agent.problems import Problem, ProblemBoard
from router_agent.report.cloud import Heard
from router_agent.report.courier import CertificateErrand, Courier, HeartbeatErrand, LogErrand, Outcome
from router_agent.report.documents import DesiredSettings, Heartbeat
from router_agent.report.schedule import Schedule

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Contact:
    """Monotonic seconds. ``heard_at``: last answer. ``tunnel_began_at``: when the last heartbeat that an endpoint in
    the tunnel answered was written. ``skew_s``: how far our clock was ahead of the cloud's then, None: it did not say.
    ``renew``: the cloud wants this router to fetch another certificate. ``timezone``: the site's; empty:
    not heard yet."""

    heard_at: float | None = None
    tunnel_began_at: float | None = None
    skew_s: float | None = None
    renew: bool = False
    timezone: str = ""


class Reporting:
    """``compose`` writes a heartbeat; ``offer`` takes the settings that the cloud wants; ``certificates`` takes what
    became of a request for a certificate; ``heard`` takes each answer with the way it came, for everything else."""

    def __init__(
        self,
        courier: Courier,
        enrolment: Enrolment,
        board: ProblemBoard,
        *,
        compose: Callable[[float], Heartbeat],
        offer: Callable[[DesiredSettings, float], None],
        certificates: Callable[[Mapping[str, bytes] | AgentError, float], None],
        heard: Callable[[Heard, float], None],
        now: float,
    ) -> None:
        self._courier = courier
        self._endpoints = enrolment.endpoints
        self._cloud_interval_s = enrolment.heartbeat_s
        self._board = board
        self._compose = compose
        self._offer = offer
        self._certificates = certificates
        self._told = heard
        self._tunnel_up = False
        self._schedule = Schedule(due_at=now)
        self._requested: set[str] = set()
        self.contact = Contact()

    @property
    def interval_s(self) -> float:
        """Seconds between heartbeats as the cloud wants them."""
        return self._cloud_interval_s

    def hurry(self, now: float) -> None:
        """There is news for the cloud."""
        self._schedule = self._schedule.hurry(now)

    def step(self, now: float, *, interval_s: float | None, tunnel_up: bool, roll: float) -> None:
        """Take in what came back, send what is due. ``interval_s`` overrides what the cloud asked for."""
        self._tunnel_up = tunnel_up
        every_s = interval_s or self._cloud_interval_s
        for outcome in self._courier.outcomes():
            self._take(outcome, now, every_s, roll)
        if now >= self._schedule.due_at and not self._courier.busy:
            self._schedule = self._schedule.sent(now, every_s, roll)
            document = self._compose(now).document()
            self._courier.send(HeartbeatErrand(document, self.endpoints(tunnel_up), began_at=now))

    def ask_for_certificate(self, csr: str) -> None:
        """Send a request for the next certificate; `certificates` hears what became of it."""
        self._courier.send(CertificateErrand(csr, self.endpoints(self._tunnel_up)))

    def endpoints(self, tunnel_up: bool) -> tuple[Endpoint, ...]:
        """Where to try, in order: inside the tunnel first; without a tunnel only outside, so the cloud hears why."""
        inside = tuple(endpoint for endpoint in self._endpoints if endpoint.in_tunnel)
        outside = tuple(endpoint for endpoint in self._endpoints if not endpoint.in_tunnel)
        return (*inside, *outside) if tunnel_up or not outside else outside

    def _take(self, outcome: Outcome, now: float, every_s: float, roll: float) -> None:
        errand = outcome.errand
        if isinstance(errand, CertificateErrand):
            self._certificates(outcome.files or outcome.error or {}, now)
        elif isinstance(errand, LogErrand):
            self._requested.discard(errand.request.id)
            if outcome.error is None:
                _log.info("log %s handed over", errand.request.id)
            else:
                _log.warning("log %s not handed over: %s", errand.request.id, outcome.error)
                params = {"id": errand.request.id, "reason": str(outcome.error)[:200]}
                self._board.note("log", Problem("agent.log-request-failed", params), now=now)
        elif outcome.heard is not None:
            self._heard(errand, outcome.heard, now)
        elif outcome.error is not None:
            if self._board.set("cloud", Problem.of(outcome.error)):
                _log.warning("heartbeat: %s", outcome.error)
            if isinstance(outcome.error, CloudUnreachableError):
                self._schedule = self._schedule.failed(now, every_s, roll)

    def _heard(self, errand: HeartbeatErrand, heard: Heard, now: float) -> None:
        if self._board.set("cloud") or self.contact.heard_at is None:
            _log.info("the cloud answers at %s", heard.endpoint.address)
        inside = errand.began_at if heard.endpoint.in_tunnel else self.contact.tunnel_began_at
        renew = heard.answer.renew_certificate
        zone = heard.answer.timezone
        self.contact = Contact(heard_at=now, tunnel_began_at=inside, skew_s=heard.skew_s, renew=renew, timezone=zone)
        wrong = heard.clock_wrong()
        self._board.set("clock", *(() if wrong is None else (Problem.of(wrong),)))
        answer = heard.answer
        self._cloud_interval_s = answer.heartbeat_s
        if answer.settings is not None:
            self._offer(answer.settings, now)
        for request in answer.log_requests:
            if request.id not in self._requested:
                self._requested.add(request.id)
                self._courier.send(LogErrand(request, (heard.endpoint,)))
        self._told(heard, now)
