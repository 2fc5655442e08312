"""Power cuts all through an update: the machine's disk at many moments, judged, and some of them booted.

``python -m lab.appliance.cuts DIRECTORY --cuts 1000 --booted 60 --jobs 2`` works on what `update` recorded there
(``start.img``, ``writes.log``). Each cut is written down as it is judged or booted (``cuts.jsonl``); a second run goes
on where the first one ended. The last line is JSON; the status is 1 if anything is not as it must be.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock, Semaphore

from lab.appliance import cut_boot, cut_choice
from lab.appliance.cut_choice import Cut
from lab.appliance.judge import Judge, Verdict, document, parse
from lab.appliance.update import LOG, START
from lab.network import LabError
from lab.power_cut.disk import Disk
from lab.power_cut.write_log import WriteLog
from router_agent.update.machine import Stage

RESULTS = "cuts.jsonl"
SEED = 7
#: Disks are rebuilt a thousand times: in memory.
MEMORY = Path("/dev/shm")
#: A disk that ignores flushes, to show that the judge can see a loss.
LYING_CUTS = 4

Say = Callable[[str], None]
Record = dict[str, object]


@dataclass(frozen=True, slots=True)
class Recording:
    """What `update` recorded, and a place for disks; both open for a while."""

    log: WriteLog
    start: Path
    place: Path

    def at(self, cuts: Sequence[Cut], *, lying: bool = False) -> Iterator[tuple[Cut, Disk]]:
        """A disk at one cut after the other, in rising order. ``lying``: it may have lost what was flushed, too."""
        path = self.place / "disk.img"
        done = 0
        with Disk.copy_of(self.start, path) as disk:
            for cut in cuts:
                flushed = 0 if lying else cut.flushed
                disk.apply(self.log, done, flushed)
                done = flushed
                dice = random.Random(f"{SEED} {cut.number}")
                with disk.cut(self.log, flushed, cut.position, dice, cut.share):
                    yield cut, disk
        path.unlink()


@contextmanager
def recording(directory: Path, memory: Path = MEMORY) -> Iterator[Recording]:
    """Open what lies in this directory. Raises LogError, OSError."""
    place = Path(tempfile.mkdtemp(prefix="kyoten-cuts-", dir=memory))
    try:
        with WriteLog(directory / LOG) as log:
            yield Recording(log, directory / START, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def judge(recorded: Recording, cuts: Sequence[Cut], *, lying: bool = False) -> Iterator[tuple[Cut, Verdict]]:
    """Each cut's verdict; ``cuts`` in rising order, from the beginning of the recording."""
    judges: list[Judge] = []
    for cut, disk in recorded.at(cuts, lying=lying):
        if not judges:
            judges.append(Judge(disk, recorded.place / "judged"))
        yield cut, judges[0].judge(safe=cut.safe and not lying)


def phase(verdict: Verdict) -> str:
    """What a cut is in the middle of."""
    before = "unreadable" if verdict.before is None else verdict.before.value
    start = "nothing" if verdict.slot is None else f"{verdict.slot.value} as {verdict.starts[-1][1].value}"
    return f"{before}, then {verdict.after.value} on {start}"


@dataclass(slots=True)
class Book:
    """What was found, by the number of the cut; kept in a file of JSON lines, one at a time.

    A file about another recording, or other cuts of it, is begun anew.
    """

    path: Path
    about: Record
    judged: dict[int, Record] = field(default_factory=dict)
    booted: dict[int, Record] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def load(self) -> None:
        """Read what an earlier run has found. A last line that was cut short does not count."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        records = [record for line in lines if (record := _parsed(line)) is not None]
        if not records or records[0] != self.about:
            records = [self.about]
        self.path.write_text("".join(json.dumps(record) + "\n" for record in records))
        for record in records[1:]:
            kept = self.judged if "verdict" in record else self.booted
            kept[int(str(record["number"]))] = record

    def add(self, record: Record) -> None:
        """Keep one more."""
        with self._lock:
            kept = self.judged if "verdict" in record else self.booted
            kept[int(str(record["number"]))] = record
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")


def _parsed(line: str) -> Record | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def judge_all(recorded: Recording, cuts: Sequence[Cut], book: Book, say: Say) -> list[tuple[Cut, Verdict]]:
    """Judge every cut that was not judged before, and keep what was found; all verdicts."""
    first = next((at for at, cut in enumerate(cuts) if cut.number not in book.judged), len(cuts))
    # What was promised by then is what the last safe disk before it says.
    begin = max((at for at, cut in enumerate(cuts[:first]) if cut.safe), default=0)
    begun = time.monotonic()
    for count, (cut, verdict) in enumerate(judge(recorded, cuts[begin:]) if first < len(cuts) else (), 1):
        if cut.number not in book.judged:
            book.add({"number": cut.number, "cut": asdict(cut), "phase": phase(verdict), "verdict": document(verdict)})
        for text in verdict.wrong:
            say(f"cut {cut.number} after {cut.position} requests, {phase(verdict)}: {text}")
        if count % 100 == 0:
            say(f"{begin + count} of {len(cuts)} judged, {(time.monotonic() - begun) / count:.2f} s each")
    return [(cut, parse(book.judged[cut.number]["verdict"])) for cut in cuts]


def boot_some(recorded: Recording, chosen: Sequence[tuple[Cut, Verdict]], book: Book, *, jobs: int, say: Say) -> None:
    """Boot these cuts, so many at once, those that were not booted before; keep what was seen."""
    left = {cut.number: verdict for cut, verdict in chosen if cut.number not in book.booted}
    free = Semaphore(jobs)
    with ThreadPoolExecutor(jobs) as workers:
        waiting = []
        for cut, disk in recorded.at([cut for cut, _verdict in chosen if cut.number in left]):
            free.acquire()
            directory = recorded.place / f"boot-{cut.number}"
            directory.mkdir()
            disk.save(directory / "disk.img", 0, disk.size)
            waiting.append(workers.submit(_boot, cut, left[cut.number], directory, book, free, say))
        for one in waiting:
            one.result()


def _boot(cut: Cut, verdict: Verdict, directory: Path, book: Book, free: Semaphore, say: Say) -> None:
    try:
        record: Record = {"number": cut.number, "predicted": phase(verdict)}
        try:
            real = cut_boot.boot(directory / "disk.img", directory)
        except LabError as error:
            record |= {"differences": [str(error)], "seen": None}
        else:
            record |= {"differences": cut_boot.differences(verdict, real), "seen": asdict(real)}
        book.add(record)
        say(f"cut {cut.number} booted, {phase(verdict)}: {record['differences'] or 'as predicted'}")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        free.release()


def lying_faults(recorded: Recording, dice: random.Random) -> int:
    """How many of a few cuts are bad on a disk that ignores flushes; none would mean that the judge is blind."""
    last = len(recorded.log.requests)
    cuts = [Cut(0, 0, 0, 0.0)]
    cuts += [Cut(number, last - dice.randint(0, last // 4), 0, 0.5) for number in range(1, LYING_CUTS + 1)]
    cuts.sort(key=lambda cut: cut.position)
    return sum(bool(verdict.wrong) for _cut, verdict in judge(recorded, cuts, lying=True))


def measure(
    directory: Path, *, cuts: int, booted: int, jobs: int, say: Say, results: Path | None = None
) -> dict[str, object]:
    """The figures; see the module. Raises LogError, OSError."""
    begun = time.monotonic()
    with recording(directory) as recorded:
        chosen = cut_choice.choose(recorded.log, cuts, random.Random(SEED))
        about: Record = {
            "requests": len(recorded.log.requests),
            "flushes": len(recorded.log.flushes),
            "log_bytes": (directory / LOG).stat().st_size,
            "cuts": cuts,
            "seed": SEED,
        }
        book = Book(results or directory / RESULTS, about)
        book.load()
        found = judge_all(recorded, chosen, book, say)
        judged_s = time.monotonic() - begun
        groups: dict[str, list[tuple[Cut, Verdict]]] = {}
        for cut, verdict in found:
            groups.setdefault(phase(verdict), []).append((cut, verdict))
        some = cut_choice.spread(groups, booted, random.Random(SEED))
        boot_some(recorded, sorted(some, key=lambda one: one[0].position), book, jobs=jobs, say=say)
        lying = lying_faults(recorded, random.Random(SEED))
    verdicts = [verdict for _cut, verdict in found]
    return {
        "power_cuts": len(found),
        "power_cuts_booted": len(book.booted),
        "bricked": sum(verdict.bricked for verdict in verdicts),
        "settings_lost": sum(not verdict.settings_kept for verdict in verdicts),
        "power_cuts_wrong": sum(bool(verdict.wrong) for verdict in verdicts),
        "disagreements": sum(bool(record["differences"]) for record in book.booted.values()),
        "lying_disk_faults": lying,
        "cuts_at_a_flush": sum(cut.safe for cut, _verdict in found),
        "cuts_mended": sum(verdict.mended for verdict in verdicts),
        "cuts_update_continues": sum(verdict.after not in _RESTING for verdict in verdicts),
        "cuts_update_committed": sum(verdict.after is Stage.COMMITTED for verdict in verdicts),
        "cuts_update_undone": sum(verdict.after is Stage.RETURNED for verdict in verdicts),
        "judge_s_per_cut": round(judged_s / max(1, len(found)), 3),
        "phases": dict(sorted(Counter(map(phase, verdicts)).items())),
        "phases_booted": dict(sorted(Counter(str(one["predicted"]) for one in book.booted.values()).items())),
    }


_RESTING = (Stage.IDLE, Stage.COMMITTED, Stage.RETURNED, Stage.REFUSED)


def is_good(figures: dict[str, object]) -> bool:
    """Whether nothing is as it must not be."""
    names = ("bricked", "settings_lost", "power_cuts_wrong", "disagreements")
    return not any(figures[name] for name in names) and bool(figures["lying_disk_faults"])


def main(argv: list[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--cuts", type=int, default=1000)
    parser.add_argument("--booted", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path, help=f"instead of {RESULTS} in the directory")
    told = parser.parse_args(argv)
    figures = measure(told.directory, cuts=told.cuts, booted=told.booted, jobs=told.jobs, say=say, results=told.results)
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if is_good(figures) else 1


def say(text: str) -> None:
    """To whoever watches."""
    sys.stderr.write(f"cuts: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
