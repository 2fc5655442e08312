"""A tunnel with a new certificate beside the one with the old. Pure but for its memory.

charon takes a changed connection for another one, so initiating it makes a second IKE_SA while the first stands. When
the second carries, the first is ended, by the router or by the gateway (``unique=replace``). Refused, the second
vanishes and nothing is lost. Which is which tell charon's own numbers: they only grow while it runs.
"""

from collections.abc import Iterable

from linux.charon import IkeSa


class Takeover:
    """Which tunnels stand with the certificate that is used now."""

    def __init__(self) -> None:
        self._wanted = False
        self._before = 0
        self._newest = 0

    def begin(self) -> None:
        """Another certificate is used from now on; every tunnel that stands has the one before."""
        self._wanted = True

    def give_up(self) -> None:
        """The certificate before is used again: what stands was made with it."""
        self._wanted = False
        self._before = 0

    def charon_started(self) -> None:
        """A new charon numbers anew and knows the new certificate only."""
        self._wanted = False
        self._before = self._newest = 0

    def due(self, sas: Iterable[IkeSa], *, standing: bool) -> bool:
        """Look at the tunnels that charon shows; whether to initiate beside one that stands."""
        self._newest = max((self._newest, *(sa.unique_id for sa in sas)))
        return self._wanted and standing

    def initiated(self) -> None:
        """A tunnel is being made with what is loaded now: it gets a number above all that were seen."""
        if self._wanted:
            self._wanted = False
            self._before = self._newest

    def outlived(self, sas: Iterable[IkeSa]) -> tuple[int, ...]:
        """The numbers of tunnels with the certificate before."""
        return () if self._wanted else tuple(sa.unique_id for sa in sas if sa.unique_id <= self._before)

    def is_new(self, sa: IkeSa | None) -> bool:
        """Whether this tunnel was made with the certificate used now."""
        return sa is not None and not self._wanted and sa.unique_id > self._before
