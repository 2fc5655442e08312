"""How busy the router is, from /proc (proc(5))."""

import platform
from pathlib import Path

from router_agent.report.documents import Load


def read(proc: Path = Path("/proc")) -> Load:
    """The figures now; one that this kernel does not show is 0."""
    return Load(
        load_1m=_first_number(proc / "loadavg"),
        memory_available_mib=_kibibytes(proc / "meminfo", "MemAvailable:") / 1024,
        uptime_s=_first_number(proc / "uptime"),
        agent_rss_mib=_kibibytes(proc / "self" / "status", "VmRSS:") / 1024,
    )


def kernel_version() -> str:
    """The running kernel's release."""
    return platform.release()


def _first_number(path: Path) -> float:
    try:
        return float(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0


def _kibibytes(path: Path, label: str) -> float:
    try:
        for line in path.read_text().splitlines():
            if line.startswith(label):
                return float(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return 0.0
