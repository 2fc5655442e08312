"""The charon process: start it with its own configuration, find one that runs, end it.

charon runs in a session of its own, so that it outlives the daemon that started it: a restart of ours drops no
tunnel. Who it is stands in a pid file; a pid that now belongs to another program is not taken for it.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from linux.dataplane import Dataplane
from linux.errors import CharonUnavailableError, ProgramMissingError

PROGRAM = Path("/usr/sbin/charon-systemd")

#: charon answers on vici within this many seconds of its start, or something is wrong.
START_TIMEOUT_S = 30.0

#: kdf: without it key derivation fails in 5.9.8. kernel-libipsec: ESP in user space, where the kernel has none.
PLUGINS = (
    "random nonce kdf aes sha1 sha2 hmac pem pkcs1 pkcs8 x509 revocation constraints pubkey openssl gcm curve25519 "
    "addrblock {esp}kernel-netlink socket-default vici updown"
)

#: A log is set aside at this size, and one that was set aside is kept: a router's /run is memory.
LOG_MAX_BYTES = 1_000_000

#: Level 1: what came up, what was refused and why. ``ike_name``: each line has the number of its IKE_SA, so that lines
#: of attempts at the same time can be told apart.
LOG_FORM = {"default": "1", "time_format": "%FT%T", "ike_name": "yes"}

Section = Mapping[str, "str | Section"]

#: Settings that charon 5.9.8 looks up each time it needs them, so that reading its file anew is enough. All others it
#: reads at its start (src/libcharon: receiver.c, ike_sa_manager.c, daemon.c; the plugins' constructors).
RELOADABLE = (
    "filelog.", "half_open_timeout", "close_ike_on_child_failure", "delete_rekeyed", "retransmit_tries",
    "retransmit_timeout", "retransmit_base", "retransmit_jitter", "retransmit_limit", "keep_alive", "make_before_break",
)  # fmt: skip


def strongswan_conf(directory: Path, dataplane: Dataplane, options: Section) -> str:
    """The text of strongswan.conf for a charon that lives in ``directory``; ``options`` go into its main section.

    Options: https://docs.strongswan.org/docs/5.9/config/strongswanConf.html
    """
    main: dict[str, str | Section] = {
        "load": PLUGINS.format(esp="kernel-libipsec " if dataplane is Dataplane.USERLAND else ""),
        "plugins": {"vici": {"socket": f"unix://{socket_path(directory)}"}},
        "journal": {"default": "-1"},
        # Without flush_line a quiet log looks empty.
        "filelog": {"main": {"path": str(directory / "charon.log"), "flush_line": "yes", **LOG_FORM}},
        **options,
    }
    return _render({"charon-systemd": main}, 0)


def _render(section: Section, depth: int) -> str:
    indent = "  " * depth
    lines = []
    for key, value in section.items():
        if isinstance(value, str):
            lines.append(f"{indent}{key} = {value}\n")
        else:
            lines.append(f"{indent}{key} {{\n{_render(value, depth + 1)}{indent}}}\n")
    return "".join(lines)


def settings_of(text: str) -> dict[str, str]:
    """The settings in a text of `strongswan_conf`, by their path without the outermost section."""
    found: dict[str, str] = {}
    path: list[str] = []
    for line in text.splitlines():
        word = line.strip()
        if word.endswith("{"):
            path.append(word[:-1].strip())
        elif word == "}":
            path.pop()
        elif " = " in word:
            key, _, value = word.partition(" = ")
            found[".".join([*path[1:], key])] = value
    return found


def need_restart(started: str, wanted: str) -> tuple[str, ...]:
    """Settings that differ and that charon takes only at its start."""
    before, after = settings_of(started), settings_of(wanted)
    differing = (key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key))
    return tuple(key for key in differing if not key.startswith(RELOADABLE))


def _accepts(socket_file: Path) -> bool:
    """The file is there a moment before charon listens on it."""
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.connect(str(socket_file))
        except OSError:
            return False
    return True


def socket_path(directory: Path) -> Path:
    """Where a charon that lives in ``directory`` listens for vici."""
    return directory / "charon.vici"


class CharonProcess:
    """One charon, living in ``directory``: strongswan.conf, vici socket, pid file, log."""

    def __init__(self, directory: Path, configuration: str) -> None:
        self._directory = directory
        self._configuration = configuration
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        """Where it lives."""
        return self._directory

    @property
    def pid(self) -> int | None:
        """The process id of the running charon, or None."""
        ended = self._child is not None and self._child.poll() is not None  # reaps it when it has died
        try:
            pid = int((self._directory / "charon.pid").read_text())
            if self._child is not None and pid == self._child.pid:
                # Its name is not asked for: the kernel sets it a moment after it has told that the exec worked.
                return None if ended else pid
            alive = Path(f"/proc/{pid}/comm").read_text().strip() == PROGRAM.name[:15]
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            return None
        return pid if alive and state != "Z" else None

    def ensure(self) -> bool:
        """Start charon unless it runs; True when it was started. Returns once its vici socket is there.

        Raises ProgramMissingError and CharonUnavailableError.
        """
        if not self.begin():
            return False
        self.wait()
        return True

    def begin(self) -> bool:
        """Start charon unless it runs, and do not wait for it: see `wait`. True when it was started.

        Raises ProgramMissingError.
        """
        if self.pid is not None:
            return False
        self._directory.mkdir(parents=True, exist_ok=True)
        configuration = self._directory / "strongswan.conf"
        configuration.write_text(self._configuration)
        (self._directory / "strongswan.conf.started").write_text(self._configuration)
        socket_file = socket_path(self._directory)
        socket_file.unlink(missing_ok=True)
        environment = {**os.environ, "STRONGSWAN_CONF": str(configuration)}
        environment.pop("NOTIFY_SOCKET", None)
        with (self._directory / "charon.err").open("ab") as errors:
            try:
                process = subprocess.Popen(
                    [str(PROGRAM)],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise ProgramMissingError(PROGRAM.name) from None
        self._child = process
        (self._directory / "charon.pid").write_text(str(process.pid))
        return True

    def wait(self) -> None:
        """Wait until charon's vici socket is there. Raises CharonUnavailableError: it ended, or is not in time."""
        socket_file = socket_path(self._directory)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _accepts(socket_file):
            if self.pid is None or time.monotonic() > deadline:
                raise CharonUnavailableError(f"charon did not start; see {self._directory / 'charon.err'}")
            time.sleep(0.02)

    def refresh(self) -> bool:
        """Write the configuration for a charon that runs; True when it changed: then `Charon.reload_settings`."""
        file, started = self._directory / "strongswan.conf", self._directory / "strongswan.conf.started"
        present = file.read_text() if file.exists() else ""
        if not started.exists():
            started.write_text(present)
        if present == self._configuration:
            return False
        file.write_text(self._configuration)
        return True

    def need_restart(self) -> tuple[str, ...]:
        """Settings in which the running charon differs from its configuration until it is started anew."""
        try:
            started = (self._directory / "strongswan.conf.started").read_text()
        except FileNotFoundError:
            return ()
        return need_restart(started, self._configuration)

    def used_s(self) -> float:
        """Processor time that the running charon has used, in seconds; 0 when none runs."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        # utime and stime, fields 14 and 15 (proc(5)); the part before ")" held the first two.
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self, *, timeout_s: float = 5.0) -> None:
        """End charon at once: one that hangs does not listen to anything else."""
        self._end((signal.SIGKILL,), timeout_s)

    def set_log_aside(self) -> bool:
        """Rename a log past `LOG_MAX_BYTES` to ``charon.log.1``, replacing an older one; whether it did so.

        charon goes on writing to the renamed file until `Charon.reopen_log`.
        """
        log = self._directory / "charon.log"
        try:
            if log.stat().st_size < LOG_MAX_BYTES:
                return False
        except FileNotFoundError:
            return False
        log.rename(log.with_suffix(".log.1"))
        return True

    def stop(self, *, timeout_s: float = 5.0) -> None:
        """End charon: politely, so that it tells its peers, then by force."""
        self._end((signal.SIGTERM, signal.SIGKILL), timeout_s)

    def _end(self, signals: tuple[signal.Signals, ...], timeout_s: float) -> None:
        pid = self.pid
        if pid is None:
            return
        for number in signals:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            deadline = time.monotonic() + timeout_s
            while time.monotonic() < deadline:
                if self.pid is None:
                    return
                time.sleep(0.02)
