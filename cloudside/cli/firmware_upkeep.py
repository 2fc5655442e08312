"""What `kyoten worker` does for firmware metadata: renew what this node signs, tell staff when holders have to sign."""

from datetime import datetime
from typing import TYPE_CHECKING

from cloudside.cli.context import Cli

if TYPE_CHECKING:
    from cloudside.alerts.worker import Chore

#: The timestamp lives for two days and is renewed when one is over.
_EVERY_S = 3600.0


def chores(cli: Cli) -> list["Chore"]:
    """Nothing of TUF is in memory where this node has no repository."""
    from cloudside.alerts.worker import Chore

    def metadata(now: datetime) -> None:
        if cli.config.firmware_directory.is_dir():
            from cloudside.fleet import releases

            releases.renew(cli.config, now)

    def signatures(now: datetime) -> None:
        if cli.config.firmware_directory.is_dir():
            from cloudside.fleet import releases

            releases.require_signatures(cli.config, now)

    return [Chore("firmware-metadata", _EVERY_S, metadata), Chore("firmware-signatures", _EVERY_S, signatures)]
