"""Devices that send mail as fast as they may, and write down each 250.

A mail whose answer never came is not sent again: nobody promised anything about it, and a second copy would look like
one of the relay's own.
"""

import itertools
import smtplib
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from lab.mail_proof.ledger import Ledger
from lab.mail_proof.traffic import Fate, Mail, Mix, fate_of, made

_TIMEOUT_S = 30.0
_AGAIN_S = 0.02
_PAUSE_S = 0.05


class Clients:
    """One thread for each of ``sources`` (addresses that the mail comes from). Numbers of mails begin at ``first``."""

    def __init__(
        self,
        ledger: Ledger,
        port: int,
        sources: Sequence[str],
        *,
        mix: Mix,
        first: int = 0,
        rest_s: float = 0.0,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        self._ledger = ledger
        self._port = port
        self._mix = mix
        self._rest_s = rest_s
        self._may_send = may_send
        self._numbers = itertools.count(first)
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(source,), daemon=True) for source in sources]
        #: Mails that got their 250.
        self.promised: set[int] = set()
        #: Recipients of theirs that the smarthost will settle sooner or later.
        self.owed = 0
        #: Mails that were begun and got no answer: they may be there or not.
        self.in_doubt: set[int] = set()
        #: Answers of 4xx and 5xx, by code.
        self.refused: dict[int, int] = {}
        #: Called at each 250 before anything else; for whoever wants to kill the relay at this very moment.
        self.on_promise: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def give_up(self) -> None:
        """Begin nothing new."""
        self._stopped.set()

    def stop(self, timeout_s: float = 40.0) -> None:
        """Finish the mails under way, then end. Raises TimeoutError."""
        self._stopped.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
            if thread.is_alive():
                raise TimeoutError("a client of the rig does not end")

    def _work(self, source: str) -> None:
        client: smtplib.SMTP | None = None
        while not self._stopped.is_set():
            if not self._may_send():
                time.sleep(_PAUSE_S)
                continue
            if client is None:
                client = self._connected(source)
            elif self._send(client, made(next(self._numbers), self._mix)):
                time.sleep(self._rest_s)
            else:
                client.close()
                client = None
        if client is not None:
            with suppress(smtplib.SMTPException, OSError):
                client.quit()

    def _connected(self, source: str) -> smtplib.SMTP | None:
        try:
            client = smtplib.SMTP(
                "127.0.0.1", self._port, local_hostname="plc", timeout=_TIMEOUT_S, source_address=(source, 0)
            )
            client.ehlo()
        except (smtplib.SMTPException, OSError):
            time.sleep(_AGAIN_S)
            return None
        return client

    def _send(self, client: smtplib.SMTP, mail: Mail) -> bool:
        """False: the connection is of no use any more."""
        try:
            code, _ = client.mail(mail.sender)
            for recipient in mail.recipients:
                if code == 250:
                    code, _ = client.rcpt(recipient)
            if code != 250:
                return self._refused(code)
            self.in_doubt.add(mail.number)
            code, _ = client.data(mail.content)
        except (smtplib.SMTPException, OSError):
            return False
        self.in_doubt.discard(mail.number)
        if code != 250:
            return self._refused(code)
        if self.on_promise is not None:
            self.on_promise()
        self._ledger.promise(mail.number)
        self.promised.add(mail.number)
        self.owed += sum(fate_of(recipient) is not Fate.NEVER for recipient in mail.recipients)
        return True

    def _refused(self, code: int) -> bool:
        self.refused[code] = self.refused.get(code, 0) + 1
        time.sleep(_AGAIN_S)
        return False
