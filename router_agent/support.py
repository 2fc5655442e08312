"""What staff ask of this router from afar, put together: log pulls, commands; and crash reports.

Each has a lane to the cloud of its own, so that a log on a bad line holds up neither a command nor the loop.
"""

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from linux.charon_process import socket_path
from linux.runner import Runner
from router_agent.bundle import Endpoint
from router_agent.crash.sender import Sender
from router_agent.crash.store import Store
from router_agent.crash.watch import Crashes
from router_agent.exec import answers
from router_agent.exec.ledger import Ledger
from router_agent.exec.orders import Orders, boot_id
from router_agent.logs.keeping import Keeper
from router_agent.logs.kernel import KernelLog
from router_agent.logs.pack import Logs
from router_agent.logs.pulls import Pulls
from router_agent.logs.redaction import Redaction
from router_agent.logs.tails import Tails
from router_agent.logs.units import Places
from router_agent.modem.settings import MobileSettings
from router_agent.options import Options
from router_agent.report.cloud import CloudClient
from router_agent.report.documents import Answer
from router_agent.report.lane import Lane

#: charon answers in milliseconds, also while the loop asks it.
_CHARON_S = 5.0


class Support:
    """``client``: the one to use now. ``modem``: what its driver last reported. ``device_id``: struck out of logs."""

    def __init__(
        self,
        options: Options,
        *,
        site: str,
        device_id: str,
        runner: Runner,
        client: Callable[[], CloudClient],
        modem: Callable[[], Mapping[str, object] | None],
        versions: Mapping[str, str],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        places = Places(options.state, options.runtime)
        kernel = KernelLog(runner)
        boot = boot_id()
        self._device_id = device_id
        self._redaction = Redaction((device_id,))
        self._restart: bool | None = None
        store = Store(options.state)
        self.crashes = Crashes(
            places, store, kernel, lambda: self._redaction,
            boot=boot, pid=os.getpid(), versions=versions, news=lambda: self._reports.wake(), clock=clock,
        )  # fmt: skip
        self._keeper = Keeper(places)
        self._pulls = Pulls(
            options.state / "logs",
            Logs(site, places, kernel.lines, lambda: self._redaction, self._keeper.keep),
            lambda units: Tails(units, places, lambda: self._redaction),
            clock=clock,
        )
        charon = socket_path(options.runtime)
        self._orders = Orders(
            Ledger(options.state),
            lan=options.lan,
            looks={
                "tunnels": lambda: answers.tunnels(charon, timeout_s=_CHARON_S),
                "connections": answers.connections,
                "modem": lambda: answers.modem(modem()),
            },
            restart=self._ask_restart,
            redaction=lambda: self._redaction,
            boot=boot,
            clock=clock,
        )
        sender = Sender(self.crashes, store, clock=clock)

        def crashed(name: str) -> Callable[[BaseException], None]:
            return lambda error: self.crashes.exception(error, name)

        self._logs = Lane("logs", self._pulls, client, crashed("logs"))
        self._commands = Lane("commands", self._orders, client, crashed("commands"))
        self._reports = Lane("crash-reports", sender, client)
        self._lanes = (self._logs, self._commands, self._reports)

    def start(self) -> None:
        """Begin to work."""
        self.crashes.start()
        for lane in self._lanes:
            lane.start()

    def step(self, now: float) -> None:
        """What has to be done in the loop."""
        self.crashes.look_at_children()
        self._keeper.step(now)

    def use(self, settings: MobileSettings) -> None:
        """Secrets that are in force now must not be in any log."""
        self._redaction = Redaction((self._device_id, settings.password, settings.pin))

    def heard(self, answer: Answer, endpoint: Endpoint, *, mobile: bool, now: float) -> None:
        """The cloud has answered at this endpoint."""
        pulls, commands = self._pulls.want(answer.log_pulls, mobile=mobile), self._orders.want(answer.commands, now)
        for lane in self._lanes:  # the first one begins the work: what is wanted is known by then
            lane.aim((endpoint,))
        if pulls:
            self._logs.wake()
        if commands:
            self._commands.wake()

    @property
    def restart(self) -> bool | None:
        """Whether to start anew: the agent (False), the machine (True); None: neither."""
        return self._restart

    def cannot_restart(self, reason: str) -> None:
        """The machine does not start anew: say so and go on."""
        self._restart = None
        self._orders.refuse_restart(reason)
        self._commands.wake()

    def stop(self, *, wait_s: float) -> None:
        """Take no more work, and note that this end was wanted."""
        for lane in self._lanes:
            lane.stop(wait_s / len(self._lanes))
        self._keeper.keep()
        self.crashes.stop()

    def _ask_restart(self, machine: bool) -> None:
        self._restart = machine
