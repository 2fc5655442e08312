"""What whoever serves a repository needs of it, without TUF's library in memory."""

import json
from pathlib import Path

METADATA = "metadata"


def snapshot_version(directory: Path) -> int | None:
    """Which state of the repository is published; None: none, or it cannot be read. Cheap: one small file."""
    try:
        document = json.loads((directory / METADATA / "timestamp.json").read_bytes())
        version = document["signed"]["meta"]["snapshot.json"]["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return version if isinstance(version, int) else None
