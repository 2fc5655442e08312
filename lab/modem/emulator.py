"""The pseudo-terminal of a modem: echo, answers, hangs, garbage, resets, calls. One thread.

``link`` is a symbolic link to the terminal's device; it changes when the modem restarts in a way that takes the device
along, as USB modems do. That the last program has closed the device is what DTR falling is on a serial line.
"""

import contextlib
import errno
import os
import random
import select
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path

from lab.modem.dialogue import Dialogue
from lab.modem.peer import Peer
from lab.modem.profile import Fault, Profile

_LOOK_S = 0.02
_SLOW_BYTE_S = 0.002


class Emulator:
    """A modem at ``link``. Use as a context manager."""

    def __init__(self, link: Path, profile: Profile | None = None, *, netns: tuple[str, ...] = ()) -> None:
        self.profile = profile or Profile()
        self.commands: list[str] = []
        self.restarts = 0
        self.link = link
        self._netns = netns
        self._dialogue = Dialogue(self.profile)
        self._ended = threading.Event()
        self._wishes: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._typed = bytearray()
        self._silent_until = 0.0
        self._cure = ""
        self._peer: Peer | None = None
        self._online = False
        self._was_open = False
        self._random = random.Random(7)
        self._master = -1
        self._plug_in()
        self._thread = threading.Thread(target=self._run, name="modem-emulator", daemon=True)

    def __enter__(self) -> "Emulator":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._hang_up()
        self._pull_out()

    @property
    def contexts(self) -> list[str]:
        """What AT+CGDCONT was given."""
        return self._dialogue.contexts

    @property
    def in_call(self) -> bool:
        """Whether a call is up."""
        return self._online

    def say(self, line: str) -> None:
        """An unsolicited line, now."""
        self._wish(lambda: self._send(f"\r\n{line}\r\n".encode()))

    def reset(self) -> None:
        """Power off and on: the device goes and comes back, the SIM is locked again."""
        self._wish(self._restart)

    def drop_call(self, *, politely: bool = False) -> None:
        """The network ends the call: politely by LCP, otherwise the carrier is gone and the modem says NO CARRIER."""

        def drop() -> None:
            if self._peer is not None and politely:
                self._peer.end()
            elif self._online:
                self._hang_up()
                self._send(b"\r\nNO CARRIER\r\n")
                self._pull_out()  # the carrier detect line has fallen: whoever holds the device is told
                self._plug_in()

        self._wish(drop)

    def _wish(self, wish: Callable[[], None]) -> None:
        with self._lock:
            self._wishes.append(wish)

    def _run(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                wishes, self._wishes = self._wishes, []
            for wish in wishes:
                wish()
            peer = [] if self._peer is None else [self._peer.fileno()]
            ready, _, _ = select.select([self._master, *peer], [], [], _LOOK_S)
            if self._master in ready:
                self._take(self._read())
            if self._peer is not None and self._peer.fileno() in ready:
                self._from_network()

    def _read(self) -> bytes:
        try:
            data = os.read(self._master, 4096)
        except BlockingIOError:  # opened or closed since select
            return b""
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            if self._was_open:  # the last one has closed it: DTR falls
                self._was_open = False
                self._cured("dtr")
                self._hang_up()
                self._typed.clear()
            time.sleep(_LOOK_S)
            return b""
        self._was_open = True
        return data

    def _take(self, data: bytes) -> None:
        if self._online and b"+++" in data:
            self._hang_up()
            self._send(b"\r\nOK\r\n")
        elif self._online:
            if self._peer is not None:
                self._peer.write(data)
        else:
            self._typed += data
            while b"\r" in self._typed:
                line, _, rest = bytes(self._typed).partition(b"\r")
                self._typed[:] = rest
                self._command(line.decode("latin-1").strip("\n").removeprefix("+++"))

    def _command(self, command: str) -> None:
        self.commands.append(command)
        if command == "ATZ":
            self._cured("atz")
        if command == "AT+CFUN=1,1":
            self._cured("cfun")
            if self._mute:
                return
            self._send(b"\r\nOK\r\n")
            self._restart()
            return
        if self._mute:
            return
        if self._dialogue.echo:
            self._send(command.encode("latin-1") + b"\r")
        strikes = [fault for fault in self.profile.faults if fault.strikes(command)]
        lines = self._dialogue.answer(command)
        for fault in strikes:
            if fault.hang_s or fault.cure:
                self._silent_until = time.monotonic() + fault.hang_s
                self._cure = fault.cure
                return
            if fault.vanish_s:
                self._vanish(fault.vanish_s)
                return
            if fault.reset:
                self._restart()
                return
            lines = self._spoil(fault, lines)
        self._send("".join(f"\r\n{line}\r\n" for line in lines).encode(), slow=any(one.slow for one in strikes))
        if lines[-1].startswith("CONNECT"):
            self._online = True
            if self.profile.call == "connect":
                self._peer = Peer(self.profile, self.link.parent, prefix=self._netns)

    def _spoil(self, fault: Fault, lines: list[str]) -> list[str]:
        for line in fault.unsolicited:
            self._send(f"\r\n{line}\r\n".encode())
        if fault.garbage:
            self._send(self._random.randbytes(fault.garbage))
        return fault.answer or lines

    @property
    def _mute(self) -> bool:
        return bool(self._cure) or time.monotonic() < self._silent_until

    def _cured(self, by: str) -> None:
        if self._cure == by:
            self._cure = ""

    def _restart(self) -> None:
        self._cured("hook")
        self.restarts += 1
        self._vanish(self.profile.boot_s)
        self._dialogue.restart()
        self._typed.clear()
        self._silent_until = 0.0

    def _vanish(self, for_s: float) -> None:
        self._hang_up()
        self._pull_out()
        self._ended.wait(for_s)
        self._plug_in()

    def _from_network(self) -> None:
        assert self._peer is not None
        data = self._peer.read()
        if data:
            self._send(data)
        elif not self._peer.running:
            self._hang_up()
            self._send(b"\r\nNO CARRIER\r\n")

    def _hang_up(self) -> None:
        self._online = False
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def _send(self, data: bytes, *, slow: bool = False) -> None:
        with contextlib.suppress(OSError):  # nobody listens, or too slowly: lost
            for piece in [data[i : i + 1] for i in range(len(data))] if slow else [data]:
                os.write(self._master, piece)
                if slow:
                    time.sleep(_SLOW_BYTE_S)

    def _plug_in(self) -> None:
        self._master, terminal = os.openpty()
        os.set_blocking(self._master, False)
        tty.setraw(terminal)
        device = os.ttyname(terminal)
        os.close(terminal)
        self._was_open = False
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(device)

    def _pull_out(self) -> None:
        self.link.unlink(missing_ok=True)
        os.close(self._master)
        self._master = -1
