"""Running the programs that a build needs: an argv list, no shell, and what it said when it fails."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from firmware.image.errors import ImageError

#: Longest time for one program, in seconds: a mirror at the other end of the world takes minutes.
TIMEOUT_S = 1800.0
_DETAIL_MAX_CHARS = 600

#: What every program sees, whatever the person's shell has set: texts, times and hashes are to be the same everywhere.
_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "DEBIAN_FRONTEND": "noninteractive",
}
#: A proxy is how this machine reaches a mirror.
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL")


def run(
    argv: Sequence[str | Path],
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    timeout_s: float = TIMEOUT_S,
) -> str:
    """What the program wrote. Raises ImageError that names it, when it is missing, fails or takes too long."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    words = [str(word) for word in argv]
    try:
        ended = subprocess.run(
            words,
            cwd=directory,
            env={**_ENVIRONMENT, **passed_on, **(environment or {})},
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise ImageError(f"the program {words[0]} is missing: run `lab/setup.sh image`") from None
    except subprocess.TimeoutExpired:
        raise ImageError(f"{words[0]} did not end within {timeout_s:g} s") from None
    if ended.returncode != 0:
        said = (ended.stderr.strip() or ended.stdout.strip()).decode(errors="replace")
        raise ImageError(f"{' '.join(words[:2])} failed ({ended.returncode}): {said[-_DETAIL_MAX_CHARS:]}")
    return ended.stdout.decode(errors="replace")
