"""`kyoten-lab` without a world, and without root."""

import os

import pytest

from lab import cli


@pytest.mark.parametrize("words", [["down"], ["list"], ["exec", "gateway", "true"]])
def test_without_root_no_world_is_not_claimed(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("sys.argv", ["kyoten-lab", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: root is needed to see a world: run this as root\n"
