"""One connection: aiosmtpd with its traps closed.

Invariants: our own faults are 4xx and exception text never leaves the process; memory is bounded whatever is sent; only
CRLF.CRLF ends a mail; what came with STARTTLS in the clear is thrown away; a disconnect does not undo a commit under
way. aiosmtpd gives the commands and their syntax; reading, timing, mail data, TLS and AUTH are ours, and what its
constructor finds out about a class is found out once a door and not once a connection.
"""

import re
from collections.abc import Sequence

import structlog
from aiosmtpd.smtp import Envelope

from cloudside.errors import KyotenError
from cloudside.mail.address import path
from cloudside.mail.intake.doors import Door
from cloudside.mail.intake.mailing import Mailing
from cloudside.mail.intake.replies import status_for
from cloudside.mail.intake.wire import FINISHING, LINE_MAX_BYTES, Gone

log = structlog.get_logger(__name__)

UNKNOWN_COMMANDS_MAX = 5

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
#: What a browser says that was lured here (cross-protocol scripting).
_FOREIGN = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "HOST:"})


class Server(Mailing):
    """One connection through a door."""

    def __init__(self, door: Door) -> None:
        super().__init__(door)
        self._unknown_left = UNKNOWN_COMMANDS_MAX

    # The conversation.

    async def _handle_client(self) -> None:
        try:
            if self._door.implicit_tls:
                await self._encrypt()
            await self.push(self._door.greeting)
            while True:
                line = await self._line(LINE_MAX_BYTES)
                self._active_at = self.loop.time()
                await self._obey(line)
                if self._finishing:
                    await self._dismiss(FINISHING.decode())
        except (Gone, ConnectionError):
            pass
        except Exception as error:  # a bug of ours must not leave the connection standing
            log.error("smtp-session-fault", source=self.source, error=type(error).__name__, exc_info=error)
        finally:
            self._leave()

    async def _obey(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        if _CONTROL.search(line) or not line.isascii() or not word:
            self._count_command()
            await self.push("500 5.5.2 Error: bad syntax")
            return
        command = word.upper().decode("ascii")
        method = self._door.commands.get(command)
        if method is None:
            await self._refuse_unknown(command)
            return
        self._commands_left -= 1
        if self._commands_left < 0:
            await self._dismiss("421 4.7.0 Too many commands without a mail, closing")
        argument = rest.decode("ascii").strip() or None
        try:
            await method(self, argument)
        except (Gone, ConnectionError):
            raise
        except Exception as error:
            await self.push(await self.handle_exception(error))

    async def _refuse_unknown(self, command: str) -> None:
        self._unknown_left -= 1
        # After BDAT comes the mail, which must not be read as commands.
        if command in _FOREIGN or command == "BDAT" or self._unknown_left < 1:
            known = "502 5.5.1 BDAT is not offered" if command == "BDAT" else "502 5.5.1 Too many unrecognized commands"
            await self._dismiss(f"{known}, goodbye")
        await self.push("500 5.5.1 Error: command not recognized")

    async def handle_exception(self, error: Exception) -> str:
        if not isinstance(error, KyotenError):
            log.error("smtp-session-fault", source=self.source, error=type(error).__name__, exc_info=error)
        return status_for(error)

    def _getparams(self, params: Sequence[str]) -> dict[str, str | bool] | None:
        # RFC 4954 section 5: whoever offers AUTH takes this parameter, and need not believe it.
        return super()._getparams([one for one in params if not one.startswith("AUTH=")])

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        found = path(arg)
        return (None, None) if found is None else found

    # Commands.

    async def smtp_EHLO(self, hostname: str | None) -> None:
        if not hostname:
            await self.push("501 5.5.4 Syntax: EHLO hostname")
            return
        self.envelope = Envelope()
        self.session.extended_smtp = True
        self.session.host_name = hostname
        offered = [self.hostname, "PIPELINING", f"SIZE {self.data_size_limit}", "8BITMIME"]
        if self._door.certificates is not None and not self.encrypted:
            offered.append("STARTTLS")
        offered.extend(self.offered())
        offered.append("HELP")
        await self.push("\r\n".join([*(f"250-{one}" for one in offered[:-1]), f"250 {offered[-1]}"]))

    def offered(self) -> list[str]:
        """More words for EHLO."""
        return []

    async def smtp_QUIT(self, arg: str | None) -> None:
        if arg:
            await self.push("501 5.5.4 Syntax: QUIT")
        else:
            await self._dismiss("221 2.0.0 Bye")

    async def smtp_AUTH(self, arg: str | None) -> None:
        await self.push("502 5.5.1 There is no login here")

    async def smtp_VRFY(self, arg: str | None) -> None:
        await self.push("252 2.5.2 Cannot verify, but will take mail and try")

    async def smtp_EXPN(self, arg: str | None) -> None:
        await self.push("502 5.5.1 EXPN is not offered")
