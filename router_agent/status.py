"""The agent's own word on how things stand, for a person at the router: ``<runtime>/status.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "status.json"


def write(runtime: Path, document: Mapping[str, object]) -> None:
    """Replace it. Not flushed: it is of use only while the router runs. Raises OSError."""
    temporary = runtime / f".{NAME}.new"
    temporary.write_text(json.dumps(document, indent=1))
    temporary.rename(runtime / NAME)


def read(runtime: Path) -> dict[str, Any] | None:
    """What the agent wrote last; None: it has not run here, or what is there is damaged."""
    try:
        found = json.loads((runtime / NAME).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
