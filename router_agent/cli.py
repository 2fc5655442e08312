"""The `kyoten-agent` command. What it prints comes from the catalogues in `messages`."""

import argparse
import fcntl
import json
import os
import stat
import sys
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TextIO

from linux.errors import LinuxError
from linux.files import write_durably
from router_agent import bundle, identity, status
from router_agent.errors import AgentError, BundleError, CloudRefusedError, CloudUnreachableError, StateError
from router_agent.identity import Identity
from router_agent.messages import text
from router_agent.places import DEFAULT_RUNTIME, DEFAULT_STATE

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INPUT = 2
EXIT_REFUSED = 3
EXIT_CONFIGURATION = 4
EXIT_UNAVAILABLE = 5
_EXIT_CODES: dict[type[AgentError], int] = {CloudRefusedError: EXIT_REFUSED, CloudUnreachableError: EXIT_UNAVAILABLE}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the answer is the exit status."""
    words = sys.argv[1:] if argv is None else argv
    # Reading the texts takes as long as starting the tunnel does.
    arguments = _parser(text if any(word.startswith(("-h", "--h")) for word in words) else _untold).parse_args(words)
    try:
        status_code: int = arguments.work(arguments)
    except BundleError as error:
        for problem in error.problems:
            _complain(problem)
        return EXIT_INPUT
    except AgentError as error:
        _complain(error)
        return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), EXIT_CONFIGURATION)
    except LinuxError as error:
        _complain(AgentError("agent-cli.machine", reason=str(error)))
        return EXIT_FAILED
    return status_code


def _untold(_key: str) -> str | None:
    """Texts that nobody asks for."""
    return None


def _parser(text: Callable[[str], str | None]) -> argparse.ArgumentParser:
    """``text``: what is said of commands and options."""
    parser = argparse.ArgumentParser("kyoten-agent", description=text("agent-cli.about"))
    commands = parser.add_subparsers(required=True)

    run = commands.add_parser("run", help=text("agent-cli.about-run"))
    run.set_defaults(work=_run)
    run.add_argument("--bundle", type=Path, help=text("agent-cli.option-bundle"))
    _directories(run, text)
    run.add_argument("--lan", default="lan0", metavar="INTERFACE", help=text("agent-cli.option-lan"))
    run.add_argument("--owns-lan", action="store_true", help=text("agent-cli.option-owns-lan"))
    run.add_argument("--wired", action="append", metavar="INTERFACE", help=text("agent-cli.option-wired"))
    run.add_argument("--mobile", action="append", metavar="INTERFACE", help=text("agent-cli.option-mobile"))
    run.add_argument("--probe-s", type=_seconds, metavar="SECONDS", help=text("agent-cli.option-probe"))
    run.add_argument("--check-s", type=_seconds, default=5.0, metavar="SECONDS", help=text("agent-cli.option-check"))
    run.add_argument("--hold-s", type=_seconds, default=180.0, metavar="SECONDS", help=text("agent-cli.option-hold"))
    run.add_argument("--home-s", type=_seconds, default=600.0, metavar="SECONDS", help=text("agent-cli.option-home"))
    run.add_argument(
        "--target", action="append", type=ip_address, metavar="ADDRESS", help=text("agent-cli.option-target")
    )
    run.add_argument("--modem", metavar="DEVICE", help=text("agent-cli.option-modem"))
    run.add_argument("--modem-control", metavar="DEVICE", help=text("agent-cli.option-modem-control"))
    run.add_argument("--modem-reset", type=Path, metavar="PROGRAM", help=text("agent-cli.option-modem-reset"))
    run.add_argument("--reboot", type=Path, metavar="PROGRAM", help=text("agent-cli.option-reboot"))
    run.add_argument("--sets-clock", action="store_true", help=text("agent-cli.option-sets-clock"))
    run.add_argument("--down", action="store_true", help=text("agent-cli.option-down"))

    manufacture = commands.add_parser("manufacture", help=text("agent-cli.about-manufacture"))
    manufacture.set_defaults(work=_manufacture)
    _directories(manufacture, text)

    enrol = commands.add_parser("enrol", help=text("agent-cli.about-enrol"))
    enrol.set_defaults(work=_enrol)
    enrol.add_argument("ticket", type=Path)
    _directories(enrol, text)

    request = commands.add_parser("request", help=text("agent-cli.about-request"))
    request.set_defaults(work=_request)
    request.add_argument("--site", required=True, help=text("agent-cli.option-site"))
    request.add_argument("--output", type=Path, required=True, metavar="FILE", help=text("agent-cli.option-output"))
    _directories(request, text)

    install = commands.add_parser("install", help=text("agent-cli.about-install"))
    install.set_defaults(work=_install)
    install.add_argument("bundle", type=Path)
    _directories(install, text)

    show = commands.add_parser("status", help=text("agent-cli.about-status"))
    show.set_defaults(work=_status)
    show.add_argument("--json", action="store_true", help=text("agent-cli.option-json"))
    _directories(show, text)
    _update(commands.add_parser("update", help=text("agent-cli.about-update")), text)

    console = commands.add_parser("console", help=text("agent-cli.about-console"))
    console.set_defaults(work=_console)
    _directories(console, text)

    # What the agent starts for itself: router_agent/update/step.py.
    step = commands.add_parser("update-step")
    step.set_defaults(work=_update_step)
    step.add_argument("step")
    _directories(step, text)
    return parser


def _update(parser: argparse.ArgumentParser, text: Callable[[str], str | None]) -> None:
    commands = parser.add_subparsers(required=True)
    for name, work in (("status", _update_status), ("check", _update_check)):
        command = commands.add_parser(name, help=text(f"agent-cli.about-update-{name}"))
        command.set_defaults(work=work)
        command.add_argument("--json", action="store_true", help=text("agent-cli.option-json"))
        _directories(command, text)


def _directories(parser: argparse.ArgumentParser, text: Callable[[str], str | None]) -> None:
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help=text("agent-cli.option-state"))
    parser.add_argument("--runtime", type=Path, default=DEFAULT_RUNTIME, help=text("agent-cli.option-runtime"))


def _seconds(word: str) -> float:
    value = float(word)
    if not 0.1 <= value <= 3600:
        raise ValueError
    return value


def _run(arguments: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise AgentError("agent-cli.root-needed")
    state, runtime = arguments.state.absolute(), arguments.runtime.absolute()
    lock = _only_one(runtime)
    who = _identity(arguments.bundle, state)
    wired, mobile = arguments.wired or ["wan0"], arguments.mobile or ["wwan0"]
    # What the daemon needs is not loaded for the other commands; and before all else the tunnel is under way.
    from linux.runner import SubprocessRunner
    from router_agent.logs import writer
    from router_agent.tunnel import ahead

    log = writer.install(state, also_stderr=True)
    begun = ahead.begin(who, state, runtime, arguments.lan, wired, SubprocessRunner())
    begun.settle(ahead.STAND_BACK_S)
    from router_agent import daemon
    from router_agent.link.uplinks import UplinkKind
    from router_agent.modem.modem import ModemOptions
    from router_agent.options import Options

    options = Options(
        state=state,
        runtime=runtime,
        lan=arguments.lan,
        owns_lan=arguments.owns_lan,
        uplinks={
            **dict.fromkeys(wired, UplinkKind.WIRED),
            **dict.fromkeys(mobile, UplinkKind.MOBILE),
        },
        probe_s=arguments.probe_s,
        check_s=arguments.check_s,
        down_at_end=arguments.down,
        hold_s=arguments.hold_s,
        home_s=arguments.home_s,
        targets=tuple(arguments.target or ()),
        modem=None
        if arguments.modem is None
        else ModemOptions(arguments.modem, mobile[0], arguments.modem_control, arguments.modem_reset),
        reboot=arguments.reboot,
        sets_clock=arguments.sets_clock,
    )
    with lock:
        daemon.run(options, who, log, begun)
    return EXIT_OK


def _install(arguments: argparse.Namespace) -> int:
    who = identity.install(identity.read_bundle(arguments.bundle), arguments.state)
    print(text("agent-cli.installed", {"site": who.enrolment.site, "state": arguments.state}))  # noqa: T201
    return EXIT_OK


def _manufacture(arguments: argparse.Namespace) -> int:
    from router_agent import device

    device.manufacture(arguments.state)
    print(text("agent-cli.manufactured", {"path": arguments.state / device.NAME}))  # noqa: T201
    return EXIT_OK


def _enrol(arguments: argparse.Namespace) -> int:
    # Loaded for this command alone, as the daemon is for its own.
    from router_agent.enrolment import join, ticket

    path: Path = arguments.ticket
    try:
        content = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BundleError([AgentError("agent-cli.ticket-unreadable", path=str(path), reason=reason)]) from error
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        _complain(AgentError("agent-cli.ticket-open", path=str(path)))
    who = join.join(ticket.parse(content), arguments.state)
    print(text("agent-cli.enrolled", {"site": who.enrolment.site, "state": arguments.state, "path": path}))  # noqa: T201
    return EXIT_OK


def _request(arguments: argparse.Namespace) -> int:
    from router_agent import device
    from router_agent.enrolment import waiting

    if not bundle.is_site(arguments.site):
        raise BundleError([AgentError("agent-cli.site-wrong", site=arguments.site[:100])])
    device_id = device.ensure(arguments.state)
    waits = waiting.prepare(arguments.state, waiting.FIRST, arguments.site)
    output: Path = arguments.output
    files = {
        output: waits.csr_pem,
        output.with_name(f"{output.name}.device-id"): f"{device_id}\n".encode(),
        output.with_name(f"{output.name}.ssh-host-key"): f"{waits.host_key}\n".encode(),
    }
    for path, content in files.items():
        try:
            write_durably(path, content)
        except OSError as error:
            raise AgentError("agent-cli.output-unwritable", path=str(path), reason=error.strerror or "") from error
    params = {"csr": output, "site": arguments.site, "others": ", ".join(str(path) for path in list(files)[1:])}
    print(text("agent-cli.requested", params))  # noqa: T201
    return EXIT_OK


def _status(arguments: argparse.Namespace) -> int:
    found = status.read(arguments.runtime)
    running = _is_locked(arguments.runtime)
    if found is None:
        raise AgentError("agent-cli.no-status", runtime=str(arguments.runtime))
    if arguments.json:
        print(json.dumps({"running": running, **found}, indent=1))  # noqa: T201
    else:
        print("\n".join(_lines(found, running)))  # noqa: T201
    return EXIT_OK if running else EXIT_UNAVAILABLE


def _console(arguments: argparse.Namespace) -> int:
    from router_agent.console import terminal

    return terminal.run(arguments.state)


def _update_step(arguments: argparse.Namespace) -> int:
    from router_agent.update import step

    return step.run(arguments.step, arguments.state, arguments.runtime)


def _update_status(arguments: argparse.Namespace) -> int:
    from router_agent.update import words

    found = status.read(arguments.runtime)
    if found is None:
        raise AgentError("agent-cli.no-status", runtime=str(arguments.runtime))
    running = _is_locked(arguments.runtime)
    if arguments.json:
        part = {name: found.get(name) for name in ("firmware", "modules")}
        print(json.dumps({"running": running, **part}, indent=1))  # noqa: T201
    else:
        print("\n".join(words.status_lines(found, running=running)))  # noqa: T201
    return EXIT_OK if running else EXIT_UNAVAILABLE


def _update_check(arguments: argparse.Namespace) -> int:
    from router_agent.update import step, words

    found = step.check(arguments.state, arguments.runtime)
    print(json.dumps(found, indent=1) if arguments.json else "\n".join(words.check_lines(found)))  # noqa: T201
    return EXIT_OK


def _lines(found: dict[str, object], running: bool) -> list[str]:
    def part(name: str) -> dict[str, object]:
        value = found.get(name)
        return value if isinstance(value, dict) else {}

    tunnel = part("tunnel")
    heard = found.get("cloud_heard_s")
    problems = found.get("problems")
    lines = [
        text("agent-cli.status-site", {"site": found.get("site")}),
        text("agent-cli.status-running" if running else "agent-cli.status-stopped"),
        text("agent-cli.status-uplink", {"kind": "", "interface": "", "address": "", **part("uplink")}),
        text(
            "agent-cli.status-tunnel-up" if tunnel.get("up") else "agent-cli.status-tunnel-down",
            {"gateway": "", "since_s": 0, "suite": "", **tunnel},
        ),
        text("agent-cli.status-heard" if heard is not None else "agent-cli.status-unheard", {"seconds": heard}),
        text("agent-cli.status-settings", {"version": part("settings").get("version")}),
    ]
    for problem in problems if isinstance(problems, list) else []:
        params = ", ".join(f"{name}={value}" for name, value in problem["params"].items())
        lines.append(text("agent-cli.status-problem", {"key": problem["key"], "params": params}))
    return lines


def _identity(bundle_path: Path | None, state: Path) -> Identity:
    """Install the bundle that was given; without one, or when its file has gone since, take what is installed.

    So too when the bundle is damaged or the disk full: a copy that broke off must not keep a site off at its next boot.
    """
    if bundle_path is not None and (bundle_path.exists() or not identity.is_installed(state)):
        try:
            return identity.install(identity.read_bundle(bundle_path), state)
        except (BundleError, StateError) as error:
            if not identity.is_installed(state):
                raise
            for problem in error.problems if isinstance(error, BundleError) else (error,):
                _complain(problem)
            _complain(AgentError("agent-cli.bundle-not-taken", path=str(bundle_path)))
    return identity.load(state)


def _only_one(runtime: Path) -> TextIO:
    """Hold the runtime directory for this process. Raises AgentError: another agent has it, or it cannot be made."""
    try:
        runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (runtime / "agent.lock").open("w")
    except OSError as error:
        raise AgentError("agent-cli.runtime-unwritable", path=str(runtime), reason=error.strerror or "") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise AgentError("agent-cli.already-running", runtime=str(runtime)) from None
    return lock


def _is_locked(runtime: Path) -> bool:
    try:
        with (runtime / "agent.lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _complain(problem: AgentError) -> None:
    print(f"kyoten-agent: {text(problem.key, problem.params)}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
