"""One AT command, one answer (ITU-T V.250), over a serial line. Blocks: used in the modem's own thread only.

What pyserial raises ends here: a modem that is gone raises ModemLostError, one that does not answer ModemSilentError.
Never logs what it sends: a PIN passes through here.
"""

import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import serial

from router_agent.errors import AgentError
from router_agent.modem.answers import error_code
from router_agent.modem.lines import Kind, LineReader, kind

#: Any rate will do on USB; a UART's modem adapts itself to it.
BAUD = 115200

#: How long most commands may take; section 5 of 27.007 names none, makers say up to a few seconds.
ANSWER_S = 5.0
#: A read returns after this long without a byte.
_READ_S = 0.1
_WRITE_S = 2.0
_READ_BYTES = 4096
#: No answer is longer. A modem that babbles is as good as silent.
_ANSWER_MAX_LINES = 100


class ModemSilentError(AgentError):
    """The modem's fault: no result code in time."""


class ModemLostError(AgentError):
    """The device is gone, or cannot be opened."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``lines``: what came before the result code ``final``."""

    lines: tuple[str, ...]
    final: str

    @property
    def ok(self) -> bool:
        """Whether it is OK or CONNECT."""
        return self.final == "OK" or self.final.startswith("CONNECT")

    @property
    def error(self) -> int | None:
        """The number of a +CME ERROR."""
        return error_code(self.final)


class Port(Protocol):
    """A serial line. Each call raises ModemLostError when the device is gone."""

    def read(self) -> bytes:
        """What has come; nothing after a tenth of a second of silence."""
        ...

    def write(self, data: bytes) -> None:
        """Send all of it. Raises ModemSilentError: the modem takes no more bytes."""
        ...

    def discard(self) -> None:
        """Forget what has come and was not read."""
        ...

    def drop_dtr(self, for_s: float) -> bool:
        """Let DTR fall and rise; False: this line has none."""
        ...

    def close(self) -> None:
        """Give the device back."""
        ...


class SerialPort:
    """The real one."""

    def __init__(self, device: str) -> None:
        self._device = device
        try:
            self._serial = serial.Serial(device, BAUD, timeout=_READ_S, write_timeout=_WRITE_S, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as error:
            raise self._lost(error) from error

    def read(self) -> bytes:
        try:
            first = bytes(self._serial.read(1))
            return first + bytes(self._serial.read(min(self._serial.in_waiting, _READ_BYTES))) if first else b""
        # TypeError: pyserial's, when the device is taken away while it reads.
        except (serial.SerialException, OSError, TypeError) as error:
            raise self._lost(error) from error

    def write(self, data: bytes) -> None:
        try:
            self._serial.write(data)
        except serial.SerialTimeoutException:
            raise ModemSilentError("agent.modem-silent", device=self._device) from None
        except (serial.SerialException, OSError) as error:
            raise self._lost(error) from error

    def discard(self) -> None:
        try:
            self._serial.reset_input_buffer()
        except (serial.SerialException, OSError, termios.error) as error:
            raise self._lost(error) from error

    def drop_dtr(self, for_s: float) -> bool:
        try:
            self._serial.dtr = False
            time.sleep(for_s)
            self._serial.dtr = True
        except (serial.SerialException, OSError):
            return False
        return True

    def close(self) -> None:
        try:
            self._serial.close()
        except (serial.SerialException, OSError):
            pass  # it is gone: that is what was wanted

    def _lost(self, error: Exception) -> ModemLostError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ModemLostError("agent.modem-absent", device=self._device, reason=reason[:120])


class AtChannel:
    """Commands over one port, one after the other."""

    def __init__(self, port: Port, device: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._port = port
        self._device = device
        self._clock = clock
        self._reader = LineReader()

    def ask(self, command: str, *, timeout_s: float | None = None) -> Answer:
        """Send a command and wait for its result code; what comes unasked in between is passed over.

        Raises ModemSilentError and ModemLostError. An error code of the modem is an answer.
        """
        self._drain()
        self._port.write(command.encode("ascii") + b"\r")
        deadline = self._clock() + (ANSWER_S if timeout_s is None else timeout_s)
        lines: list[str] = []
        while self._clock() < deadline and len(lines) < _ANSWER_MAX_LINES:
            for line in self._reader.feed(self._port.read()):
                match kind(line, command):
                    case Kind.FINAL:
                        return Answer(tuple(lines), line)
                    case Kind.INFORMATION:
                        lines.append(line)
                    case _:
                        pass
        raise ModemSilentError("agent.modem-silent", device=self._device)

    def tell(self, command: str) -> None:
        """Send a command to a modem that may not answer; the answer is not waited for."""
        self._drain()
        self._port.write(command.encode("ascii") + b"\r")

    def drop_dtr(self, for_s: float) -> bool:
        """Let DTR fall and rise: a modem ends a call or resets (V.250 section 6.2.9, AT&D)."""
        return self._port.drop_dtr(for_s)

    def _drain(self) -> None:
        """What came late or unasked is no answer to what is sent next."""
        self._port.discard()
        self._reader.clear()
