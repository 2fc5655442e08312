"""pppd over a line on which the modem has said CONNECT: its options, its process, why it ended.

pppd gets no connect script: the agent has dialled. Name and password are in a file of mode 0600, never in argv. The
interface has a name of the agent's choosing; the default route is the agent's, with its metric (see `line`). pppd lives
in a session of its own and outlives the agent; the next one adopts it by its pid file.
"""

import os
import re
import signal
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from linux.files import write_durably
from router_agent.modem.at import BAUD

PROGRAM = Path("/usr/sbin/pppd")

#: An LCP echo each minute costs about 1 MB a month; three unanswered end the call.
_ECHO_S = 60
_ECHO_FAILURES = 3
#: Most networks want any name at all.
_ANY_NAME = "kyoten"
_LOG_TAIL_BYTES = 20_000
#: A log past this is set aside before the next call: it lies in memory.
LOG_MAX_BYTES = 256 * 1024
#: How a call begins in the log.
_CALL = "kyoten: a call at"

#: pppd(8), EXIT STATUS: what a person can do something about.
REASONS = {
    1: "fatal", 2: "options", 3: "not-root", 4: "no-ppp-in-kernel", 5: "stopped", 6: "serial-port-busy",
    7: "serial-port", 8: "dial", 10: "no-agreement", 11: "peer-refused", 12: "idle", 13: "time-limit",
    15: "line-dead", 16: "no-carrier", 17: "loopback", 19: "login-refused",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Login:
    """Name and password for the network; empty: it wants none."""

    user: str = ""
    password: str = ""


def options(interface: str, login: Login, log: Path) -> str:
    """pppd's options file. Raises ValueError: a name or password with a line end in it."""
    for text in (login.user, login.password):
        if set(text) & set("\r\n\0"):
            raise ValueError("line end in a name or password")
    lines = [
        "nodetach",
        "modem",
        "nolock",
        f"ifname {interface}",
        f"logfile {log}",
        "noauth",
        "hide-password",
        f"user {_quoted(login.user or _ANY_NAME)}",
        f"password {_quoted(login.password or _ANY_NAME)}",
        "noipdefault",
        "ipcp-accept-local",
        "ipcp-accept-remote",
        "noipv6",
        # The agent makes the default route; Debian's scripts would change resolv.conf and routes.
        "nodefaultroute",
        "ip-up-script /bin/true",
        "ip-down-script /bin/true",
        "usepeerdns",
        # The kernel may lack the compressors, and networks offer none.
        "noccp",
        "novj",
        f"lcp-echo-interval {_ECHO_S}",
        f"lcp-echo-failure {_ECHO_FAILURES}",
        "maxfail 1",
    ]
    return "".join(f"{line}\n" for line in lines)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@dataclass(frozen=True, slots=True)
class Ended:
    """``reason``: a word of REASONS or ``status N``. ``total_bytes``: both directions, None: pppd did not say."""

    reason: str
    total_bytes: int | None


class Call(Protocol):
    """What carries IP over a modem's call."""

    @property
    def pid(self) -> int | None:
        """The running process, one that an earlier agent started, too."""
        ...

    def start(self, device: str, login: Login) -> None:
        """Hand the line over; the caller keeps it open until the call is up, or the modem would hang up.

        Raises OSError: the program is missing, or a file cannot be written. Raises ValueError as `options` does.
        """
        ...

    def ended(self) -> Ended:
        """Why it ended and what it carried; after `pid` was None."""
        ...

    def hang_up(self) -> None:
        """Ask it to end the call; `pid` tells when it has."""
        ...

    def kill(self) -> None:
        """For one that does not end."""
        ...


class PppProcess:
    """One pppd, living in ``directory``: options, pid file, log."""

    def __init__(self, directory: Path, interface: str) -> None:
        self._directory = directory
        self._options = directory / "pppd.options"
        self._log = directory / "pppd.log"
        self._pid_file = directory / "pppd.pid"
        self._interface = interface
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        if self._child is not None:
            return self._child.pid if self._child.poll() is None else None
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            return None
        return pid if str(self._options) in command else None

    def start(self, device: str, login: Login) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        write_durably(self._options, options(self._interface, login, self._log).encode())
        self._begin_log()
        self._child = subprocess.Popen(
            [str(PROGRAM), device, str(BAUD), "file", str(self._options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._pid_file.write_text(str(self._child.pid))

    def ended(self) -> Ended:
        status = None if self._child is None else self._child.poll()
        self._child = None
        self._pid_file.unlink(missing_ok=True)
        reason = "unknown" if status is None else REASONS.get(status, f"status {status}")
        found = re.findall(r"Sent (\d+) bytes, received (\d+) bytes", self._tail())
        return Ended(reason, sum(map(int, found[-1])) if found else None)

    def dns(self) -> tuple[IPv4Address, ...]:
        """The name servers that the network offered for this call."""
        found = re.findall(r"(?:primary|secondary)\s+DNS address (\d+\.\d+\.\d+\.\d+)", self._tail())
        return tuple(dict.fromkeys(map(IPv4Address, found)))

    def hang_up(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def _begin_log(self) -> None:
        """pppd appends: what whoever reads along has not seen yet of the call before stays."""
        if self._log.exists() and self._log.stat().st_size > LOG_MAX_BYTES:
            self._log.rename(self._log.with_name(f"{self._log.name}.1"))
        with self._log.open("ab") as stream:
            stream.write(f"{_CALL} {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n".encode())

    def _tail(self) -> str:
        """What the last call has said, or the end of it."""
        try:
            with self._log.open("rb") as stream:
                stream.seek(max(0, self._log.stat().st_size - _LOG_TAIL_BYTES))
                return stream.read().decode(errors="replace").rpartition(_CALL)[2]
        except OSError:
            return ""
