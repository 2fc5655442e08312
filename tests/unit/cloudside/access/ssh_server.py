"""An SSH server on loopback in threads: one login by key or password, commands with known behaviour."""

import socket
import threading
from contextlib import suppress
from typing import Self

import paramiko

PASSWORD = "correct horse battery"


class SshServer:
    """``with SshServer(host_key, accepted)`` listens on ``port``. Commands: cat, fail N, stderr, hang-up."""

    def __init__(self, host_key: paramiko.PKey, accepted: paramiko.PKey | None = None) -> None:
        self.host_key, self.accepted = host_key, accepted
        self.logins: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._transports: list[paramiko.Transport] = []
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        for transport in self._transports:
            transport.close()
            transport.join(5)

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listening.accept()
            except OSError:
                return
            transport = paramiko.Transport(stream)
            transport.add_server_key(self.host_key)
            self._transports.append(transport)
            try:
                transport.start_server(server=_Server(self))
            except (paramiko.SSHException, EOFError, OSError):  # a client that went away at once
                continue


class _Server(paramiko.ServerInterface):
    def __init__(self, owner: SshServer) -> None:
        self._owner = owner

    def get_allowed_auths(self, username: str) -> str:
        return "publickey,password"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self._owner.logins.append(username)
        accepted = self._owner.accepted
        return paramiko.AUTH_SUCCESSFUL if accepted is not None and key == accepted else paramiko.AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> int:
        self._owner.logins.append(username)
        return paramiko.AUTH_SUCCESSFUL if password == PASSWORD else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED if kind == "session" else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=_run, args=(channel, command.decode())).start()
        return True


def _run(channel: paramiko.Channel, command: str) -> None:
    status = 0
    if command != "hang-up":
        # The client ends its input only after it was told that the command runs: before that nothing may be closed.
        while data := channel.recv(4096):
            if command == "cat":
                channel.sendall(data)
    if command == "cat":
        pass
    elif command.startswith("fail "):
        status = int(command.split()[1])
    elif command == "stderr":
        channel.sendall_stderr(b"complaint")
    elif command == "hang-up":
        channel.get_transport().close()
        return
    else:
        channel.sendall(command.encode())
    with suppress(OSError, EOFError, paramiko.SSHException):  # the client may be gone
        channel.send_exit_status(status)
        channel.close()
