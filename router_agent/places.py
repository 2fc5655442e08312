"""Where the agent keeps what survives a restart of the router, and what need not. Nothing else is loaded for it."""

from pathlib import Path

DEFAULT_STATE = Path("/var/lib/kyoten-agent")
DEFAULT_RUNTIME = Path("/run/kyoten-agent")
