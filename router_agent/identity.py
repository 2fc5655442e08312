"""What a router was enrolled with, on its disk: ``<state>/identity/``, replaced whole or not at all."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from linux.files import write_durably
from router_agent import bundle
from router_agent.bundle import Bundle, Enrolment
from router_agent.errors import AgentError, BundleError, StateError
from router_agent.logs import writer


@dataclass(frozen=True, slots=True)
class Identity:
    """The installed bundle: what it says, and the files that other programs read."""

    enrolment: Enrolment
    directory: Path

    def path(self, member: str) -> Path:
        """Where a member of the bundle is."""
        return self.directory / member

    def text(self, member: str) -> str:
        """A member's text. Raises StateError."""
        try:
            return self.path(member).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(self.path(member), error) from error

    @property
    def device_id(self) -> str:
        """The second factor. Never shown or logged."""
        return self.text("device_id").strip()


def read_bundle(path: Path) -> Bundle:
    """Read a bundle file. Raises BundleError."""
    try:
        with path.open("rb") as stream:
            archive = stream.read(bundle.BUNDLE_MAX_BYTES + 1)
    except OSError as error:
        raise BundleError([AgentError("agent-cli.bundle-unreadable", path=str(path), reason=_reason(error))]) from error
    return bundle.read(archive)


def install(new: Bundle, state: Path) -> Identity:
    """Put a bundle's members in place of those before. Raises StateError; the old identity is whole then.

    Settings and log of another site do not follow: they are removed when the site's name changes. It may be another
    tenant's, who can ask for the log. (charon's is in the runtime directory, which ends with the power.)
    """
    target = state / "identity"
    fresh = state / "identity.new"
    old = state / "identity.old"
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _same(target, new):
            return Identity(new.enrolment, target)
        if not target.exists() and old.exists():
            old.rename(target)  # the power failed between the two renames
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        for name, content in new.members.items():
            write_durably(fresh / name, content, mode=0o600 if name in bundle.SECRET_MEMBERS else 0o644)
        if target.exists():
            if _installed_site(target) != new.enrolment.site:
                for left in (state / "settings.json", *state.glob(f"{writer.NAME}*")):
                    left.unlink(missing_ok=True)
            target.rename(old)
        fresh.rename(target)
        _flush(state)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _unwritable(state, error) from error
    return Identity(new.enrolment, target)


def is_installed(state: Path) -> bool:
    """Whether there is something to load."""
    return (state / "identity").is_dir() or (state / "identity.old").is_dir()


def load(state: Path) -> Identity:
    """What is installed. Raises StateError (nothing is) and BundleError (it is damaged)."""
    target = state / "identity"
    if not target.is_dir() and (state / "identity.old").is_dir():
        target = state / "identity.old"  # the power failed between the two renames
    if not target.is_dir():
        raise StateError("agent-cli.not-enrolled", path=str(state))
    problems: list[AgentError] = []
    missing = [name for name in bundle.MEMBERS if not (target / name).is_file()]
    problems.extend(AgentError("agent-cli.bundle-member-missing", member=name) for name in missing)
    enrolment = None
    if bundle.CONFIGURATION not in missing:
        try:
            enrolment = bundle.parse_enrolment((target / bundle.CONFIGURATION).read_bytes(), problems)
        except OSError as error:
            raise _unreadable(target / bundle.CONFIGURATION, error) from error
    if problems or enrolment is None:
        raise BundleError(problems or [AgentError("agent-cli.bundle-member-damaged", member=bundle.CONFIGURATION)])
    return Identity(enrolment, target)


def _same(target: Path, new: Bundle) -> bool:
    try:
        return all((target / name).read_bytes() == content for name, content in new.members.items())
    except OSError:
        return False


def _installed_site(target: Path) -> str | None:
    found = bundle.parse_enrolment((target / bundle.CONFIGURATION).read_bytes(), [])
    return None if found is None else found.site


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _unwritable(path: Path, error: OSError) -> StateError:
    return StateError("agent.state-unwritable", path=str(path), reason=_reason(error))


def _unreadable(path: Path, error: Exception) -> StateError:
    return StateError("agent.state-unreadable", path=str(path), reason=_reason(error))
