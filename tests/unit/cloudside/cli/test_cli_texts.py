"""Every text that the command names is in both languages; --help stays light; written-out constants are true."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

import cloudside
from cloudside.cli import main
from cloudside.config import DEFAULT_PATH
from cloudside.messages import catalogue
from cloudside.registry import database

SOURCES = Path(cloudside.__file__).parent


def test_every_key_has_its_texts() -> None:
    named: set[str] = set()
    for folder in ("cli", "access", "fleet"):
        for path in (SOURCES / folder).glob("*.py"):
            named |= set(re.findall(r'"((?:cli|access|fleet)\.[a-z][a-z-]*[a-z])"', path.read_text()))
    assert len(named) > 50
    for language in ("en", "ja"):
        assert named - catalogue(language).keys() == set()


def test_both_languages_have_the_same_parameters() -> None:
    english, japanese = catalogue("en"), catalogue("ja")
    for key in english:
        if key.split(".")[0] in ("cli", "access", "fleet"):
            assert set(re.findall(r"{(\w+)}", english[key])) == set(re.findall(r"{(\w+)}", japanese[key])), key


def test_every_column_has_a_heading() -> None:
    columns: set[str] = set()
    for path in (SOURCES / "cli").glob("*.py"):
        if path.name != "mail.py":  # its headings are the relay's own
            for group in re.findall(
                r"(?:COLUMNS = |show_rows\([^(]*, |print_table\([^(]*, )\(([^)]*)\)", path.read_text()
            ):
                columns |= set(re.findall(r'"([a-z_]+)"', group))
    assert {"site", "service", "statement", "block", "rule_set"} <= columns
    assert {f"cli.column-{column.replace('_', '-')}" for column in columns} - catalogue("en").keys() == set()


def test_help_imports_nothing_heavy() -> None:
    heavy = (
        "sqlalchemy",
        "alembic",
        "fastapi",
        "uvicorn",
        "paramiko",
        "cryptography",
        "aiosmtpd",
        "vici",
        "cloudside.config",
    )
    program = (
        "import sys; from cloudside.cli import main; status = main.run(['--help']);"
        f"sys.stderr.write(','.join(name for name in {heavy!r} if name in sys.modules)); sys.exit(status)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    assert "policy" in ended.stdout and "mail" in ended.stdout


def test_what_is_written_out_to_save_imports_is_true() -> None:
    assert main.DEFAULT_CONFIG == DEFAULT_PATH
    configuration = Config()
    configuration.set_main_option("script_location", str(SOURCES / "registry" / "migrations"))
    assert ScriptDirectory.from_config(configuration).get_current_head() == database.SCHEMA


def test_the_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"kyoten {metadata.version('kyoten')}\n"
