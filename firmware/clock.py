"""What time it is, for a device whose clock may be wrong. Pure. Why so: docs/adr/0020-firmware-trust.md.

Three things are known of the time: the device's own clock, which may have begun in 1970; what the cloud said over
mutual TLS since the last boot; and the floor, an instant that has certainly passed because it was signed. A source is
believed only where it moves the time forward, so nobody can bring expired metadata back to life.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class CloudTime:
    """What the cloud's answer said (``at``), when it came (``heard_s``: seconds since boot, sleep included)."""

    at: datetime
    heard_s: float


def judged(system: datetime, *, since_boot_s: float, cloud: CloudTime | None) -> datetime:
    """The latest of the device's clock and what the cloud said in this boot, carried on since."""
    if cloud is None:
        return system
    return max(system, cloud.at + timedelta(seconds=max(0.0, since_boot_s - cloud.heard_s)))
