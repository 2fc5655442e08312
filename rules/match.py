"""How a service is written for the kernel: as entries of a set with ports, or as a match of a rule's own."""

from collections.abc import Iterable
from dataclasses import dataclass

from rules.model import ICMP_STARTING, SELECTOR_MAX, Protocol, Service
from rules.services import merged

#: A range of at most this many ports is written into the sets; ipset stores each port of each network by itself, so a
#: wider one becomes a rule that compares the range and asks a set of networks.
EXPAND_MAX_PORTS = 16
#: What ipset calls some ICMP types and codes when it gives them back; it takes the names too.
_ICMP_NAMES = {8 * 256: "echo-request", 13 * 256: "timestamp-request", 17 * 256: "address-mask-request"}


@dataclass(frozen=True, slots=True)
class Form:
    """How services are written: ``whole`` for any, ``entries`` for sets with ports, ``wide`` for rules of their own."""

    whole: bool
    entries: tuple[str, ...]
    wide: tuple[Service, ...]


def form(services: Iterable[Service]) -> Form:
    together = merged(services)
    parts = [part for service in together for part in _parts(service)]
    entries = tuple(entry for part in parts if _expands(part) for entry in _set_entries(part))
    wide = tuple(part for part in parts if not _expands(part))
    return Form(any(service.protocol is Protocol.ANY for service in together), entries, wide)


def _parts(service: Service) -> Iterable[Service]:
    """The service in pieces that a rule or a few entries can say: of ICMP a type that starts something, or all."""
    if service.protocol in (Protocol.TCP, Protocol.UDP):
        yield service
    elif service.protocol is Protocol.ICMP:
        if _is_all(service):
            yield service
            return
        for kind in sorted(ICMP_STARTING.intersection(range(service.low // 256, service.high // 256 + 1))):
            low, high = max(service.low, kind * 256), min(service.high, kind * 256 + 255)
            yield Service(Protocol.ICMP, low, high)


def _expands(part: Service) -> bool:
    """Whether the part goes into a set value by value."""
    if _is_all(part):
        return False
    width = part.high - part.low + 1
    if part.protocol is Protocol.ICMP:
        return width < 256
    return width <= EXPAND_MAX_PORTS


def _is_all(service: Service) -> bool:
    return (service.low, service.high) == (0, SELECTOR_MAX)


def _set_entries(part: Service) -> Iterable[str]:
    """Port parts of hash:net,port entries, one each; ipset keeps ICMP's type and code where the port stands."""
    for selector in range(part.low, part.high + 1):
        if part.protocol is Protocol.ICMP:
            yield f"icmp:{_ICMP_NAMES.get(selector, f'{selector // 256}/{selector % 256}')}"
        else:
            yield f"{part.protocol.name.lower()}:{selector}"


def range_match(part: Service) -> str:
    name = part.protocol.name.lower()
    if _is_all(part):
        return f"-p {name}"
    if part.protocol is Protocol.ICMP:
        return f"-p icmp -m icmp --icmp-type {part.low // 256}"
    return f"-p {name} -m {name} --dport {part.low}:{part.high}"
