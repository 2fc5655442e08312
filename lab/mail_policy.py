"""Postfix policy service (SMTPD_POLICY_README): answers each request with what stands in the file argv[1].

Runs by itself, copied beside the host's other files, as nobody; so it imports nothing of ours.
"""

import sys
from pathlib import Path


def main() -> None:
    """Answer until Postfix closes the connection; a request ends with an empty line."""
    mood = Path(sys.argv[1])
    for line in sys.stdin:
        if line == "\n":
            sys.stdout.write(f"action={mood.read_text()}\n\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
