"""Probes through one line: ICMP echo, and TCP connects where that is not answered. Never blocking.

Each socket is bound to the line's device (SO_BINDTODEVICE), so a probe takes that line or none. Carriers that drop ICMP
mostly pass TCP; a refused connection is an answer as well. An ICMP answer counts only from an address that was asked
and with the token that went out, so nobody off the path can make a dead line look alive.
"""

import contextlib
import errno
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from router_agent.bundle import Address

#: asm-generic/socket.h: when the kernel received a packet. Our own clock would measure our own pace.
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@ll")
#: linux/icmp.h: deliver only these types. A raw socket gets a copy of every ICMP packet otherwise.
_SOL_RAW, _ICMP_FILTER = 255, 1
_ICMPV6_FILTER = 1

_ECHO = {4: (8, 0), 6: (128, 129)}
_HEADER = struct.Struct("!BBHHH")
_TOKEN_BYTES = 8

_SENT = (0, errno.EINPROGRESS)
_ANSWERED = (0, errno.ECONNREFUSED)

#: Of so many probes the answers are waited for; older ones are lost.
_REMEMBERED = 16


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers while the cloud is there. ``ports``: where a TCP connect is answered, or refused."""

    address: Address
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """``rtt_s`` is None where it was not measured (TCP)."""

    address: Address
    rtt_s: float | None


@dataclass(frozen=True, slots=True)
class _Sent:
    """``at``: monotonic seconds; ``at_ns``: by the clock that the kernel stamps packets with."""

    address: Address
    token: bytes
    at: float
    at_ns: int


@dataclass(slots=True)
class _Attempt:
    address: Address
    socket: socket.socket
    began: float


@dataclass(slots=True)
class LineProbe:
    """The probes of one line; ``interface`` is its device. Times are monotonic seconds."""

    interface: str
    _sockets: dict[int, socket.socket] = field(default_factory=dict)
    _sent: dict[int, _Sent] = field(default_factory=dict)
    _attempts: list[_Attempt] = field(default_factory=list)
    _sequence: int = 0
    _identifier: int = field(default_factory=lambda: secrets.randbelow(65536))

    def ask(self, target: Target, *, now: float, connect: bool) -> None:
        """Send one echo request to the target; with ``connect`` try its TCP ports, too. What cannot be sent has no
        answer."""
        with contextlib.suppress(OSError):
            self._echo(target.address, now)
        if connect:
            for port in target.ports:
                self._connect(target.address, port, now)

    def answers(self, now: float, *, wait_s: float) -> list[Answer]:
        """What has come back since the last call; connects older than ``wait_s`` are given up."""
        found: list[Answer] = []
        for version, listening in self._sockets.items():
            with contextlib.suppress(OSError):
                found.extend(self._received(version, listening, now))
        found.extend(self._connected(now, wait_s))
        return found

    def close(self) -> None:
        """Give all sockets back; the next question makes new ones."""
        for one in (*self._sockets.values(), *(attempt.socket for attempt in self._attempts)):
            one.close()
        self._sockets.clear()
        self._attempts.clear()
        self._sent.clear()

    def _echo(self, target: Address, now: float) -> None:
        if target.version not in self._sockets:
            self._sockets[target.version] = _raw_socket(target.version, self.interface)
        self._sequence = (self._sequence + 1) % 65536
        token = os.urandom(_TOKEN_BYTES)
        request, _ = _ECHO[target.version]
        packet = _HEADER.pack(request, 0, 0, self._identifier, self._sequence) + token
        if target.version == 4:  # for ICMPv6 the kernel does it (RFC 3542 section 3.1)
            packet = _HEADER.pack(request, 0, checksum(packet), self._identifier, self._sequence) + token
        self._sent[self._sequence] = _Sent(target, token, now, time.time_ns())
        while len(self._sent) > _REMEMBERED:
            self._sent.pop(next(iter(self._sent)))
        self._sockets[target.version].sendto(packet, (str(target), 0))

    def _received(self, version: int, listening: socket.socket, now: float) -> Iterator[Answer]:
        while True:
            try:
                packet, extras, _, sender = listening.recvmsg(512, 128)
            except BlockingIOError:
                return
            if version == 4 and packet:
                packet = packet[(packet[0] & 0x0F) * 4 :]  # IPv4 raw sockets deliver the IP header, too
            if len(packet) < _HEADER.size or packet[0] != _ECHO[version][1]:
                continue
            sent = self._sent.get(_HEADER.unpack_from(packet)[4])
            if sent is not None and sender[0] == str(sent.address) and packet[_HEADER.size :] == sent.token:
                self._sent = {number: one for number, one in self._sent.items() if one is not sent}
                yield Answer(sent.address, _round_trip_s(extras, sent.at_ns, at_most_s=now - sent.at))

    def _connect(self, target: Address, port: int, now: float) -> None:
        attempt = socket.socket(socket.AF_INET if target.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        attempt.setblocking(False)
        try:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.interface.encode())
            # Closing sends a reset: nothing is left waiting on either side.
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if attempt.connect_ex((str(target), port)) in (*_SENT, *_ANSWERED):
                self._attempts.append(_Attempt(target, attempt, now))
                return
        except OSError:
            pass
        attempt.close()

    def _connected(self, now: float, wait_s: float) -> list[Answer]:
        if not self._attempts:
            return []
        _, writable, _ = select.select([], [attempt.socket for attempt in self._attempts], [], 0)
        found, waiting = [], []
        for attempt in self._attempts:
            if attempt.socket in writable:
                if attempt.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in _ANSWERED:
                    found.append(Answer(attempt.address, None))
            elif now - attempt.began <= wait_s:
                waiting.append(attempt)
                continue
            attempt.socket.close()
        self._attempts = waiting
        return found


def checksum(packet: bytes) -> int:
    """The Internet checksum (RFC 1071) of a packet of an even number of bytes whose checksum field is zero."""
    total: int = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def targets_of(addresses: Sequence[Address], ports: dict[Address, tuple[int, ...]]) -> tuple[Target, ...]:
    """One target an address, in order, each once."""
    return tuple(Target(address, ports.get(address, ())) for address in dict.fromkeys((*addresses, *ports)))


def _raw_socket(version: int, interface: str) -> socket.socket:
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    made = socket.socket(family, socket.SOCK_RAW, protocol)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        wanted = _ECHO[version][1]
        if version == 4:
            made.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("@I", ~(1 << wanted) & 0xFFFFFFFF))
        else:
            blocked = [0xFFFFFFFF] * 8
            blocked[wanted >> 5] &= ~(1 << (wanted & 31))
            made.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, struct.pack("@8I", *blocked))
    except OSError:
        made.close()
        raise
    return made


def _round_trip_s(extras: Sequence[tuple[int, int, bytes]], sent_ns: int, *, at_most_s: float) -> float:
    """By the kernel's time of arrival; by our own where the clock was set in between."""
    for level, kind, value in extras:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(value) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(value)
            measured_s = (seconds * 1_000_000_000 + nanoseconds - sent_ns) / 1e9
            if 0 <= measured_s <= at_most_s + 0.001:
                return float(measured_s)
    return at_most_s
