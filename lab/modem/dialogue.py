"""One command, what the modem says: 3GPP TS 27.007, the parts that a router uses. No terminal, no clock."""

import re

from lab.modem.profile import Profile

_BARE = frozenset({"AT", "ATZ", "AT&F", "AT+CMEE=1", "AT+CFUN=1", "AT+CFUN=1,1", "ATH", "AT&D2"})


class Dialogue:
    """The modem's memory: unlocked or not, verbose errors or not, echo."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.restart()

    def restart(self) -> None:
        """As after power-on."""
        self.echo = self.profile.echo
        self.numeric = False
        self.unlocked = False
        self.contexts: list[str] = []

    def answer(self, command: str) -> list[str]:
        """The lines, the result code last."""
        if command in _BARE:
            return self._plain(command)
        if command in ("ATE0", "ATE1"):
            self.echo = command == "ATE1"
            return ["OK"]
        if command == "AT+CGSN":
            return [self.profile.imei, "OK"]
        if command == "AT+CCID":
            return [f"+CCID: {self.profile.iccid}", "OK"] if self.profile.sim != "missing" else [self._error(10)]
        if command.startswith("AT+CPIN"):
            return self._pin(command)
        blocked = self._blocked()
        if blocked:
            return [blocked]
        return self._network(command)

    def _plain(self, command: str) -> list[str]:
        if command == "AT+CMEE=1":
            self.numeric = True
        if command in ("ATZ", "AT&F"):
            self.echo = self.profile.echo
        return ["OK"]

    def _pin(self, command: str) -> list[str]:
        profile = self.profile
        if command == "AT+CPINR":
            return [f"+CPINR: SIM PIN,{profile.pin_tries},3", "OK"] if profile.knows_cpinr else ["ERROR"]
        state = self._sim()
        if command == "AT+CPIN?":
            codes = {"ready": "READY", "pin": "SIM PIN", "puk": "SIM PUK"}
            broken = {"missing": 10, "broken": 13}
            return [f"+CPIN: {codes[state]}", "OK"] if state in codes else [self._error(broken[state])]
        typed = re.fullmatch(r'AT\+CPIN="?(\d{4,8})"?', command)
        if typed is None or state != "pin":
            return [self._error(3)]
        if typed[1] == profile.pin:
            self.unlocked = True
            profile.pin_tries = 3
            return ["OK"]
        profile.pin_tries -= 1
        if profile.pin_tries <= 0:
            profile.sim = "puk"
            return [self._error(12)]
        return [self._error(16)]

    def _network(self, command: str) -> list[str]:
        profile = self.profile
        registered = profile.registration in (1, 5)
        match command:
            case "AT+CREG?" | "AT+CGREG?" | "AT+CEREG?":
                return [f"{command[2:-1]}: 0,{profile.registration}", "OK"]
            case "AT+CSQ":
                return [f"+CSQ: {profile.csq},99", "OK"]
            case "AT+CESQ":
                return [f"+CESQ: 99,99,255,255,20,{profile.rsrp}", "OK"]
            case "AT+COPS?":
                shown = f'0,2,"{profile.operator}",{profile.technology}' if registered else "0"
                return [f"+COPS: {shown}", "OK"]
        if command.startswith("AT+CGDCONT="):
            self.contexts.append(command.partition("=")[2])
            return ["OK"]
        if command.startswith("ATD"):
            if not registered:
                return ["NO CARRIER"]
            return ["CONNECT 150000000"] if profile.call in ("connect", "silent") else [profile.call]
        return ["ERROR"]

    def _sim(self) -> str:
        return "ready" if self.profile.sim == "pin" and self.unlocked else self.profile.sim

    def _blocked(self) -> str:
        codes = {"missing": 10, "pin": 11, "puk": 12, "broken": 13}
        state = self._sim()
        return self._error(codes[state]) if state in codes else ""

    def _error(self, code: int) -> str:
        return f"+CME ERROR: {code}" if self.numeric else "ERROR"
