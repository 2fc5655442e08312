"""One modem, from its device file to an address: what to do next, step by step. Belongs to one thread.

A step asks the modem what the state wants to know, makes of it an event, and the table in `machine` says what follows.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from linux.errors import LinuxError
from linux.runner import Runner
from router_agent.errors import StateError
from router_agent.modem import answers, machine
from router_agent.modem.answers import Operator, Registration, Sim
from router_agent.modem.at import ANSWER_S, AtChannel, ModemLostError, ModemSilentError, Port, SerialPort
from router_agent.modem.machine import Event, Rung, State
from router_agent.modem.pin import PinMemory, Tried
from router_agent.modem.ppp import Call, Login
from router_agent.modem.settings import MobileSettings
from router_agent.problems import Problem

_log = logging.getLogger(__name__)

#: The context that is dialled, and the numbers that dial it (27.007 section 10.2.1.1).
_CONTEXT = 1
_NUMBERS = (f"*99***{_CONTEXT}#", "*99#")

#: Longest times for single commands, in seconds: makers' manuals say up to these.
_SIM_S = 15.0
_DIAL_S = 60.0
_OPERATOR_S = 10.0
_HOOK_S = 60.0
#: LCP, authentication and IPCP over a slow line.
_AGREE_S = 45.0
_HANG_UP_S = 10.0
#: A call that lasted so long was a good one.
_GOOD_CALL_S = 60.0
#: Between looks at the network while a call is up (through a control port) or waited for.
_WATCH_S = 15.0
#: Guard time around the escape sequence, in seconds (V.250 leaves it to makers: one second).
_GUARD_S = 1.1
#: Registered nowhere for so long is worth a word.
_SEARCH_QUIET_S = 60.0

_SIM_EVENTS = {
    Sim.READY: Event.SIM_READY, Sim.PUK: Event.PUK_WANTED, Sim.MISSING: Event.SIM_ABSENT, Sim.BUSY: Event.SIM_BUSY,
    Sim.FAILED: Event.SIM_BROKEN,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModemOptions:
    """``device``: where calls are made. ``control``: a second port for commands, None: there is none, and nothing is
    asked during a call. ``hook``: a program that resets the modem's power or USB port; it gets the device as argument.
    """

    device: str
    interface: str = "wwan0"
    control: str | None = None
    hook: Path | None = None


@dataclass(frozen=True, slots=True)
class ModemView:
    """What is known of the modem. ``signal_dbm`` None and empty texts: not known."""

    state: State = State.ABSENT
    signal_dbm: int | None = None
    operator: Operator = field(default_factory=Operator)
    registration: Registration = Registration.NONE
    imei: str = ""

    @property
    def roaming(self) -> bool | None:
        """Whether it is abroad; None: registered nowhere."""
        known = {Registration.HOME: False, Registration.ROAMING: True}
        return known.get(self.registration)


class Modem:
    """``linked``: whether the interface has an address. ``sleep`` waits, but not longer than the agent lives."""

    def __init__(
        self,
        options: ModemOptions,
        memory: PinMemory,
        ppp: Call,
        runner: Runner,
        *,
        linked: Callable[[], bool],
        sleep: Callable[[float], None],
        open_port: Callable[[str], Port] = SerialPort,
    ) -> None:
        self._options = options
        self._memory = memory
        self._ppp = ppp
        self._runner = runner
        self._linked = linked
        self._sleep = sleep
        self._open_port = open_port
        self._settings = MobileSettings()
        self._table: Mapping[str, Sequence[str]] = {}
        #: The modem was told something of the table since it last registered.
        self._table_told = False
        self._view = ModemView()
        self._ports: dict[str, Port] = {}
        self._trouble: Problem | None = None
        self._call_trouble: Problem | None = None
        self._silences = self._call_failures = 0
        self._resume_at: float | None = None
        self._call_at = self._watch_at = 0.0
        self._searching_since: float | None = None
        self._called_at = 0.0
        self._hanging_up_since: float | None = None
        self._carried: list[int] = []

    @property
    def view(self) -> ModemView:
        """What is known now."""
        return self._view

    def carried(self) -> list[int]:
        """The bytes of calls that have ended since the last call of this, as pppd counted them."""
        carried, self._carried = self._carried, []
        return carried

    def problems(self, now: float) -> tuple[Problem, ...]:
        """What stands in the way of a mobile line."""
        state = self._view.state
        found: Problem | None = self._trouble
        match state:
            case State.SILENT if self._silences > 1:
                found = Problem("agent.modem-silent", {"device": self._options.device})
            case State.SIM_MISSING:
                found = Problem("agent.modem-sim-missing")
            case State.SIM_FAILED:
                found = Problem("agent.modem-sim-failed")
            case State.PIN_MISSING if found is None:
                found = Problem("agent.modem-pin-missing")
            case State.PIN_REFUSED:
                found = Problem("agent.modem-pin-refused")
            case State.PUK:
                found = Problem("agent.modem-puk")
            case State.DENIED:
                found = Problem("agent.modem-denied", {"operator": self._view.operator.name or "-"})
            case State.ROAMING_FORBIDDEN:
                found = Problem("agent.modem-roaming", {"operator": self._view.operator.name or "-"})
            case State.SEARCHING if self._searched_s(now) > _SEARCH_QUIET_S:
                found = Problem("agent.modem-no-network")
            case State.CONNECTED:
                return ()
            case _:
                pass
        return tuple(problem for problem in (found, self._call_trouble) if problem is not None)

    def configure(self, settings: MobileSettings, now: float) -> None:
        """Other settings: a call that was made with others ends, a PIN or an APN that is new is tried."""
        old, self._settings = self._settings, settings
        budget_only = replace(old, budget_bytes=settings.budget_bytes, budget_action=settings.budget_action)
        if budget_only == settings:
            return
        self._call_at = 0.0
        self._call_failures = 0
        if self._view.state in (State.DIALLING, State.CONNECTED):
            if replace(budget_only, pin=settings.pin) != settings:
                self._hanging_up_since = now
                self._ppp.hang_up()
        elif (self._view.state, Event.CHANGED) in machine.TRANSITIONS:
            self._move(Event.CHANGED)

    def use_table(self, table: Mapping[str, Sequence[str]]) -> None:
        """What modems want to be told first, by the model that they say they are: from the next time it begins."""
        self._table = table
        self._table_told = False

    def step(self, now: float, roll: float, *, spent: bool) -> float:
        """Do what is next; seconds until the next step. ``spent``: the month's data are, and the line has to end."""
        before = self._view.state
        try:
            event = self._look(now, roll, spent)
        except ModemLostError as error:
            self._trouble = Problem.of(error)
            self._close()
            event = Event.LOST
        except ModemSilentError:
            event = Event.NO_ANSWER
        if event is not None:
            self._move(event)
        if event in (Event.NO_ANSWER, Event.STUCK):
            self._distrust_table()
            self._silences = max(self._silences + 1, 4 if event is Event.STUCK else 0)
            self._resume_at = None
        if self._view.state is not State.SEARCHING:
            self._searching_since = None
        return 0.0 if self._view.state is not before else machine.LOOK_S[before]

    def hang_up(self) -> None:
        """End the call, if there is one, and give the device back."""
        self._ppp.hang_up()
        self._close()

    def close(self) -> None:
        """Give the device back; a call that is up goes on."""
        self._close()

    def _look(self, now: float, roll: float, spent: bool) -> Event | None:
        match self._view.state:
            case State.ABSENT:
                return self._open(now)
            case State.STARTING:
                return self._begin()
            case State.SILENT:
                return self._climb(now, roll)
            case State.DIALLING | State.CONNECTED:
                return self._watch_call(now, roll, spent)
            case State.READY if spent:
                return Event.SPENT
            case State.HELD if spent:
                return self._watch(now)
            case State.HELD:
                return Event.ALLOWED
            case State.READY if now < self._call_at:
                return self._watch(now)
            case State.READY | State.SEARCHING | State.DENIED | State.ROAMING_FORBIDDEN:
                event = self._look_at_network(now)
                if self._view.state is State.READY and event is Event.REGISTERED:
                    return self._call(now, roll)
                return event
            case _:
                return self._look_at_sim()

    def _open(self, now: float) -> Event:
        if self._ppp.pid is not None:
            self._called_at = now
            return Event.CONNECTED  # the agent before this one made the call
        self._channel(self._options.control or self._options.device)
        self._trouble = None
        return Event.OPENED

    def _begin(self) -> Event:
        at = self._at
        at.ask("ATE0")
        at.ask("AT+CMEE=1")
        # The radio may be off: flight mode survives a restart on many modems.
        at.ask("AT+CFUN=1", timeout_s=_SIM_S)
        if self._table:
            model = next((line.strip() for line in at.ask("AT+CGMM").lines if line.strip()), "")
            for command in self._table.get(model, ()):
                self._table_told = True
                at.ask(command)  # one that it does not know does no harm
        imei = answers.imei(at.ask("AT+CGSN").lines)
        self._view = replace(self._view, imei=imei or self._view.imei)
        return Event.ANSWERED

    def _distrust_table(self) -> None:
        """A modem that was told something of the table, and found no network since, is not told it again by this
        agent: a wrong table must not take a site's only line."""
        if self._table_told:
            _log.error("modem: no network since it was told what the table of modems has for it: begun without")
            self._table, self._table_told = {}, False

    def _look_at_sim(self) -> Event:
        event = self._sim_event()
        self._silences = 0
        if event is Event.SIM_READY:
            self._trouble = None
        return event

    def _sim_event(self) -> Event:
        answer = self._at.ask("AT+CPIN?", timeout_s=_SIM_S)
        found = answers.sim(answer.lines) if answer.ok else answers.sim_of_error(answer.error) or Sim.FAILED
        if found is None:
            return Event.SIM_BUSY  # an OK without an answer: garbled
        return self._enter_pin() if found is Sim.PIN else _SIM_EVENTS[found]

    def _enter_pin(self) -> Event:
        """At most one try of a PIN, and a second one only when the first's fate is unknown and cost no try."""
        pin, sim = self._settings.pin, self._sim_id()
        if not pin:
            self._trouble = None
            return Event.PIN_WANTED
        tried = self._memory.tried(pin, sim)
        if tried is Tried.UNSURE:
            left = answers.pin_tries_left(self._at.ask("AT+CPINR", timeout_s=_SIM_S).lines)
            if left is None or left[0] < left[1]:
                return Event.PIN_WRONG
        elif tried is Tried.REFUSED:
            return Event.PIN_WRONG
        try:
            # Before the act: should the power fail now, it counts as tried.
            self._memory.keep(pin, sim, Tried.UNSURE if tried is Tried.NEVER else Tried.REFUSED)
        except StateError as error:
            self._trouble = Problem.of(error)
            return Event.PIN_WANTED
        if self._at.ask(f'AT+CPIN="{pin}"', timeout_s=_SIM_S).ok:
            self._memory.forget()
            _log.info("modem: the SIM took the PIN")
            return Event.SIM_BUSY
        _log.error("modem: the SIM refused the PIN: it is not tried again")
        try:
            self._memory.keep(pin, sim, Tried.REFUSED)
        except StateError:
            pass  # it says "unsure", which keeps it from a second try as well: the SIM has counted this one
        return Event.PIN_WRONG

    def _sim_id(self) -> str:
        """The SIM's number (ICCID, ITU-T E.118): no standard command, most modems know this one."""
        for line in self._at.ask("AT+CCID").lines:
            found = re.fullmatch(r'\+CCID:\s*"?(\d{18,22}F?)"?', line)
            if found:
                return found[1]
        return ""

    def _look_at_network(self, now: float) -> Event:
        at = self._at
        found = []
        for command in ("+CEREG", "+CGREG", "+CREG"):
            answer = at.ask(f"AT{command}?")
            sim = answers.sim_of_error(answer.error)
            if sim is not None:
                return self._look_at_sim() if sim in (Sim.PIN, Sim.READY) else _SIM_EVENTS[sim]
            found.append(answers.registration(answer.lines, command))
        self._silences = 0
        operator = answers.operator(at.ask("AT+COPS?", timeout_s=_OPERATOR_S).lines) or Operator()
        signal = answers.signal_dbm(at.ask("AT+CSQ").lines)
        if operator.technology.startswith(("LTE", "NR", "NB")):
            signal = answers.rsrp_dbm(at.ask("AT+CESQ").lines) or signal
        # Any domain that says "abroad" counts: data there can be dear.
        registration = Registration.ROAMING if Registration.ROAMING in found else answers.best(found)
        self._view = replace(self._view, registration=registration, operator=operator, signal_dbm=signal)
        match registration:
            case Registration.ROAMING if not self._settings.roaming:
                return Event.ROAMS
            case Registration.HOME | Registration.ROAMING:
                self._table_told = False
                return Event.REGISTERED
            case Registration.DENIED:
                return Event.REFUSED
        if self._searching_since is None:
            self._searching_since = now
        if self._searched_s(now) > machine.STUCK_SEARCH_S:
            self._searching_since = None
            return Event.STUCK
        return Event.UNREGISTERED

    def _watch(self, now: float) -> Event | None:
        """While nothing else is to be done: does it still answer, is the network still there?"""
        if now < self._watch_at:
            return None
        self._watch_at = now + _WATCH_S
        event = self._look_at_network(now)
        return None if event is Event.REGISTERED else event

    def _call(self, now: float, roll: float) -> Event:
        at = self._channel(self._options.device)
        if self._settings.apn:
            at.ask(f'AT+CGDCONT={_CONTEXT},"IP","{self._settings.apn}"')
        for number in _NUMBERS:
            answer = at.ask(f"ATD{number}", timeout_s=_DIAL_S)
            if answer.ok:
                break
            if answer.final != "ERROR":
                return self._call_failed(answer.final, now, roll)
        else:
            return self._call_failed("ERROR", now, roll)
        try:
            self._ppp.start(self._options.device, Login(self._settings.user, self._settings.password))
        except (OSError, ValueError) as error:
            self._close()  # DTR falls: the modem ends the call
            return self._call_failed(f"pppd: {error}", now, roll)
        self._called_at = now
        self._hanging_up_since = None
        return Event.CALLED

    def _call_failed(self, reason: str, now: float, roll: float) -> Event:
        self._call_failures += 1
        self._call_at = now + machine.CALL_AGAIN.delay_s(self._call_failures, roll)
        self._call_trouble = Problem("agent.modem-call-failed", {"reason": reason[:80]})
        _log.warning("modem: no call: %s; the next in %.0f s", reason, self._call_at - now)
        if self._call_failures % machine.STUCK_CALLS == 0 and self._view.state is State.READY:
            return Event.STUCK
        return Event.CALL_FAILED

    def _watch_call(self, now: float, roll: float, spent: bool) -> Event | None:
        dialling = self._view.state is State.DIALLING
        if self._ppp.pid is None:
            ended = self._ppp.ended()
            if ended.total_bytes is not None:
                self._carried.append(ended.total_bytes)
            self._close()
            good = not dialling and now - self._called_at >= _GOOD_CALL_S
            wanted = self._hanging_up_since is not None and not dialling
            self._hanging_up_since = None
            if good or wanted:
                self._call_failures = 0
                self._call_at = now
                _log.info("modem: the call ended: %s", ended.reason)
            else:
                self._call_failed(ended.reason, now, roll)
            return Event.CALL_FAILED if dialling else Event.CALL_ENDED
        if self._hanging_up_since is not None:
            if now - self._hanging_up_since > _HANG_UP_S:
                self._ppp.kill()
        elif spent or (dialling and now - self._called_at > _AGREE_S):
            self._hanging_up_since = now
            self._ppp.hang_up()
        elif dialling and self._linked():
            self._call_trouble = None
            if self._options.control is None:
                self._close()  # pppd holds it
            else:
                self._close_port(self._options.device)
            _log.info("modem: connected")
            return Event.CONNECTED
        elif not dialling and self._options.control is not None and now >= self._watch_at:
            self._watch_at = now + _WATCH_S
            if self._look_at_network(now) is Event.ROAMS:
                self._hanging_up_since = now
                self._ppp.hang_up()
        return None

    def _climb(self, now: float, roll: float) -> Event | None:
        has_hook = self._options.hook is not None
        if self._resume_at is None:
            rung = machine.rung(self._silences, has_hook=has_hook)
            self._resume_at = now + machine.wait_s(self._silences, roll, has_hook=has_hook)
            _log.warning("modem: no answer (%d times): %s", self._silences, rung.value)
            self._try(rung)
        if now < self._resume_at:
            return None
        self._resume_at = None
        return Event.TRIED

    def _try(self, rung: Rung) -> None:
        with _attempt(rung):
            match rung:
                case Rung.RETRY:
                    # It may still be in a call: three plus signs with silence around them (V.250).
                    self._sleep(_GUARD_S)
                    self._port.write(b"+++")
                    self._sleep(_GUARD_S)
                case Rung.RESET_PROFILE:
                    self._at.tell("ATZ")
                case Rung.DROP_DTR:
                    if not self._at.drop_dtr(1.0):
                        self._close()
                case Rung.RESTART:
                    self._at.tell("AT+CFUN=1,1")
                    self._sleep(ANSWER_S / 5)
                    self._close()
                case Rung.HOOK:
                    self._close()
                    self._runner.run([str(self._options.hook), self._options.device], timeout_s=_HOOK_S)

    def _searched_s(self, now: float) -> float:
        return 0.0 if self._searching_since is None else now - self._searching_since

    def _move(self, event: Event) -> None:
        before, after = self._view.state, machine.after(self._view.state, event)
        if before is not after:
            _log.info("modem: %s -> %s (%s)", before.value, after.value, event.value)
        self._view = replace(self._view, state=after)
        if after in (State.ABSENT, State.SILENT) and event is not Event.CALL_ENDED:
            self._view = replace(self._view, signal_dbm=None, operator=Operator(), registration=Registration.NONE)

    @property
    def _port(self) -> Port:
        device = self._options.control or self._options.device
        self._channel(device)
        return self._ports[device]

    @property
    def _at(self) -> AtChannel:
        return self._channel(self._options.control or self._options.device)

    def _channel(self, device: str) -> AtChannel:
        if device not in self._ports:
            self._ports[device] = self._open_port(device)
        return AtChannel(self._ports[device], device)

    def _close(self) -> None:
        for device in tuple(self._ports):
            self._close_port(device)

    def _close_port(self, device: str) -> None:
        port = self._ports.pop(device, None)
        if port is not None:
            port.close()


@contextmanager
def _attempt(rung: Rung) -> Iterator[None]:
    """Something tried on a modem that is in trouble anyway: what fails is said, and the next rung follows."""
    try:
        yield
    except (ModemSilentError, LinuxError) as error:
        _log.warning("modem: %s: %s", rung.value, error)
