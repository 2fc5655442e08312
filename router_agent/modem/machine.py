"""Where a modem stands, what may follow what, and what is tried on one that hangs. Pure."""

from enum import Enum

from router_agent.backoff import Backoff


class State(Enum):
    """The values are the report's words."""

    #: The device file is not there or cannot be opened.
    ABSENT = "absent"
    #: It was opened; the first commands.
    STARTING = "starting"
    #: No answer: see `Rung`.
    SILENT = "silent"
    SIM = "sim"
    SIM_MISSING = "sim-missing"
    SIM_FAILED = "sim-failed"
    #: The SIM wants a PIN and none is set.
    PIN_MISSING = "pin-missing"
    #: The PIN that is set was refused by the SIM: never tried again until another one is set.
    PIN_REFUSED = "pin-refused"
    PUK = "puk"
    SEARCHING = "searching"
    DENIED = "denied"
    #: Abroad, and the settings do not permit it.
    ROAMING_FORBIDDEN = "roaming-forbidden"
    #: Registered; a call follows at once, or after the wait that the last failure asks for.
    READY = "ready"
    #: The modem has the network's answer; pppd negotiates.
    DIALLING = "dialling"
    #: The month's data are spent, and the settings say that the line ends then.
    HELD = "held"
    CONNECTED = "connected"


class Event(Enum):
    """What a look at the modem, or something tried on it, came to."""

    OPENED = "opened"
    LOST = "lost"
    NO_ANSWER = "no-answer"
    ANSWERED = "answered"
    #: A rung of the ladder was climbed and its wait is over: try to speak to it again.
    TRIED = "tried"
    SIM_READY = "sim-ready"
    SIM_BUSY = "sim-busy"
    SIM_ABSENT = "sim-absent"
    SIM_BROKEN = "sim-broken"
    PIN_WANTED = "pin-wanted"
    PIN_WRONG = "pin-wrong"
    PUK_WANTED = "puk-wanted"
    REGISTERED = "registered"
    UNREGISTERED = "unregistered"
    REFUSED = "refused"
    ROAMS = "roams"
    #: Registered nowhere, or calls failing, for so long that the modem itself is in doubt.
    STUCK = "stuck"
    SPENT = "spent"
    ALLOWED = "allowed"
    CALLED = "called"
    CONNECTED = "connected"
    CALL_FAILED = "call-failed"
    CALL_ENDED = "call-ended"
    #: The settings changed: everything is looked at anew.
    CHANGED = "changed"


_SIM_EVENTS = {
    Event.SIM_READY: State.SEARCHING,
    Event.SIM_BUSY: State.SIM,
    Event.SIM_ABSENT: State.SIM_MISSING,
    Event.SIM_BROKEN: State.SIM_FAILED,
    Event.PIN_WANTED: State.PIN_MISSING,
    Event.PIN_WRONG: State.PIN_REFUSED,
    Event.PUK_WANTED: State.PUK,
}
_NETWORK_EVENTS = {
    Event.REGISTERED: State.READY,
    Event.UNREGISTERED: State.SEARCHING,
    Event.REFUSED: State.DENIED,
    Event.ROAMS: State.ROAMING_FORBIDDEN,
    Event.STUCK: State.SILENT,
    # A SIM that is pulled out in the middle.
    **{event: state for event, state in _SIM_EVENTS.items() if event is not Event.SIM_READY},
}
_LOOKS_AT_SIM = (
    State.SIM, State.SIM_MISSING, State.SIM_FAILED, State.PIN_MISSING, State.PIN_REFUSED, State.PUK,
)  # fmt: skip
_LOOKS_AT_NETWORK = (
    State.SEARCHING, State.DENIED, State.ROAMING_FORBIDDEN, State.READY, State.HELD,
)  # fmt: skip

#: Whatever is not in here is a bug.
TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.ABSENT, Event.OPENED): State.STARTING,
    # pppd of the agent before this one still runs.
    (State.ABSENT, Event.CONNECTED): State.CONNECTED,
    (State.STARTING, Event.ANSWERED): State.SIM,
    (State.SILENT, Event.TRIED): State.ABSENT,
    **{(state, event): after for state in _LOOKS_AT_SIM for event, after in _SIM_EVENTS.items()},
    **{(state, event): after for state in _LOOKS_AT_NETWORK for event, after in _NETWORK_EVENTS.items()},
    (State.READY, Event.SPENT): State.HELD,
    (State.READY, Event.CALLED): State.DIALLING,
    (State.READY, Event.CALL_FAILED): State.READY,
    (State.HELD, Event.ALLOWED): State.READY,
    (State.DIALLING, Event.CONNECTED): State.CONNECTED,
    # Opened anew: pppd has left the line in a state of its own.
    (State.DIALLING, Event.CALL_FAILED): State.ABSENT,
    (State.CONNECTED, Event.CALL_ENDED): State.ABSENT,
    **{(state, Event.NO_ANSWER): State.SILENT for state in State if state is not State.ABSENT},
    **{(state, Event.LOST): State.ABSENT for state in State},
    **{(state, Event.CHANGED): State.STARTING for state in (*_LOOKS_AT_SIM, *_LOOKS_AT_NETWORK)},
}


def after(state: State, event: Event) -> State:
    """The next state. Raises KeyError: a bug."""
    return TRANSITIONS[state, event]


class Rung(Enum):
    """What is tried on a modem that does not answer, gentlest first."""

    RETRY = "retry"
    #: ATZ: the modem's stored profile (V.250 section 6.1.1).
    RESET_PROFILE = "atz"
    DROP_DTR = "dtr"
    #: AT+CFUN=1,1: restart (27.007 section 8.2). Some obey even when they answer nothing.
    RESTART = "cfun"
    #: The program given to the agent: power or USB reset.
    HOOK = "hook"


#: Seconds for the modem to come back after each rung; a restart takes 10 to 20 s.
SETTLE_S = {Rung.RETRY: 1.0, Rung.RESET_PROFILE: 2.0, Rung.DROP_DTR: 2.0, Rung.RESTART: 15.0, Rung.HOOK: 20.0}

#: A modem that survived the whole ladder is tried again ever more rarely, each second time with the hook.
LADDER_AGAIN = Backoff(first_s=30.0, most_s=1800.0)

#: Seconds until the next look, by state.
LOOK_S = {
    State.ABSENT: 5.0,
    State.STARTING: 0.0,
    State.SILENT: 0.5,
    State.SIM: 1.0,
    State.SIM_MISSING: 15.0,
    State.SIM_FAILED: 30.0,
    State.PIN_MISSING: 30.0,
    State.PIN_REFUSED: 60.0,
    State.PUK: 60.0,
    State.SEARCHING: 3.0,
    State.DENIED: 30.0,
    State.ROAMING_FORBIDDEN: 30.0,
    State.READY: 1.0,
    State.DIALLING: 0.5,
    State.HELD: 10.0,
    State.CONNECTED: 1.0,
}

#: Between calls that fail.
CALL_AGAIN = Backoff(first_s=4.0, most_s=300.0)

#: After so many calls that failed in a row, or so many seconds without a network, the modem is restarted.
STUCK_CALLS = 10
STUCK_SEARCH_S = 900.0


def rung(failures: int, *, has_hook: bool) -> Rung:
    """What to try after so many failures in a row (1 is the first)."""
    ladder = tuple(each for each in Rung if has_hook or each is not Rung.HOOK)
    if failures <= len(ladder):
        return ladder[max(failures, 1) - 1]
    return ladder[-1] if (failures - len(ladder)) % 2 == 0 else Rung.RETRY


def wait_s(failures: int, roll: float, *, has_hook: bool) -> float:
    """Seconds after that rung before the modem is spoken to."""
    beyond = failures - len(Rung) + (not has_hook)
    return SETTLE_S[rung(failures, has_hook=has_hook)] + LADDER_AGAIN.delay_s(beyond, roll)
