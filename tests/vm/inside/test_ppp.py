"""Data calls for real: the line's thread, the lab's modem, a pppd at each end, packets through them, bytes counted."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lab.modem.emulator import Emulator
from lab.modem.peer import NETWORK, SITE
from lab.modem.profile import Profile
from linux.runner import SubprocessRunner
from router_agent.modem.budget import Action
from router_agent.modem.line import MobileLine
from router_agent.modem.modem import ModemOptions
from router_agent.modem.settings import MobileSettings

#: Generous: the machine is emulated.
UP_S = 90.0
#: What pppd leaves out of its count of a call that ended between two looks: LCP and authentication.
NEGOTIATION_BYTES = 400
INTERFACE = "wwan0"
SETTINGS = MobileSettings(apn="soracom.io", user="sora", password="s3cr3t")
RUN = SubprocessRunner()


@dataclass(slots=True)
class Mobile:
    """A router's mobile line and the modem it has."""

    emulator: Emulator
    place: Path
    settings: MobileSettings = SETTINGS
    line: MobileLine = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start the thread, as an agent does."""
        self.line = MobileLine(
            INTERFACE,
            ModemOptions(str(self.emulator.link), INTERFACE),
            state=self.place,
            runtime=self.place / "run",
            runner=RUN,
            now=time.monotonic(),
        )
        self.line.configure(self.settings)
        self.line.start()

    def configure(self, settings: MobileSettings) -> None:
        self.settings = settings
        self.line.configure(settings)

    @property
    def state(self) -> str:
        report = self.line.view.report
        return "" if report is None else report.state

    @property
    def used(self) -> int:
        report = self.line.view.report
        return 0 if report is None else report.data_used_bytes or 0

    def pid(self) -> str:
        return (self.place / "run" / "pppd.pid").read_text()

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in self.place.rglob("*.log")
        )


def wait(what: str, condition: Callable[[], bool], mobile: Mobile, *, seconds: float = UP_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        shown = f"{what}; {mobile.line.view}; typed {mobile.emulator.commands[-12:]}\n{mobile.logs()}"
        assert time.monotonic() < deadline, shown
        time.sleep(0.2)


def kernel_bytes() -> int:
    place = Path(f"/sys/class/net/{INTERFACE}/statistics")
    return sum(int((place / name).read_text()) for name in ("rx_bytes", "tx_bytes"))


def ping(count: int = 3, size: int = 56) -> bool:
    argv = ["ping", "-q", "-c", str(count), "-i", "0.05", "-s", str(size), "-W", "10", str(NETWORK)]
    return RUN.run(argv, check=False, timeout_s=120).status == 0


@pytest.fixture(scope="module")
def mobile() -> Iterator[Mobile]:
    place = Path("/var/tmp/kyoten-ppp")
    (place / "run").mkdir(parents=True)
    RUN.run(["ip", "netns", "add", "operator"])
    profile = Profile(user="sora", password="s3cr3t", sim="pin", pin="4711")
    with Emulator(place / "modem", profile, netns=("ip", "netns", "exec", "operator")) as emulator:
        made = Mobile(emulator, place, replace(SETTINGS, pin="4711"))
        yield made
        made.line.stop(wait_s=10, hang_up=True)


def test_a_call_comes_up_and_carries_packets(mobile: Mobile) -> None:
    wait("the call", lambda: mobile.state == "connected", mobile)
    shown = RUN.run(["ip", "-4", "addr", "show", INTERFACE]).stdout
    assert f"{SITE} peer {NETWORK}" in shown
    wait("the route", lambda: "metric 1203" in RUN.run(["ip", "route", "show", "default"]).stdout, mobile, seconds=20)
    assert ping()
    assert mobile.line.view.problems == ()


def test_secrets_are_in_no_argv_and_no_log(mobile: Mobile) -> None:
    command = Path(f"/proc/{mobile.pid()}/cmdline").read_bytes()
    assert b"s3cr3t" not in command
    assert "s3cr3t" not in mobile.logs()
    assert (mobile.place / "run" / "pppd.options").stat().st_mode & 0o777 == 0o600


def test_bytes_are_counted_as_the_kernel_counts_them(mobile: Mobile) -> None:
    assert ping(100, 1000)
    time.sleep(5)
    counted, kernel = mobile.used, kernel_bytes()
    assert kernel > 200_000
    assert abs(counted - kernel) <= kernel / 1000, (counted, kernel)


def test_an_agent_that_is_restarted_keeps_the_call_and_counts_nothing_twice(mobile: Mobile) -> None:
    before = mobile.pid()
    mobile.line.stop(wait_s=30, hang_up=False)
    assert ping(20, 1000), "the call ended with the agent"
    mobile.begin()
    wait("the call again", lambda: mobile.state == "connected", mobile)
    time.sleep(5)
    assert mobile.pid() == before
    assert abs(mobile.used - kernel_bytes()) <= kernel_bytes() / 1000


def test_a_carrier_that_is_lost_leads_to_another_call(mobile: Mobile) -> None:
    before, calls = mobile.used, len(mobile.emulator.contexts)
    assert ping(20, 1000)
    last = kernel_bytes()
    mobile.emulator.drop_call()
    wait("the end of the call", lambda: mobile.state != "connected", mobile)
    wait("the next call", lambda: mobile.state == "connected", mobile)
    assert len(mobile.emulator.contexts) > calls
    assert ping()
    time.sleep(5)
    assert mobile.used >= max(before, last) + kernel_bytes() - NEGOTIATION_BYTES


def test_a_call_that_the_network_ends_is_made_again(mobile: Mobile) -> None:
    mobile.emulator.drop_call(politely=True)
    wait("the end of the call", lambda: mobile.state != "connected", mobile)
    wait("the next call", lambda: mobile.state == "connected", mobile)
    assert ping()


def test_a_wrong_password_is_told(mobile: Mobile) -> None:
    mobile.configure(replace(mobile.settings, password="wrong"))
    wait("the refusal", lambda: _reasons(mobile) == ["login-refused"], mobile)
    mobile.configure(replace(mobile.settings, password="s3cr3t"))
    wait("the call", lambda: mobile.state == "connected", mobile)


def _reasons(mobile: Mobile) -> list[object]:
    return [problem.params.get("reason") for problem in mobile.line.view.problems]


def test_data_that_are_spent_end_the_line(mobile: Mobile) -> None:
    mobile.configure(replace(mobile.settings, budget_bytes=mobile.used + 50_000, budget_action=Action.STOP))
    time.sleep(3)
    assert mobile.state == "connected"
    assert ping(60, 1000)
    wait("the end", lambda: mobile.state == "held", mobile)
    assert not Path(f"/sys/class/net/{INTERFACE}").exists()
    assert [problem.key for problem in mobile.line.view.problems] == ["agent.data-budget-spent-stopped"]
    mobile.configure(replace(mobile.settings, budget_bytes=0))
    wait("the call", lambda: mobile.state == "connected", mobile)
