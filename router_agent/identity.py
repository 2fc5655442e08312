"""What a router was enrolled with, on its disk: ``<state>/identity/``, replaced whole or not at all.

identity         what counts
identity.new     being written
identity.before  what counted until a renewal, kept until the new certificate has proven itself
identity.old     what was replaced, about to go
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from linux.files import flush_directory, write_durably
from router_agent import bundle
from router_agent.bundle import Bundle, Enrolment
from router_agent.errors import AgentError, BundleError, StateError

#: The digest of the bundle that was installed last: at each boot the same file must not undo a renewal.
_DIGEST = "bundle.sha256"


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
    """Put a bundle in place of what was installed before, with the router's own keys and device id.

    The key is the one that waits for this certificate, or the one in use. The bundle that was installed last changes
    nothing: its certificate may have been renewed since. Raises BundleError: the certificates do not fit the key, the
    site or each other. StateError: it cannot be written. The old identity is whole then.
    """
    # Loaded for this alone: at each start the agent reads what is installed, and what checks certificates is large.
    from router_agent.enrolment import certificates, waiting

    recover(state)
    target = state / "identity"
    if new.digest and _read(target / _DIGEST) == new.digest.encode():
        return load(state)
    own = new.members if "site.key" in new.members else _own_members(new, state)
    members = {**own, **new.members}
    problems = certificates.check(members, new.enrolment, site=new.enrolment.site, key_pem=members["site.key"])
    if problems:
        raise BundleError(problems)
    digest = new.digest.encode() or _read(target / _DIGEST) or b""
    exchange(new.enrolment, {**members, _DIGEST: digest}, state)
    shutil.rmtree(state / "identity.before", ignore_errors=True)
    for kind in (waiting.FIRST, waiting.NEXT):
        waiting.forget(state, kind)
    return Identity(new.enrolment, target)


def exchange(enrolment: Enrolment, members: Mapping[str, bytes], state: Path, *, keep: bool = False) -> None:
    """Replace the installed identity whole. ``keep``: as ``identity.before``, so that `restore` can take it back.

    Settings and log of another site do not follow: they are removed when the site's name changes. It may be another
    tenant's, who can ask for the log. (charon's is in the runtime directory, which ends with the power.)
    Raises StateError; the old identity is whole then.
    """
    from router_agent.logs import writer

    target, fresh = state / "identity", state / "identity.new"
    old = state / ("identity.before" if keep else "identity.old")
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        recover(state)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        for name, content in members.items():
            write_durably(fresh / name, content, mode=0o600 if name in bundle.SECRET_MEMBERS else 0o644)
        if target.exists():
            if _installed_site(target) != enrolment.site:
                for left in (state / "settings.json", *state.glob(f"{writer.NAME}*")):
                    left.unlink(missing_ok=True)
            target.rename(old)
        fresh.rename(target)
        flush_directory(state)
        if not keep:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise _unwritable(state, error) from error


def is_on_trial(state: Path) -> bool:
    """Whether the one before is still kept, because the one installed has not proven itself."""
    return (state / "identity.before").is_dir()


def keep_new(state: Path) -> None:
    """The one installed has proven itself: the one before goes."""
    shutil.rmtree(state / "identity.before", ignore_errors=True)


def restore(state: Path) -> Identity:
    """Take the one before back. Raises StateError: it cannot be written, or there is none."""
    target, before, old = state / "identity", state / "identity.before", state / "identity.old"
    try:
        if before.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            before.rename(target)
            flush_directory(state)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _unwritable(state, error) from error
    return load(state)


def members(identity: Identity) -> dict[str, bytes]:
    """Everything in an identity, the digest too. Raises StateError."""
    try:
        found = {
            name: identity.path(name).read_bytes()
            for name in bundle.MEMBERS
            if name not in bundle.OPTIONAL_MEMBERS or identity.path(name).is_file()
        }
    except OSError as error:
        raise _unreadable(identity.directory, error) from error
    return {**found, _DIGEST: _read(identity.path(_DIGEST)) or b""}


def recover(state: Path) -> None:
    """Finish what a power cut interrupted between two renames: what counted before counts again."""
    target = state / "identity"
    for kept in (state / "identity.before", state / "identity.old"):
        if not target.exists() and kept.is_dir():
            try:
                kept.rename(target)
            except OSError as error:
                raise _unwritable(state, error) from error


def _own_members(new: Bundle, state: Path) -> dict[str, bytes]:
    """The router's own key, host key and device id for a certificate. Raises BundleError: its key is not here."""
    from router_agent import device
    from router_agent.enrolment import certificates, waiting

    certificate = new.members["site.crt"]
    device_id = {device.NAME: f"{device.ensure(state)}\n".encode()}
    waits = waiting.find(state, waiting.FIRST)
    if waits is not None and certificates.is_for(certificate, waits.key_pem):
        return {**waits.members, **device_id}
    installed = {name: _read(state / "identity" / name) for name in bundle.OWN_MEMBERS - {device.NAME}}
    found = {name: content for name, content in installed.items() if content is not None}
    if len(found) == len(installed) and certificates.is_for(certificate, found["site.key"]):
        return {**found, **device_id}
    raise BundleError([AgentError("agent-cli.certificate-other-key", site=new.enrolment.site)])


def is_installed(state: Path) -> bool:
    """Whether there is something to load."""
    return any((state / name).is_dir() for name in ("identity", "identity.before", "identity.old"))


def load(state: Path) -> Identity:
    """What is installed. Raises StateError (nothing is) and BundleError (it is damaged)."""
    recover(state)
    target = state / "identity"
    if not target.is_dir():
        raise StateError("agent-cli.not-enrolled", path=str(state))
    problems: list[AgentError] = []
    wanted = (name for name in bundle.MEMBERS if name not in bundle.OPTIONAL_MEMBERS)
    missing = [name for name in wanted if not (target / name).is_file()]
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


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _installed_site(target: Path) -> str | None:
    found = bundle.parse_enrolment((target / bundle.CONFIGURATION).read_bytes(), [])
    return None if found is None else found.site


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _unwritable(path: Path, error: OSError) -> StateError:
    return StateError("agent.state-unwritable", path=str(path), reason=_reason(error))


def _unreadable(path: Path, error: Exception) -> StateError:
    return StateError("agent.state-unreadable", path=str(path), reason=_reason(error))
