"""The machine's clock and the one with the battery (rtc(4)), which is in UTC."""

import fcntl
import os
import struct
import time
from datetime import UTC, datetime
from pathlib import Path

from linux.errors import ClockError

BATTERY = Path("/dev/rtc0")

#: _IOR('p', 0x09, struct rtc_time), _IOW('p', 0x0a, struct rtc_time), linux/rtc.h.
_READ, _SET = 0x80247009, 0x4024700A
#: Seconds, minutes, hours, day, month from 0, years since 1900; the rest is not looked at.
_TIME = struct.Struct("9i")
#: A battery's clock that is off by more is set.
_TOLERATED_S = 2.0


def set_clock(at: datetime) -> None:
    """Set the machine's clock; the battery's is left, see `keep`. Raises ClockError."""
    try:
        time.clock_settime(time.CLOCK_REALTIME, at.timestamp())
    except (OSError, OverflowError, ValueError) as error:
        raise ClockError(f"the clock cannot be set to {at.isoformat()}: {error}") from error


def keep(battery: Path = BATTERY) -> None:
    """Have the battery's clock say what the machine's does; one without is left. Raises ClockError."""
    try:
        descriptor = os.open(battery, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ClockError(f"{battery}: {error}") from error
    try:
        now = datetime.now(UTC)
        if abs((_read(descriptor) - now).total_seconds()) > _TOLERATED_S:
            fcntl.ioctl(descriptor, _SET, packed(now))
    except OSError as error:
        raise ClockError(f"{battery} cannot be set: {error}") from error
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> datetime:
    try:
        return unpacked(fcntl.ioctl(descriptor, _READ, bytes(_TIME.size)))
    except (OSError, ValueError):  # an empty battery may make it say the 35th of the 0th
        return datetime.fromtimestamp(0, UTC)


def packed(at: datetime) -> bytes:
    """As the kernel's struct rtc_time."""
    utc = at.astimezone(UTC)
    return _TIME.pack(utc.second, utc.minute, utc.hour, utc.day, utc.month - 1, utc.year - 1900, 0, 0, 0)


def unpacked(octets: bytes) -> datetime:
    """Out of the kernel's struct rtc_time. Raises ValueError: no such instant."""
    second, minute, hour, day, month, year, *_ = _TIME.unpack(octets)
    return datetime(year + 1900, month + 1, day, hour, minute, second, tzinfo=UTC)
