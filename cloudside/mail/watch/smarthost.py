"""The smarthost's troubles and the account's quota as incidents."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cloudside.mail.delivery.delivery import UNREACHABLE_GRACE_S, Delivery, Trouble
from cloudside.mail.delivery.outcome import Verdict
from cloudside.mail.delivery.quota import Quota, Supply
from cloudside.mail.watch import facts, remedies
from cloudside.mail.watch.ledger import DAILY_S, HOURLY_S, Facts, Ledger, Params

QUOTA = "smarthost-quota"
TROUBLES: Mapping[Verdict, str] = {
    Verdict.QUOTA: QUOTA,
    Verdict.REFUSED: "smarthost-refused",
    Verdict.UNREACHABLE: "smarthost-unreachable",
}
QUOTA_NEAR, QUOTA_RESERVE, QUOTA_UNKNOWN, DISABLED = "quota-near", "quota-reserve", "quota-unknown", "quota-disabled"


@dataclass(slots=True)
class SmarthostWatch:
    """The step of the watch that looks at the way out. ``name``: the smarthost's."""

    delivery: Delivery
    ledger: Ledger
    name: str

    async def run(self, now: datetime) -> None:
        """One look. Raises KyotenError."""
        quota = self.delivery.quota
        await self._watch_troubles(quota, now)
        supply = None if quota is None else quota.state
        near: dict[str, Facts] = {self.name: lambda: _quota_params(quota, now)} if quota is not None else {}
        await self.ledger.settle(QUOTA_NEAR, near if supply is Supply.NEAR else {}, now, remind_s=HOURLY_S)
        await self.ledger.settle(QUOTA_RESERVE, near if supply is Supply.RESERVE else {}, now, remind_s=HOURLY_S)
        disabled = near if quota is not None and not quota.enabled else {}
        await self.ledger.settle(DISABLED, disabled, now, remind_s=HOURLY_S)
        error = self.delivery.quota_error
        unknown: dict[str, Facts] = {self.name: lambda: _said({"reason": error})} if error else {}
        await self.ledger.settle(QUOTA_UNKNOWN, unknown, now, remind_s=DAILY_S)

    async def _watch_troubles(self, quota: Quota | None, now: datetime) -> None:
        trouble = self.delivery.trouble
        kind = None if trouble is None else TROUBLES.get(trouble.verdict)
        exhausted = quota is not None and quota.state is Supply.EXHAUSTED
        for each in TROUBLES.values():
            wanted: dict[str, Facts] = {}
            if each == kind and trouble is not None and _lasting(trouble, now):
                reply = trouble.reply
                wanted = {self.name: lambda reply=reply: _said({"reply": reply})}  # type: ignore[misc]
            elif each == QUOTA and exhausted and quota is not None:
                reply = f"{quota.sent_24h:.0f} of {quota.max_24h:.0f} within 24 hours"
                wanted = {self.name: lambda reply=reply: _said({"reply": reply})}  # type: ignore[misc]
            elif not self.delivery.tried or (trouble is not None and not _lasting(trouble, now)):
                continue  # nothing is known yet: what stands is left alone
            await self.ledger.settle(each, wanted, now, remind_s=HOURLY_S)


def _lasting(trouble: Trouble, now: datetime) -> bool:
    grace_s = UNREACHABLE_GRACE_S if trouble.verdict is Verdict.UNREACHABLE else 0.0
    return now.timestamp() - trouble.since >= grace_s


async def _said(params: Params) -> Params:
    return {**params, "waiting": "kyoten mail queue", "commands": remedies.of_queue()}


async def _quota_params(quota: Quota, now: datetime) -> Params:
    return {
        "sent": round(quota.sent_24h),
        "limit": round(quota.max_24h),
        "percent": round(100 * quota.sent_24h / quota.max_24h) if quota.max_24h > 0 else 0,
        "reserve": round(quota.reserve),
        "per_hour": round(quota.per_hour),
        "forecast": "-" if quota.exhausted_at is None else facts.shown_time(quota.exhausted_at),
        "commands": remedies.of_queue(),
    }
