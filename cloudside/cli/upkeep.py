"""What `kyoten worker` does for certificates and strangers, on its clock: each a chore that can be repeated."""

from datetime import datetime
from typing import TYPE_CHECKING

from cloudside.cli.context import Cli

if TYPE_CHECKING:
    from cloudside.alerts.worker import Chore

#: Lists live for a week and certificates for a year; both are renewed long before their end.
_CERTIFICATES_EVERY_S = 3600.0
#: A change to many sites waits seconds between its steps.
_SETTINGS_EVERY_S = 2.0
_REQUESTS_EVERY_S = 30.0
#: The shortest quiet that ends an incident is an hour.
_STRANGERS_EVERY_S = 60.0


def chores(cli: Cli) -> list["Chore"]:
    """Revocation lists, this node's own certificates, certificates of prefixes that were left, quiet strangers; steps
    of settings changes, requests to routers whose time is over."""
    from cloudside.alerts.worker import Chore
    from cloudside.fleet import requests, strangers
    from cloudside.fleet import settings_changes as steps
    from cloudside.pki import initialise, renewal, revocation
    from cloudside.registry.database import Doorbell

    def ring() -> None:
        Doorbell(cli.config.runtime_directory, "gateway", cli.database).ring()

    def lists(now: datetime) -> None:
        with cli.database.write() as session:
            renewed = revocation.renew_expiring(session, cli.config, now=now)
        if renewed.lists:
            ring()
        if renewed.troubles:
            raise renewed.troubles[0]

    def own(now: datetime) -> None:
        with cli.database.write() as session:
            renewed = initialise.renew_own(session, cli.config, now=now)
        if renewed:
            ring()

    def left_behind(now: datetime) -> None:
        with cli.database.write() as session:
            ended = renewal.retire_left_behind(session, cli.config, now=now)
        if ended:
            ring()

    def quiet(now: datetime) -> None:
        with cli.database.write() as session:
            strangers.close_quiet(session, now)

    def settings_changes(now: datetime) -> None:
        steps.step_all(cli.database, steps.Times.of(cli.config.web), now)

    def old_requests(now: datetime) -> None:
        requests.end_overdue(cli.database, keep_days=cli.config.history_days, now=now)

    return [
        Chore("settings-changes", _SETTINGS_EVERY_S, settings_changes),
        Chore("requests", _REQUESTS_EVERY_S, old_requests),
        Chore("revocation-lists", _CERTIFICATES_EVERY_S, lists),
        Chore("own-certificates", _CERTIFICATES_EVERY_S, own),
        Chore("certificates-left-behind", _CERTIFICATES_EVERY_S, left_behind),
        Chore("strangers", _STRANGERS_EVERY_S, quiet),
    ]
