"""Runs ``measure`` of another module of the benchmark in a process of its own: ``MODULE NUMBER...``. Prints JSON."""

import importlib
import json
import sys


def main() -> int:
    """Measure; print the figures."""
    figures = importlib.import_module(f"tests.bench.{sys.argv[1]}").measure(*map(int, sys.argv[2:]))
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
