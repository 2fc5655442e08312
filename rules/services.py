"""Named and numeric services, and arithmetic on sets of them.

Numbers of building protocols: IANA's registry (BACnet/IP 47808, KNXnet/IP 3671, Modbus/TCP 502, LonWorks/IP 1628-1629,
OPC UA 4840, Niagara Fox 1911 and 4911).
"""

import re
from collections.abc import Iterable, Mapping

from rules.model import SELECTOR_MAX, Protocol, Service

ANY = Service(Protocol.ANY)
PING = (Service(Protocol.ICMP, 8 * 256, 8 * 256), Service(Protocol.ICMPV6, 128 * 256, 128 * 256))


def _tcp(*ports: int) -> tuple[Service, ...]:
    return tuple(Service(Protocol.TCP, port, port) for port in ports)


def _udp(low: int, high: int | None = None) -> tuple[Service, ...]:
    return (Service(Protocol.UDP, low, high or low),)


#: Services that every policy may name.
BUILT_IN: Mapping[str, tuple[Service, ...]] = {
    "any": (ANY,),
    "bacnet-ip": _udp(47808),
    "dns": _tcp(53) + _udp(53),
    "http": _tcp(80),
    "https": _tcp(443),
    "knxnet-ip": _udp(3671),
    "lonworks-ip": _udp(1628, 1629),
    "modbus-tcp": _tcp(502),
    "niagara-fox": _tcp(1911, 4911),
    "ntp": _udp(123),
    "opc-ua": _tcp(4840),
    "ping": PING,
    "rdp": _tcp(3389) + _udp(3389),
    "smtp": _tcp(25),
    "snmp": _udp(161),
    "snmp-trap": _udp(162),
    "ssh": _tcp(22),
    "vnc": _tcp(5900),
}

#: What no service of one's own may be called.
PROTOCOLS = ("tcp", "udp", "icmp", "icmpv6")

#: ICMP messages that start something (errors and replies pass with the flow they belong to), as (type, code).
_ICMP_NAMES = {"echo-request": (8, 0), "timestamp-request": (13, 0)}
_ICMPV6_NAMES = {"echo-request": (128, 0)}

_PORTS = re.compile(r"(tcp|udp)(?:/([0-9]{1,5})(?:-([0-9]{1,5}))?)?")
_ICMP = re.compile(r"(icmp|icmpv6)(?:/([a-z-]+|[0-9]{1,3})(?:/([0-9]{1,3}))?)?")


def numeric(text: str) -> Service | None:
    """``tcp/80``, ``udp/1628-1629``, ``tcp``, ``icmp/echo-request``, ``icmp/3/1``, ``icmp``; None if none of them.

    Raises ValueError: the form is right and a number is not (port 0 or above 65535, a range that runs backwards).
    """
    if (ports := _PORTS.fullmatch(text)) is not None:
        protocol = Protocol[ports[1].upper()]
        if ports[2] is None:
            return Service(protocol)
        low = int(ports[2])
        high = int(ports[3] or low)
        if not 1 <= low <= high <= SELECTOR_MAX:
            raise ValueError(text)
        return Service(protocol, low, high)
    if (icmp := _ICMP.fullmatch(text)) is not None:
        protocol = Protocol[icmp[1].upper()]
        if icmp[2] is None:
            return Service(protocol)
        named = (_ICMP_NAMES if protocol is Protocol.ICMP else _ICMPV6_NAMES).get(icmp[2])
        if named is not None and icmp[3] is None:
            return Service(protocol, named[0] * 256 + named[1], named[0] * 256 + named[1])
        if not icmp[2].isdigit():
            return None
        kind, code = int(icmp[2]), int(icmp[3] or 0)
        if kind > 255 or code > 255:
            raise ValueError(text)
        return Service(protocol, kind * 256 + code, kind * 256 + (255 if icmp[3] is None else code))
    return None


def shown(service: Service) -> str:
    """The service as a policy would write it."""
    if service.protocol in (Protocol.ANY, Protocol.OTHER):
        return service.protocol.name.lower()
    name = service.protocol.name.lower()
    if (service.low, service.high) == (0, SELECTOR_MAX):
        return name
    if service.protocol in (Protocol.TCP, Protocol.UDP):
        return f"{name}/{service.low}" + (f"-{service.high}" if service.high != service.low else "")
    kind, code = divmod(service.low, 256)
    if service.high == service.low:
        return f"{name}/{kind}/{code}"
    if code == 0 and service.high == service.low + 255:
        return f"{name}/{kind}"
    return f"{name}/{kind}/{code}-{service.high // 256}/{service.high % 256}"


def merged(services: Iterable[Service]) -> tuple[Service, ...]:
    """The same set as sorted ranges that neither touch nor overlap; ``any`` swallows the rest."""
    result: list[Service] = []
    for service in sorted(set(services)):
        if service.protocol is Protocol.ANY:
            return (ANY,)
        last = result[-1] if result else None
        if last is not None and last.protocol is service.protocol and service.low <= last.high + 1:
            result[-1] = Service(last.protocol, last.low, max(last.high, service.high))
        else:
            result.append(service)
    full = {service.protocol for service in result if (service.low, service.high) == (0, SELECTOR_MAX)}
    return (ANY,) if full == _CONCRETE else tuple(result)


_CONCRETE = set(Protocol) - {Protocol.ANY}


def subtracted(services: Iterable[Service], taken: Iterable[Service]) -> tuple[Service, ...]:
    """What of ``services`` is not in ``taken``, merged."""
    left = _concrete(services)
    for cut in _concrete(taken):
        rest: list[Service] = []
        for service in left:
            if service.protocol is not cut.protocol or service.high < cut.low or cut.high < service.low:
                rest.append(service)
                continue
            if service.low < cut.low:
                rest.append(Service(service.protocol, service.low, cut.low - 1))
            if cut.high < service.high:
                rest.append(Service(service.protocol, cut.high + 1, service.high))
        left = rest
    return merged(left)


def of_family(services: Iterable[Service], version: int) -> tuple[Service, ...]:
    """What of the services exists on this IP version: each has its own ICMP."""
    foreign = Protocol.ICMPV6 if version == 4 else Protocol.ICMP
    return tuple(service for service in services if service.protocol is not foreign)


def _concrete(services: Iterable[Service]) -> list[Service]:
    """With ``any`` written out protocol by protocol."""
    result: list[Service] = []
    for service in services:
        if service.protocol is Protocol.ANY:
            result.extend(Service(protocol) for protocol in sorted(_CONCRETE))
        else:
            result.append(service)
    return result


def intersected(services: Iterable[Service], others: Iterable[Service]) -> tuple[Service, ...]:
    """What is in both, merged."""
    kept = list(others)
    return merged(
        Service(one.protocol, max(one.low, other.low), min(one.high, other.high))
        for one in _concrete(services)
        for other in _concrete(kept)
        if one.protocol is other.protocol and one.low <= other.high and other.low <= one.high
    )
