"""Tests that run in the virtual machine."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config: pytest.Config) -> None:
    if "KYOTEN_LAB_VM" not in os.environ:
        raise pytest.UsageError("these tests run in the virtual machine: pytest tests/vm starts it")
