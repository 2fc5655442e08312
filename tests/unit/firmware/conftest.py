"""What tests of releases share."""

import os

import pytest


@pytest.fixture
def no_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not ask what survives a power cut: flushing is what takes time on a busy disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
