"""Renewal: when, with which key, what is taken, what a trial decides, and where a restart finds it."""

import errno
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from enrolment_papers import SITE, Papers, make_papers

from router_agent import bundle, device, identity
from router_agent.enrolment import renew, request, waiting
from router_agent.enrolment.certificates import Validity, validity
from router_agent.enrolment.renew import Line, Verdict
from router_agent.enrolment.renewal import Renewal
from router_agent.errors import CloudRefusedError, CloudUnreachableError
from router_agent.identity import Identity

PAPERS = make_papers()
NOW = datetime.now(UTC)
YEAR = Validity(NOW, NOW + timedelta(days=365), 7)
UP = Line(proven=True, unanswered=False)
DOWN = Line(proven=False, unanswered=False)
AWAY = Line(proven=False, unanswered=True)


def test_the_last_third_of_a_life_and_a_fleet_is_spread_over_a_tenth_of_it() -> None:
    third = YEAR.ends - timedelta(days=365) / 3
    assert renew.due_at(YEAR, 0.0) == third
    assert renew.due_at(YEAR, 0.999999) < third + timedelta(days=36.5)
    rolls = [renew.spread(f"{number:064x}", 7) for number in range(1000)]
    days = [int(roll * 36.5) for roll in rolls]
    assert max(days.count(day) for day in set(days)) < 60, "27 a day on average"
    assert renew.spread("a", 7) == renew.spread("a", 7)


def wants(state: renew.State | None = None, *, now: float = 0, day: float = 300, **changed: object) -> bool:
    given: dict[str, object] = {"skew_s": 0.0, "roll": 0.5, "asked": False, **changed}
    state = state or renew.start(0, on_trial=False)
    return renew.wants(state, YEAR, now=now, clock=NOW + timedelta(days=day), **given)  # type: ignore[arg-type]


def test_it_is_asked_for_in_time_or_when_the_cloud_wants_it_and_never_in_a_loop() -> None:
    assert not wants(day=200)
    assert wants(day=300)
    assert wants(day=10, asked=True)
    assert not wants(day=400), "an expired certificate cannot renew itself"
    failed = renew.failed(renew.start(0, on_trial=False), 0.0, 0.5)
    assert not wants(failed, now=1)
    assert not wants(failed, now=1, asked=True)
    assert wants(failed, now=601)
    for _ in range(10):
        failed = renew.failed(failed, 0.0, 0.999)
    assert not wants(failed, now=5 * 3600)
    assert wants(failed, now=6 * 3600)
    assert not wants(renew.asking(failed, 0), now=1e9), "one request at a time"


@pytest.mark.parametrize("year_s", [365 * 86_400.0, -365 * 86_400.0])
def test_a_clock_that_is_a_year_off_does_not_renew_until_the_cloud_asks(year_s: float) -> None:
    assert not wants(day=300, skew_s=year_s)
    assert wants(day=300, skew_s=year_s, asked=True)
    assert wants(day=300, skew_s=None), "a cloud that never said its time is no reason to let the certificate end"


def test_a_trial_is_undone_only_when_the_gateways_answer_and_the_old_one_counts() -> None:
    def judged(line: Line, *, now: float, old: timedelta = timedelta(days=50)) -> Verdict:
        return renew.judge(renew.trying(0), line, now=now, clock=NOW, old_ends=NOW + old)

    assert judged(UP, now=1) is Verdict.KEEP
    assert judged(DOWN, now=10) is Verdict.WAIT
    assert judged(DOWN, now=renew.TRIAL_S) is Verdict.UNDO
    assert judged(AWAY, now=1e6) is Verdict.WAIT
    assert judged(DOWN, now=1e6, old=-timedelta(days=1)) is Verdict.WAIT


class Router:
    """A renewal on a state directory; what it asked for and what the agent was told to use."""

    def __init__(self, state: Path, papers: Papers = PAPERS) -> None:
        self.state = state
        self.papers = papers
        self.asked: list[str] = []
        self.adopted: list[tuple[Identity, bool]] = []
        self.proven: list[Identity] = []
        if not identity.is_installed(state):
            enrol(state, papers)
        self.renewal = Renewal(
            identity.load(state),
            state,
            ask=self.asked.append,
            adopt=lambda who, back: self.adopted.append((who, back)),
            prove=self.proven.append,
            now=0,
        )

    def step(self, now: float = 0, *, clock: datetime = NOW, asked: bool = True, line: Line = DOWN) -> None:
        self.renewal.step(now, clock, asked=asked, skew_s=0.0, line=line, roll=0.5)

    def answer(self, files: Mapping[str, bytes] | None = None, *, now: float = 0, **document: object) -> None:
        sent = self.files(**document) if files is None else files
        self.renewal.answered(sent, now, NOW, 0.5)

    def files(self, **document: object) -> dict[str, bytes]:
        found = self.papers.files(self.asked[-1].encode(), **document)
        return {name: found[name] for name in ("site.crt", "tenant-authority.crt", "bundle.json")}

    def problems(self) -> list[str]:
        return [problem.key for problem in self.renewal.problems(NOW)]


def enrol(state: Path, papers: Papers) -> None:
    device.manufacture(state)
    waits = waiting.prepare(state, waiting.FIRST, SITE)
    identity.install(bundle.of_files(papers.files(waits.csr_pem)), state)


def certificate(state: Path) -> bytes:
    return (state / "identity" / "site.crt").read_bytes()


def test_a_renewal_has_a_new_key_keeps_the_rest_and_the_old_one_until_it_is_proven(tmp_path: Path) -> None:
    router = Router(tmp_path)
    before = identity.members(identity.load(tmp_path))
    router.step()
    router.answer()
    [(adopted, given_back)] = router.adopted
    assert not given_back
    after = identity.members(adopted)
    assert {name for name in after if after[name] != before[name]} == {"site.key", "site.crt"}
    assert validity(after["site.crt"]) != validity(before["site.crt"])
    assert identity.is_on_trial(tmp_path)
    assert router.proven == []
    router.step(1, line=UP)
    assert not identity.is_on_trial(tmp_path)
    assert router.proven == [adopted]
    assert sorted(place.name for place in tmp_path.iterdir()) == ["device_id", "identity"]
    assert router.problems() == []


def test_a_refused_one_is_given_back_and_asked_for_again_much_later(tmp_path: Path) -> None:
    router = Router(tmp_path)
    old = certificate(tmp_path)
    router.step()
    router.answer()
    assert certificate(tmp_path) != old
    router.step(renew.TRIAL_S - 1)
    assert certificate(tmp_path) != old
    router.step(renew.TRIAL_S)
    assert certificate(tmp_path) == old
    assert [given_back for _, given_back in router.adopted] == [False, True]
    assert len(router.proven) == 1
    assert router.problems() == ["agent.certificate-refused"]
    router.step(renew.TRIAL_S + 10)
    assert len(router.asked) == 1
    router.step(renew.TRIAL_S + 700)
    assert len(router.asked) == 2


def test_a_restart_after_the_request_goes_on_with_the_same_key(tmp_path: Path) -> None:
    first = Router(tmp_path)
    first.step()
    again = Router(tmp_path)
    again.step()
    keys = [x509.load_pem_x509_csr(asked.encode()).public_key() for asked in (*first.asked, *again.asked)]
    assert keys[0] == keys[1]


def test_a_restart_in_the_middle_of_a_trial_goes_on_with_the_trial(tmp_path: Path) -> None:
    first = Router(tmp_path)
    old = certificate(tmp_path)
    first.step()
    first.answer()
    again = Router(tmp_path)
    assert again.renewal.on_trial
    again.step(renew.TRIAL_S)
    assert certificate(tmp_path) == old


def test_a_power_cut_between_the_renames_keeps_the_one_before(tmp_path: Path) -> None:
    router = Router(tmp_path)
    old = certificate(tmp_path)
    (tmp_path / "identity").rename(tmp_path / "identity.before")
    assert identity.is_installed(tmp_path)
    assert identity.load(tmp_path).path("site.crt").read_bytes() == old
    router.step()
    router.answer()
    # Cut off while it was given back: the one on trial was already moved away.
    (tmp_path / "identity").rename(tmp_path / "identity.old")
    identity.load(tmp_path)
    assert certificate(tmp_path) == old


def test_what_the_cloud_has_nothing_new_for_is_asked_again_later(tmp_path: Path) -> None:
    router = Router(tmp_path)
    installed = identity.members(identity.load(tmp_path))
    router.step()
    router.answer({"site.crt": installed["site.crt"], "tenant-authority.crt": installed["tenant-authority.crt"]})
    assert router.adopted == []
    assert router.problems() == []
    router.step(60)
    assert len(router.asked) == 1


def test_a_certificate_for_the_key_in_use_is_taken_too(tmp_path: Path) -> None:
    router = Router(tmp_path)
    key = identity.load(tmp_path).path("site.key").read_bytes()
    router.step()
    router.asked.append(request.request_for(SITE, key).decode())
    router.answer(overlay="10.10.2.0/24")
    [(moved, _)] = router.adopted
    assert str(moved.enrolment.overlay) == "10.10.2.0/24"
    assert moved.path("site.key").read_bytes() == key


@pytest.mark.parametrize(
    ("papers", "document"),
    [
        (PAPERS.attacked(common_name="osaka-1"), {}),
        (PAPERS, {"site": "osaka-1"}),
        (PAPERS.attacked(block="10.11.0.0/16"), {}),
        (make_papers(), {}),
    ],
)
def test_what_does_not_fit_changes_nothing(tmp_path: Path, papers: Papers, document: dict[str, object]) -> None:
    router = Router(tmp_path)
    before = identity.members(identity.load(tmp_path))
    router.step()
    router.papers = papers
    router.answer(**document)
    assert identity.members(identity.load(tmp_path)) == before
    assert router.adopted == []
    assert router.problems() == ["agent.renewal-unfit"]


@pytest.mark.parametrize("files", [{}, {"site.crt": b"junk"}, {"../x": b"y"}, {"site.key": b"-----BEGIN x"}])
def test_nor_does_anything_else(tmp_path: Path, files: dict[str, bytes]) -> None:
    router = Router(tmp_path)
    before = certificate(tmp_path)
    router.step()
    router.answer(files)
    assert certificate(tmp_path) == before
    assert router.adopted == []


def test_a_refusal_and_silence_are_told_apart_and_a_success_forgets_them(tmp_path: Path) -> None:
    router = Router(tmp_path)
    router.step()
    router.renewal.refused(CloudUnreachableError("agent.cloud-unreachable", endpoint="x", reason="y"), 0, 0.5)
    assert router.problems() == ["agent.renewal-unanswered"]
    router.step(1000)
    router.renewal.refused(CloudRefusedError("agent.cloud-refused", endpoint="x", status=403), 1000, 0.5)
    assert router.problems() == ["agent.renewal-refused"]
    router.step(9000)
    router.answer(now=9000)
    assert router.problems() == []


def test_a_full_disk_asks_for_nothing_and_installs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    router = Router(tmp_path)
    before = certificate(tmp_path)
    monkeypatch.setattr(waiting, "write_durably", full)
    router.step()
    assert router.asked == []
    assert router.problems() == ["agent.state-unwritable"]
    monkeypatch.undo()
    router.step(1000)
    monkeypatch.setattr(identity, "write_durably", full)
    router.answer(now=1000)
    assert certificate(tmp_path) == before
    assert router.adopted == []


def test_an_expired_certificate_and_a_clock_before_it_are_told(tmp_path: Path) -> None:
    router = Router(tmp_path)
    late, early = NOW + timedelta(days=400), NOW - timedelta(days=365)
    assert [problem.key for problem in router.renewal.problems(late)] == ["agent.certificate-expired"]
    assert [problem.key for problem in router.renewal.problems(early)] == ["agent.clock-behind"]
    router.step(clock=late, asked=False)
    router.step(clock=early, asked=False)
    assert router.asked == []


def test_the_bundle_of_the_first_day_does_not_undo_a_renewal(tmp_path: Path) -> None:
    members = PAPERS.old_bundle()
    enrolment = bundle.parse_enrolment(members["bundle.json"], [])
    assert enrolment is not None
    given = bundle.Bundle(enrolment, members, digest="0f")
    identity.install(given, tmp_path)
    router = Router(tmp_path)
    router.step()
    router.answer()
    router.step(1, line=UP)
    renewed = certificate(tmp_path)
    identity.install(given, tmp_path)
    assert certificate(tmp_path) == renewed
