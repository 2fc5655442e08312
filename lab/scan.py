"""What answers at an address: ``python -m lab.scan ADDRESS`` in a namespace. The last line is JSON.

TCP and UDP, the ports below 1025 and those that a router's programs use above. Whatever comes back counts: a
connection, a refusal, a datagram, an ICMP error.
"""

import errno
import json
import select
import socket
import sys
import time

PORTS = (*range(1, 1025), 1701, 1723, 4500, 5353, 5355, 8080, 8443, 9100, 10000, 51820)
#: Seconds for an answer; an emulated router takes its time.
_WAIT_S = 3.0
#: At once: below a process's usual limit of open files.
_AT_ONCE = 400


def scan(address: str) -> dict[str, list[int]]:
    """Ports that were open, refused, or answered (UDP)."""
    found: dict[str, list[int]] = {"open": [], "refused": [], "answered": []}
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for start in range(0, len(PORTS), _AT_ONCE):
            _scan(address, kind, PORTS[start : start + _AT_ONCE], found)
    return found


def _scan(address: str, kind: socket.SocketKind, ports: tuple[int, ...], found: dict[str, list[int]]) -> None:
    sockets: dict[int, tuple[socket.socket, int]] = {}
    poll = select.poll()
    for port in ports:
        made = socket.socket(socket.AF_INET, kind)
        made.setblocking(False)
        made.connect_ex((address, port))
        if kind is socket.SOCK_DGRAM:
            made.send(b"\0" * 28)
        sockets[made.fileno()] = (made, port)
        poll.register(made, select.POLLIN | select.POLLOUT if kind is socket.SOCK_STREAM else select.POLLIN)
    ends = time.monotonic() + _WAIT_S
    while (left := ends - time.monotonic()) > 0:
        for number, _ in poll.poll(left * 1000):
            poll.unregister(number)
            made, port = sockets[number]
            error = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error == errno.ECONNREFUSED:
                found["refused"].append(port)
            elif error == 0:
                found["open" if kind is socket.SOCK_STREAM else "answered"].append(port)
    for made, _ in sockets.values():
        made.close()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(scan(sys.argv[1])) + "\n")
