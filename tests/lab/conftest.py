"""Tests with real daemons. They run as root inside a lab box; anywhere else they fail: a skip proves nothing."""

import os

import pytest

from lab import box


def pytest_configure(config: pytest.Config) -> None:
    if os.geteuid() != 0 or not box.inside():
        raise pytest.UsageError(
            "tests/lab runs as root in a lab box: `make test`, or `kyoten-lab box -- pytest tests/lab`"
        )
