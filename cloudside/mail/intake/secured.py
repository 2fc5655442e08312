"""TLS on a connection: by STARTTLS or from the first byte. What was said in the clear before it is thrown away."""

import asyncio
import ssl
from typing import Any

import structlog
from aiosmtpd.smtp import Envelope

from cloudside.mail.intake.tls import OLD_VERSIONS
from cloudside.mail.intake.wire import Gone, Wire

log = structlog.get_logger(__name__)

HANDSHAKE_S = 30.0


class Secured(Wire):
    """A connection that TLS can be put under."""

    async def smtp_STARTTLS(self, arg: str | None) -> None:
        if arg:
            await self.push("501 5.5.4 Syntax: STARTTLS")
        elif self._door.certificates is None:
            await self.push("502 5.5.1 TLS is not offered here")
        elif self.encrypted:
            await self.push("503 5.5.1 TLS is there already")
        else:
            await self.push("220 2.0.0 Ready to start TLS")
            await self._encrypt()

    async def _encrypt(self) -> None:
        """Put TLS under the connection and forget what was said before (RFC 3207 section 4.2)."""
        certificates, transport = self._door.certificates, self.transport
        if certificates is None or transport is None or self._lost:
            raise Gone
        if self._input and not self._door.implicit_tls:
            # Whoever sits in the middle puts commands here that would count as said under TLS (CVE-2011-0411).
            log.warning("commands-with-starttls", source=self.source, octets=len(self._input))
            self._door.metrics.refused("starttls-injection")
            self._input.clear()
        if self._paused:
            self._paused = False
            transport.resume_reading()
        old = self._door.old_tls(self.source)
        upgrade: Any = self.loop.start_tls(
            transport,
            self,
            certificates.context(old=old),
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_S,
        )
        try:
            if self._door.implicit_tls:
                # The client's first words came to us, or may have come. Nothing does once start_tls has begun.
                upgrade = self.loop.create_task(upgrade)
                await asyncio.sleep(0)
                first, self._input = bytes(self._input), bytearray()
                self.loop.call_soon(_pass_on, transport.get_protocol(), first)  # after its connection_made
            secured = await upgrade
        except (OSError, ssl.SSLError) as error:
            log.info("tls-handshake-failed", source=self.source, reason=type(error).__name__)
            self._door.metrics.refused("tls")
            transport.close()
            raise Gone from error
        if secured is None:
            raise Gone
        self.transport = secured
        self.secured = secured.get_extra_info("ssl_object")
        self.session = self._create_session()
        self.session.peer = secured.get_extra_info("peername")
        self.envelope = Envelope()
        version = self.secured.version() if self.secured is not None else None
        if version in OLD_VERSIONS:
            self._door.saw_old_tls(self.source, str(version))


def _pass_on(protocol: Any, data: bytes) -> None:
    """Give a TLS protocol what came before it was there."""
    view = memoryview(data)
    while view:
        room = protocol.get_buffer(len(view))
        count = min(len(room), len(view))
        room[:count] = view[:count]
        protocol.buffer_updated(count)
        view = view[count:]
