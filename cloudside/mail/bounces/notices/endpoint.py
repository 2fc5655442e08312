"""The HTTPS door for notices. Composition: an ASGI application over the recorder.

The answers steer Amazon SNS: 2xx is done; 4xx is given up at once, for what no repetition makes better; 5xx and 429
come again, for what is our fault or has not been seen yet. Bodies are bounded and read a few at a time from one
address, and an address that sends forgeries again and again is not listened to for a while.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cloudside.errors import InputError, KyotenError, RefusedError, UnavailableError
from cloudside.mail.bounces import verp
from cloudside.mail.bounces.notices import envelope, ses
from cloudside.mail.bounces.notices.certificates import Certificates
from cloudside.mail.bounces.notices.envelope import Envelope
from cloudside.mail.bounces.rates import Rate
from cloudside.mail.bounces.recording import Recorder
from cloudside.mail.message import one_line
from cloudside.mail.model import Original

log = structlog.get_logger(__name__)

#: Bodies that are being read at once, in total and from one address: what they can hold is bounded, and whoever sends
#: slowly takes no place from others. More get 503 and come again.
READING_MAX = 64
READING_PER_SOURCE_MAX = 8
#: Posts that are worked on at once; each holds its body a few times over.
WORKING_MAX = 4
#: Forged or malformed posts a minute from one address before the others of it get 429. Foreign topics do not count:
#: whoever subscribes us to one sends from the same addresses of Amazon's as our own topics do.
REFUSALS_PER_MINUTE = 30.0
#: A notice can overtake the commit that notes SES's id of the mail. Until the mail is this old it is asked for again.
OVERTAKES_S = 900.0
BODY_S = 20.0


@dataclass(slots=True)
class NoticeDoor:
    """Takes notices of ``topics`` only. ``keys`` and ``domain`` are those of our return addresses."""

    topics: tuple[str, ...]
    certificates: Certificates
    recorder: Recorder
    keys: Sequence[bytes]
    domain: str
    clock: Callable[[], float] = time.time
    _refusals: Rate = field(default_factory=lambda: Rate(REFUSALS_PER_MINUTE, int(REFUSALS_PER_MINUTE)))
    _reading: Counter[str] = field(default_factory=Counter)
    _working: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WORKING_MAX))

    async def answer(self, request: Request) -> Response:
        """One post."""
        source = request.client.host if request.client is not None else "unknown"
        if not self._refusals.allows(source, time.monotonic()):
            return PlainTextResponse("too many refused notices", status_code=429)
        if self._reading.total() >= READING_MAX or self._reading[source] >= READING_PER_SOURCE_MAX:
            return PlainTextResponse("busy", status_code=503)
        self._reading[source] += 1
        try:
            raw = await _body(request)
            if raw is None:
                self._refusals.take(source, time.monotonic())
                return PlainTextResponse("too large", status_code=413)
            async with self._working:
                # A client that leaves cancels us, not the commit.
                await asyncio.shield(asyncio.ensure_future(self.take(raw)))
        except (ClientDisconnect, TimeoutError):
            return PlainTextResponse("the body did not come", status_code=408)
        except UnavailableError as error:
            log.warning("notice-postponed", source=source, reason=error.key, detail=dict(error.params))
            return PlainTextResponse("not now", status_code=503)
        except (InputError, RefusedError) as error:
            if error.key != "bounces.notice-topic":
                self._refusals.take(source, time.monotonic())
            log.warning("notice-refused", source=source, reason=error.key, detail=dict(error.params))
            return PlainTextResponse("refused", status_code=400 if isinstance(error, InputError) else 403)
        except Exception as error:  # ours: it comes again, and its text stays here
            key = error.key if isinstance(error, KyotenError) else type(error).__name__
            log.error("notice-fault", source=source, reason=key, exc_info=error)
            return PlainTextResponse("a fault on our side", status_code=500)
        finally:
            self._reading[source] -= 1
            if not self._reading[source]:
                del self._reading[source]
        return PlainTextResponse("noted")

    async def take(self, raw: bytes) -> None:
        """Check and take down one post.

        Raises InputError, RefusedError: not to be believed; UnavailableError: nothing was taken down, to be repeated.
        """
        post = envelope.parse(raw)
        if post.topic not in self.topics:
            raise RefusedError("bounces.notice-topic", topic=one_line(post.topic, 200))
        envelope.verify(post, await self.certificates.key(post.certificate_url))
        if post.kind == envelope.CONFIRM:
            await self.certificates.confirm(post.subscribe_url, post.topic)
            log.info("subscription-confirmed", topic=post.topic)
        elif post.kind == envelope.CANCELLED:
            log.warning("subscription-cancelled", topic=post.topic)
        else:
            await self._note(post)

    async def _note(self, post: Envelope) -> None:
        notice = ses.read(post.message)
        if notice is None:
            log.info("notice-without-mail", topic=post.topic)
            return
        for index, known in await self._mails(notice):
            told = _about(notice, known[1])
            if told is not None:
                await self.recorder.record(known, index, told.report, self.clock())

    async def _mails(self, notice: ses.Notice) -> list[tuple[int, tuple[Original, str]]]:
        """Which of our mails it is about: by the signed return address, or by SES's id of it."""
        address = verp.parse(notice.source, keys=self.keys, domain=self.domain)
        pairs: tuple[tuple[int, int], ...] = ()
        if address is not None:
            pairs = ((address.message_id, address.index),)
        else:
            pairs = await self.recorder.queue.by_remote_id(notice.remote_id)
        found = []
        for message_id, index in pairs:
            known = await self.recorder.known(message_id, index)
            if known is not None:
                found.append((index, known))
        if not found:
            if not pairs and 0 <= self.clock() - notice.sent_at < OVERTAKES_S:
                raise UnavailableError("bounces.message-unseen", remote_id=one_line(notice.remote_id, 100))
            log.info("notice-for-forgotten-message", remote_id=one_line(notice.remote_id, 100))
        return found


def _about(notice: ses.Notice, recipient: str) -> ses.Told | None:
    """What is said of this recipient. One mail has one, so a name that forwarding has changed is the same."""
    named = [told for told in notice.told if told.address == recipient.lower()]
    return next(iter(named or notice.told), None)


def application(door: NoticeDoor) -> Starlette:
    """Takes posts at any path; everything else is 405."""

    async def answer(request: Request) -> Response:
        return await door.answer(request)

    return Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])])


async def _body(request: Request) -> bytes | None:
    """The body; None: larger than allowed. Raises ClientDisconnect, TimeoutError."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:12]) > envelope.BODY_MAX_BYTES:
        return None
    body = bytearray()
    async with asyncio.timeout(BODY_S):
        async for piece in request.stream():
            body += piece
            if len(body) > envelope.BODY_MAX_BYTES:
                return None
    return bytes(body)
