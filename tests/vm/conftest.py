"""Tests with virtual machines. They run as root on the host; what is in inside/ runs in a machine they start."""

import os

import pytest

from lab.vm import machine

collect_ignore = [] if machine.inside() else ["inside"]


def pytest_configure(config: pytest.Config) -> None:
    if os.geteuid() != 0:
        raise pytest.UsageError("tests/vm runs as root: `make test`, or `.venv/bin/python -m pytest tests/vm` as root")
