"""Each command that a notice names exists, with these words."""

import re
import shlex

import pytest
import typer

from cloudside.cli.main import app
from cloudside.mail.model import Scope
from cloudside.mail.watch import remedies
from cloudside.messages import LANGUAGES, catalogue

#: Typer brings a click of its own, whose names are private.
UsageError = typer.BadParameter.__mro__[1]

FLOODS = [
    (Scope.SITE, "tokyo-1", "tokyo-1", ("plc", "hmi")),
    (Scope.SITE, "tokyo-1", "tokyo-1", ()),
    (Scope.SITE, "server/web", "server/web", ()),
    (Scope.DEVICE, "plc", "tokyo-1", ("plc",)),
    (Scope.DEVICE, "10.1.0.20", "tokyo-1", ()),
    (Scope.TENANT, "acme", "", ()),
]
ALL = sorted(
    {
        *(one for scope, name, origin, users in FLOODS
          for one in remedies.of_flood(scope, name, origin=origin, users=users, reason="flood")),
        *remedies.of_unusual("tokyo-1", users=("plc",), reason="suspicious"),
        *remedies.of_look("tokyo-1"), *remedies.of_queue(), *remedies.of_silence("tokyo-1"),
        *remedies.of_silence("server/web"), *remedies.of_user("plc", "tokyo-1"), *remedies.of_user("", ""),
        *remedies.of_parked(("00000000000000a1", "00000000000000a2")),
        ("alerts.do-sites", "kyoten site list"),
    }
)  # fmt: skip


def parse(line):
    """Have the real command line read it, without doing it. Raises UsageError."""
    command = typer.main.get_command(app)
    program, *words = shlex.split(line)
    context = command.make_context(program, words)
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, words, parent=context)


@pytest.mark.parametrize(("key", "line"), ALL)
def test_the_command_exists_and_says_what_it_does(key, line):
    parse(line)
    assert all(catalogue(language).get(key) for language in LANGUAGES)


@pytest.mark.parametrize("line", ["kyoten mail hold --nonsense x", "kyoten mail flood", "kyoten smtp revoke-user"])
def test_the_check_can_fail(line):
    with pytest.raises(UsageError):
        parse(line)


@pytest.mark.parametrize("language", LANGUAGES)
def test_commands_in_the_texts_of_mail_alarms_exist(language):
    named = {
        command
        for key, text in catalogue(language).items()
        if key.startswith(("alerts.mail-", "alerts.quota-", "alerts.alert-", "alerts.several-"))
        for command in re.findall(r"`(kyoten [^`]*)`|^    (kyoten .*)$", text, re.MULTILINE)
    }
    lines = {first or second for first, second in named}
    assert "kyoten incident ack ID" in lines
    for line in lines:
        if line.endswith(" --help"):  # it would end the parsing
            exists(line.removesuffix(" --help"))
        else:
            parse(line.replace(" ID", " 7").replace(" ADDRESS", " 10.0.0.9"))


def exists(line):
    command = typer.main.get_command(app)
    for word in shlex.split(line)[1:]:
        command = command.commands[word]
