"""Real packets between hosts: does a new flow from A reach B?

Each host that can be a target runs a responder (TCP and UDP on the given ports; ICMP echo is the kernel's). A prober
runs on the source host, tries all its targets at once, and reports which answered. Silence for `WAIT_S` over several
attempts is "blocked"; nothing is taken from a return code of a program that guessed.
"""

import asyncio
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from lab.network import Host, LabError, Process, wait_until

#: A probe is given up after this many seconds; a datagram is sent anew every `RESEND_S` meanwhile.
WAIT_S = 1.6
RESEND_S = 0.5
PROBERS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to try: ``protocol`` is tcp, udp or icmp (echo request; ``port`` is 0 then)."""

    address: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Probe:
    """A target tried from a host, optionally from a source address that is not its own."""

    source: Host
    target: Target


def start_responder(host: Host, *, tcp: Iterable[int], udp: Iterable[int]) -> Process:
    """Answer on these ports of every address of the host."""
    ports = json.dumps({"tcp": sorted(tcp), "udp": sorted(udp)})
    process = host.start("responder", [sys.executable, "-m", "lab.probes", "respond", ports])
    wait_until(f"responder on {host.name}", lambda: "ready" in process.tail(), timeout_s=15)
    return process


def run(probes: Sequence[Probe]) -> list[bool]:
    """Try every probe; the answers in the same order."""
    by_source: dict[str, tuple[Host, list[int]]] = {}
    for number, probe in enumerate(probes):
        by_source.setdefault(probe.source.name, (probe.source, []))[1].append(number)
    answers = [False] * len(probes)

    def probe_from(source: Host, numbers: list[int]) -> None:
        targets = [asdict(probes[number].target) for number in numbers]
        ended = source.run([sys.executable, "-m", "lab.probes", "probe"], stdin=json.dumps(targets), timeout_s=60)
        results = json.loads(ended.stdout)
        if len(results) != len(numbers):
            raise LabError(f"prober on {source.name} answered {len(results)} of {len(numbers)}")
        for number, result in zip(numbers, results, strict=True):
            answers[number] = result

    with ThreadPoolExecutor(PROBERS_AT_ONCE) as pool:
        for done in [pool.submit(probe_from, source, numbers) for source, numbers in by_source.values()]:
            done.result()
    return answers


def send_forged(host: Host, *, source: str, target: str, port: int, token: str) -> None:
    """Send one UDP datagram from ``host`` under a source address that is not its own."""
    host.run([sys.executable, "-m", "lab.probes", "forge", source, target, str(port), token])


def heard(host: Host, token: str) -> bool:
    """Whether the responder on ``host`` received a datagram with this content."""
    return token.encode().hex() in host.processes["responder"].log.read_text()


def connections(host: Host) -> int:
    """How many TCP connections the responder on ``host`` has accepted."""
    return host.processes["responder"].log.read_text().count("connection from")


# --- what runs on the hosts ---


async def _try_tcp(address: str, port: int) -> bool:
    try:
        async with asyncio.timeout(WAIT_S):
            _reader, writer = await asyncio.open_connection(address, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


class _Echo(asyncio.DatagramProtocol):
    """Resolves ``answered`` when the token comes back."""

    def __init__(self, token: bytes, answered: "asyncio.Future[bool]") -> None:
        self.token = token
        self.answered = answered

    def datagram_received(self, data: bytes, addr: object) -> None:
        if data == self.token and not self.answered.done():
            self.answered.set_result(True)

    def error_received(self, exc: Exception) -> None:
        pass  # "port unreachable" or "administratively prohibited": not an answer


async def _try_udp(address: str, port: int) -> bool:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bool] = loop.create_future()
    token = os.urandom(12)
    try:
        transport, _ = await loop.create_datagram_endpoint(lambda: _Echo(token, answered), remote_addr=(address, port))
    except OSError:
        return False
    try:
        return await _resend(lambda: transport.sendto(token), answered)
    finally:
        transport.close()


async def _try_icmp(address: str) -> bool:
    """An echo request over a raw socket (RFC 792)."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bool] = loop.create_future()
    identity, token = struct.unpack("!H", os.urandom(2))[0], os.urandom(12)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.setblocking(False)

        def received() -> None:
            packet, (sender, _) = raw.recvfrom(2048)
            header = (packet[0] & 0x0F) * 4
            kind, _code, _sum, echoed, _seq = struct.unpack("!BBHHH", packet[header : header + 8])
            ours = kind == 0 and echoed == identity and sender == address and packet[header + 8 :] == token
            if ours and not answered.done():
                answered.set_result(True)

        def send() -> None:
            body = struct.pack("!BBHHH", 8, 0, 0, identity, 1) + token
            body = struct.pack("!BBHHH", 8, 0, _checksum(body), identity, 1) + token
            raw.sendto(body, (address, 0))

        loop.add_reader(raw, received)
        try:
            return await _resend(send, answered)
        finally:
            loop.remove_reader(raw)


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


async def _resend(send: Callable[[], object], answered: "asyncio.Future[bool]") -> bool:
    deadline = time.monotonic() + WAIT_S
    while (left := deadline - time.monotonic()) > 0:
        try:
            send()
        except OSError:
            return False  # no route: the host itself knows it cannot be reached
        try:
            return await asyncio.wait_for(asyncio.shield(answered), min(RESEND_S, left))
        except TimeoutError:
            continue
    return False


async def _probe_all(targets: list[Target]) -> list[bool]:
    def attempt(target: Target) -> "asyncio.Future[bool]":
        if target.protocol == "tcp":
            return asyncio.ensure_future(_try_tcp(target.address, target.port))
        if target.protocol == "udp":
            return asyncio.ensure_future(_try_udp(target.address, target.port))
        return asyncio.ensure_future(_try_icmp(target.address))

    return list(await asyncio.gather(*(attempt(target) for target in targets)))


class _Responder(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        sys.stdout.write(f"{data.hex()} from {addr}\n")
        sys.stdout.flush()
        self.transport.sendto(data, addr)  # type: ignore[attr-defined]


def _forge(source: str, target: str, port: int, token: bytes) -> None:
    """An IPv4 header (RFC 791) of our own making; the kernel fills length and checksum, UDP's checksum 0 means none."""
    datagram = struct.pack("!HHHH", port, port, 8 + len(token), 0) + token
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(header + datagram, (target, 0))


async def _respond(ports: dict[str, list[int]]) -> None:
    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sys.stdout.write(f"connection from {writer.get_extra_info('peername')}\n")
        sys.stdout.flush()
        writer.close()

    loop = asyncio.get_running_loop()
    for port in ports["tcp"]:
        await asyncio.start_server(accept, "0.0.0.0", port)
    for port in ports["udp"]:
        await loop.create_datagram_endpoint(_Responder, local_addr=("0.0.0.0", port))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "respond":
        asyncio.run(_respond(json.loads(sys.argv[2])))
    elif sys.argv[1] == "forge":
        _forge(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5].encode())
    else:
        wanted = [Target(**entry) for entry in json.load(sys.stdin)]
        json.dump(asyncio.run(_probe_all(wanted)), sys.stdout)
