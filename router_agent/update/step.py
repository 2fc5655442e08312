"""What a child does: one step of an update, told on standard input; progress and end are JSON lines on standard output.

It believes nothing that the agent's loop tells it about a release: the document that `refresh` verified is kept beside
with its hash in the journal, and every later step reads it again.
"""

import fcntl
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from firmware import clock, slotblock
from firmware.errors import FirmwareError, SourceError
from firmware.layout import Slot
from firmware.release import Release, parse, release_path, render
from linux.files import write_durably
from router_agent import identity
from router_agent.errors import AgentError, CloudRefusedError, CloudUnreachableError, StateError
from router_agent.identity import Identity
from router_agent.problems import Problem
from router_agent.update import appliance, assemble, client, direct, fetch, install, leash, slots, work
from router_agent.update.assemble import DeltaFailedError, PayloadLostError, ReleaseWrongError
from router_agent.update.client import FirmwareClient
from router_agent.update.machine import ReleaseFacts
from router_agent.update.plan import Plan, plan
from router_agent.update.ports import Running
from router_agent.update.work import Done, Event, Failed, Fault, Progress, Step

if TYPE_CHECKING:
    from firmware.trust import Trust

_log = logging.getLogger(__name__)

#: The verified document of the release under way, and of the slot that runs the hash of its image.
DOCUMENT = "release.json"
IMAGE_HASH = "slot-hash.json"
TRUST_DIRECTORY = "trust"

#: Of the repository: these say that the release is not for this router, or is no more. All else may pass.
_REFUSALS = frozenset(
    {
        "firmware.wrong-hardware",
        "firmware.counter-rollback",
        "firmware.yanked",
        "firmware.document-disagrees",
        "firmware.bad-path",
        "firmware.permit-unsigned",
        "firmware.permit-elsewhere",
        "firmware.permit-other-counter",
        "firmware.permit-expired",
    }
)

#: What the kernel may take in ahead of a polite rate, in bytes at the least.
_BUFFER_LEAST_BYTES = 16 * 1024

#: Work that nobody waits for gives way to everything else on the router.
_NICENESS = 10

#: For a step of an agent that was killed to be gone, in seconds.
_LOCK_S = 10.0


@dataclass(frozen=True, slots=True)
class Context:
    """What a step works with. ``request``: what it was told."""

    request: Mapping[str, object]
    state: Path
    runtime: Path
    running: Running
    identity: Identity
    tell: Callable[[Event], None]

    @property
    def directory(self) -> Path:
        """The update's own."""
        return self.state / "update"

    def text(self, name: str) -> str:
        """A text of the request, empty if there is none."""
        value = self.request.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> float:
        """A number of the request, 0 if there is none."""
        value = self.request.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def run(name: str, state: Path, runtime: Path) -> int:
    """Do the step; what came of it is told on standard output, and in the exit status."""
    leash.die_with_parent()
    os.nice(_NICENESS)
    with suppress(OSError):
        # The agent is kept when memory runs out; what works for it goes first (proc(5)).
        Path("/proc/self/oom_score_adj").write_text("500")
    logging.Formatter.converter = time.gmtime
    form = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s"
    logging.basicConfig(format=form, datefmt="%Y-%m-%dT%H:%M:%S", level=logging.INFO)
    request = json.loads(sys.stdin.buffer.read(work.LINE_MAX_BYTES))
    ending = _work(Step(name), request, state, runtime, _tell)
    _log.info("%s: %s", name, ending)
    _tell(ending)
    return 0 if isinstance(ending, Done) else 1


def _work(
    step: Step, request: Mapping[str, object], state: Path, runtime: Path, tell: Callable[[Event], None]
) -> Done | Failed:
    try:
        found = appliance.running()
        if found is None:
            return Failed(Fault.REFUSED, Problem("agent.update-no-appliance"))
        context = Context(request, state, runtime, found[0], identity.load(state), tell)
        with _only_one(context.directory):
            return do(step, context)
    except AgentError as error:
        return failed(error)
    except Exception as error:  # a bug in a step is the step's failure, told like any other
        _log.exception("%s", step.value)
        return Failed(Fault.LATER, Problem("agent.internal", {"reason": f"{type(error).__name__}: {error}"[:150]}))


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """One step at a time: one of an agent that was killed may not be gone yet. Raises StateError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / ".step.lock").open("w") as lock:
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StateError("agent.update-busy", path=str(directory)) from None
                time.sleep(0.1)
        yield


def do(step: Step, context: Context) -> Done | Failed:
    """The step, with every error that is foreseen as what it means for the update."""
    try:
        match step:
            case Step.REFRESH:
                return Done({"facts": asdict(refresh(context))})
            case Step.FETCH:
                release = _document(context)
                _fetch(context, _plan(context, release))
            case Step.ASSEMBLE:
                release = _document(context)
                device = slots.device(Slot(context.running.slot))
                assemble.assemble(release, _plan(context, release), context.directory, device, report=context.tell)
            case Step.INSTALL:
                _install(context)
            case Step.VERIFY:
                slots.check(slots.device(Slot(context.text("target"))), context.text("root_hash"))
            case Step.MODULES:
                return _modules(context)
        return Done()
    except (AgentError, FirmwareError) as error:
        _log.warning("%s: %s", step.value, error)
        return failed(error)


def failed(error: AgentError | FirmwareError) -> Failed:
    """What an error means."""
    problem = Problem(error.key, dict(error.params))
    match error:
        case PayloadLostError():
            return Failed(Fault.LOST, problem)
        case DeltaFailedError():
            return Failed(Fault.FULL, problem)
        case ReleaseWrongError():
            return Failed(Fault.REFUSED, problem)
        case CloudRefusedError() if error.key == "agent.update-payload-missing":
            return Failed(Fault.LOST, problem)  # published anew or taken back: the metadata says which
        case CloudUnreachableError() | CloudRefusedError() | StateError() | SourceError():
            return Failed(Fault.LATER, problem)
        case FirmwareError() if error.key in _REFUSALS:
            return Failed(Fault.REFUSED, problem)
        case _:
            return Failed(Fault.LATER, problem)


def trusted(context: Context) -> "tuple[Trust, FirmwareClient]":
    """The repository as it is believed now, refreshed, and where it came from."""
    # Loaded where it is needed: it costs as much as all the rest, and on a router that is seconds.
    from firmware import trust

    try:
        root = appliance.TRUSTED_ROOT.read_bytes()
        built_at = appliance.built_at()
    except (OSError, ValueError) as error:
        raise StateError("agent.update-no-root", path=str(appliance.TRUSTED_ROOT), reason=str(error)[:150]) from error
    source = connect(context)
    running = context.running
    believed = trust.Trust(
        context.directory / TRUST_DIRECTORY,
        root=root,
        source=source,
        device=trust.Device(running.hardware, running.counter),
        built_at=built_at,
    )
    refreshed = believed.refresh(_now(context))
    _log.info("repository: root %d, snapshot %d", refreshed.root, refreshed.snapshot)
    return believed, source


def refresh(context: Context) -> ReleaseFacts:
    """Bring the metadata up to date, verify the release's document and keep it."""
    believed, source = trusted(context)
    try:
        text = context.text("permit")
        permit = believed.permit(text, site=context.text("site")) if text else None
        release = believed.release(context.text("release"), permit=permit)
    finally:
        source.close()
    document = render(release)
    _write(context.directory / DOCUMENT, document)
    chosen = plan(release, running_sha256=_image_sha256(context), memory_mib=1 << 30)
    return ReleaseFacts(
        version=release.version,
        counter=release.counter,
        hardware=release.applicability.hardware,
        minimum_from=release.applicability.minimum_from,
        disk_mib=release.applicability.disk_mib,
        mains_power=release.applicability.mains_power,
        bundle_bytes=release.bundle_size,
        root_hash=release.slot.root_hash,
        full_bytes=release.full.size,
        delta_bytes=None if chosen.delta is None else chosen.file.size,
        delta_memory_mib=0 if chosen.delta is None else chosen.delta.memory_mib,
        document_sha256=hashlib.sha256(document).hexdigest(),
        permitted=permit is not None,
    )


def _modules(context: Context) -> Done:
    from router_agent.update import module_step
    from router_agent.update.module_store import ModuleStore

    believed, source = trusted(context)
    running = context.running
    reason = believed.yanked(release_path(running.hardware, running.version))
    directory = context.state / "modules"
    here = module_step.Here(context.running.hardware, context.text("agent"), context.number("rate_bytes_s"))
    try:
        bring = module_step.bringer(source, directory / ".incoming", here)
        changed = module_step.run(believed, ModuleStore(directory), here, bring)
    finally:
        source.close()
    return Done({"changed": list(changed), "running_yanked": reason})


def check(state: Path, runtime: Path) -> dict[str, object]:
    """What is published for this router, for a person who asks; nothing is changed but the metadata's copy.

    Raises AgentError; of the repository: StateError with its key.
    """
    found = appliance.running()
    if found is None:
        raise StateError("agent-cli.update-no-appliance")
    running = found[0]
    context = Context({"tunnel_up": True}, state, runtime, running, identity.load(state), lambda _event: None)
    try:
        with _only_one(context.directory):
            believed, source = trusted(context)
            source.close()
    except FirmwareError as error:
        raise StateError("agent-cli.update-check-failed", reason=str(error)[:300]) from error
    listed = believed.listing()
    return {
        "hardware": running.hardware,
        "version": running.version,
        "counter": running.counter,
        "slot": running.slot,
        "yanked": believed.yanked(release_path(running.hardware, running.version)),
        "releases": [
            {"version": one.version, "counter": one.counter, "yanked": believed.yanked(one.path)}
            for one in sorted(listed, key=lambda one: one.counter, reverse=True)
            if one.kind == "releases" and one.name == running.hardware
        ],
        "modules": [
            {"name": one.name, "version": one.version, "yanked": believed.yanked(one.path)}
            for one in sorted(listed, key=lambda one: (one.name, one.counter))
            if one.kind == "modules"
        ],
    }


def connect(context: Context) -> FirmwareClient:
    """A client for the endpoint in the tunnel while there is one, else for the one outside."""
    endpoints = context.identity.enrolment.endpoints
    inside = tuple(endpoint for endpoint in endpoints if endpoint.in_tunnel)
    outside = tuple(endpoint for endpoint in endpoints if not endpoint.in_tunnel)
    order = (*inside, *outside) if context.request.get("tunnel_up") is True or not outside else (*outside, *inside)
    rate = context.number("rate_bytes_s")
    buffer = max(_BUFFER_LEAST_BYTES, round(2 * rate)) if rate else 0
    context.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    return client.connect(context.identity, context.runtime, order, receive_buffer_bytes=buffer)


def _now(context: Context) -> datetime:
    system = datetime.now(UTC)
    if context.request.get("skew_s") is None:
        return system
    up_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    heard = clock.CloudTime(system - timedelta(seconds=context.number("skew_s")), up_s)
    return clock.judged(system, since_boot_s=up_s, cloud=heard)


def _document(context: Context) -> Release:
    """The release that was verified. Raises PayloadLostError: it is not that any more."""
    path = context.directory / DOCUMENT
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PayloadLostError("agent.update-document-lost", path=str(path)) from error
    if hashlib.sha256(content).hexdigest() != context.text("document_sha256"):
        raise PayloadLostError("agent.update-document-lost", path=str(path))
    return parse(content)


def _plan(context: Context, release: Release) -> Plan:
    """What travels. Memory was judged when it was settled; it must not change in between."""
    full_only = context.request.get("full_only") is True
    return plan(release, running_sha256=_image_sha256(context), memory_mib=1 << 30, full_only=full_only)


def _fetch(context: Context, chosen: Plan) -> None:
    source = connect(context)
    try:
        fetch.fetch(
            chosen.file,
            source,
            context.directory,
            now=time.monotonic,
            sleep=time.sleep,
            report=context.tell,
            rate_bytes_s=context.number("rate_bytes_s"),
        )
    finally:
        source.close()


def _install(context: Context) -> None:
    bundle = context.directory / assemble.BUNDLE
    if not assemble.is_assembled(_document(context), context.directory):
        raise PayloadLostError("agent.update-bundle-lost", path=str(bundle))
    install.install(bundle, context.runtime / "update", report=lambda done: context.tell(Progress(round(done), 100)))


def _image_sha256(context: Context) -> str:
    """Of the slot image that runs; empty: it cannot be read, and no delta applies.

    Read once (some seconds for 400 MiB) and kept with the slot's root hash, which the kernel holds it against.
    """
    path = context.directory / IMAGE_HASH
    device = slots.device(Slot(context.running.slot))
    try:
        block = slots.facts(device)
        try:
            kept = json.loads(path.read_bytes())
            if kept["root_hash"] == block.root_hash and isinstance(kept["sha256"], str):
                return str(kept["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        found = _hash_of(device, block)
        _write(path, json.dumps({"root_hash": block.root_hash, "sha256": found}).encode())
    except (StateError, OSError) as error:
        _log.warning("the slot that runs cannot be hashed: %s", error)
        return ""
    return found


def _hash_of(device: Path, block: slotblock.SlotBlock) -> str:
    found = hashlib.sha256()
    with direct.opened(device, os.O_RDONLY) as descriptor:
        for piece in direct.pieces(descriptor, 0, block.image_bytes):
            found.update(piece)
    return found.hexdigest()


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(path, content)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StateError("agent.state-unwritable", path=str(path.parent), reason=reason) from error


def _tell(event: Event) -> None:
    sys.stdout.write(work.render(event) + "\n")
    sys.stdout.flush()
