"""The dependency direction of the architecture page, and the rings inside pure packages."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"rules", "firmware", "linux", "cloudside", "router_agent", "lab", "tests"}

#: What each package may import of ours.
ALLOWED = {
    "rules": {"rules"},
    "firmware": {"firmware"},
    "linux": {"linux"},
    "cloudside": {"cloudside", "rules", "firmware", "linux"},
    "router_agent": {"router_agent", "rules", "firmware", "linux"},
}

#: Modules that do I/O, know the time or roll dice: never in `rules`.
IMPURE = {"socket", "subprocess", "time", "random", "secrets", "asyncio", "os", "threading", "logging"}


def imports_of(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            names.add((node.module or "").split(".")[0])
    return names


def sources_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_the_architecture_allows(package: str) -> None:
    forbidden = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources_of(package)
        for name in (imports_of(path) & OURS) - ALLOWED[package]
    }
    assert not forbidden


def test_rules_are_pure() -> None:
    assert sources_of("rules"), "the package moved: this test would check nothing"
    impure = {f"{path.name} imports {name}" for path in sources_of("rules") for name in imports_of(path) & IMPURE}
    assert not impure
    # datetime is there for its types: the instant is always an argument.
    clocks = {
        path.name
        for path in sources_of("rules")
        for word in (".now(", ".utcnow(", ".today(")
        if word in path.read_text(encoding="utf-8")
    }
    assert not clocks


def test_the_check_itself_can_fail(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("def f():\n    from cloudside.mail import queue\n    return queue\n")
    assert imports_of(path) == {"cloudside"}
