"""What a person sees of an SSH channel: a shell on their terminal, or one command with its input and output.

Bytes pass unchanged in both directions; the far side's exit status is ours.
"""

import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from shlex import join
from typing import BinaryIO

import paramiko

from cloudside.errors import UnavailableError

_CHUNK_BYTES = 32_768
#: Seconds between looks at a channel that shows no sign.
_LOOK_S = 0.5
#: What paramiko raises when the far side goes away, by where it notices.
_BROKEN = (paramiko.SSHException, EOFError, OSError)
#: paramiko's exit status when the connection ended before the far side said one.
_NO_STATUS = -1


def run_command(
    transport: paramiko.Transport,
    name: str,
    command: Sequence[str],
    *,
    stdin: int | None,
    stdout: BinaryIO,
    stderr: BinaryIO,
) -> int:
    """Run ``command`` there; its exit status. One word is a shell line as typed, several are quoted word by word.

    ``stdin`` is a file descriptor or None for no input. Raises UnavailableError: it broke off.
    """
    try:
        channel = transport.open_session(timeout=15)
        channel.exec_command(command[0] if len(command) == 1 else join(command))
    except _BROKEN as error:
        raise UnavailableError("access.broke-off", target=name) from error
    return _pump(channel, name, stdin, stdout, stderr)


def run_shell(transport: paramiko.Transport, name: str) -> int:
    """A shell on this terminal until it ends; its exit status. Raises UnavailableError: it broke off."""
    size = shutil.get_terminal_size()
    try:
        channel = transport.open_session(timeout=15)
        channel.get_pty(os.environ.get("TERM", "xterm"), size.columns, size.lines)
        channel.invoke_shell()
    except _BROKEN as error:
        raise UnavailableError("access.broke-off", target=name) from error
    with _raw_terminal(channel):
        return _pump(channel, name, sys.stdin.fileno(), sys.stdout.buffer, sys.stderr.buffer)


@contextmanager
def _raw_terminal(channel: paramiko.Channel) -> Iterator[None]:
    # Keys go over as they are (Ctrl-C is the far side's), and the window's size follows the person's.
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    kept = termios.tcgetattr(descriptor)

    def resized(_signal: int, _frame: object) -> None:
        size = shutil.get_terminal_size()
        channel.resize_pty(size.columns, size.lines)

    before = signal.signal(signal.SIGWINCH, resized)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, kept)
        signal.signal(signal.SIGWINCH, before)


def _pump(channel: paramiko.Channel, name: str, stdin: int | None, stdout: BinaryIO, stderr: BinaryIO) -> int:
    reading = stdin
    if reading is None:
        channel.shutdown_write()
    while True:
        # One select for both directions; the channel's descriptor becomes readable for data, stderr and the end alike.
        waited = [channel.fileno(), *([] if reading is None else [reading])]
        ready, _, _ = select.select(waited, [], [], _LOOK_S)
        moved = _copy(channel, stdout, stderr)
        if reading is not None and reading in ready:
            data = os.read(reading, _CHUNK_BYTES)
            try:
                if data:
                    channel.sendall(data)
                else:
                    channel.shutdown_write()
            except OSError:  # the far side has closed; what it still has to say is read below
                data = b""
            reading = reading if data else None
        if not moved and (channel.closed or (channel.eof_received and channel.exit_status_ready())):
            break
    _copy(channel, stdout, stderr)
    status = channel.recv_exit_status()
    channel.close()
    if status == _NO_STATUS:
        raise UnavailableError("access.broke-off", target=name)
    return status


def _copy(channel: paramiko.Channel, stdout: BinaryIO, stderr: BinaryIO) -> bool:
    moved = False
    while channel.recv_ready():
        stdout.write(channel.recv(_CHUNK_BYTES))
        stdout.flush()
        moved = True
    while channel.recv_stderr_ready():
        stderr.write(channel.recv_stderr(_CHUNK_BYTES))
        stderr.flush()
        moved = True
    return moved
