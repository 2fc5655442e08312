"""What routers and the cloud say to each other: the schema, version 1.

The router's side has its own code; what binds the two is the JSON Schema generated from here
(docs/schema/agent-protocol.json), which both sides' tests hold documents against.

    POST /agent/v1/heartbeat      Heartbeat -> HeartbeatAnswer
    POST /agent/v1/logs/{id}      gzip of UTF-8 text -> 204
    POST /agent/v1/log-pulls/{id}/pieces?offset=N&total=N&sha256=HEX    a piece of a gzip -> PieceAnswer
    POST /agent/v1/log-pulls/{id}/state     LogPullState -> 204
    POST /agent/v1/commands/{id}  CommandResult -> 204
    POST /agent/v1/crashes        CrashReport -> 204
    POST /agent/v1/certificate    CertificateRequest -> Certificates (site, tenant's authority, bundle.json)
    POST /enrol/v1/router         EnrolmentRequest -> Certificates (all files of a bundle)

Mutual TLS with the site certificate, and the device id in ``Authorization: KyotenDevice <64 hex digits>``. Only the
enrolment does without both: there the one-time token counts.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PROTOCOL_VERSION = 1

#: Largest log, compressed, that a router may hand over in one piece.
LOG_MAX_BYTES = 2_000_000
#: Largest piece of a log pull, compressed.
PIECE_MAX_BYTES = 262_144
#: Most characters of a command's output, and of a crash report's text.
OUTPUT_MAX_CHARS = 65_536
CRASH_MAX_CHARS = 32_768

#: What an agent says it can do beyond the first version of the protocol.
LOG_PULLS = "log-pulls"
COMMANDS = "commands"
CRASHES = "crashes"

ShortText = Annotated[str, Field(max_length=200)]


class _Document(BaseModel):
    # A router can be years older or newer than the cloud: what is unknown is ignored in both directions.
    # Numbers are finite: NaN is no JSON (RFC 8259 section 6), and what a router says is shown to programs as JSON.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Problem(_Document):
    """Something that is not as it should be; ``key`` is a message key, such as ``agent.tunnel-no-answer``."""

    key: ShortText
    params: dict[ShortText, str | int | float] = {}


class Uplink(_Document):
    """The line the router uses towards the Internet now."""

    kind: Literal["wired", "mobile", "none"]
    interface: ShortText = ""
    address: ShortText = ""


class UplinkState(_Document):
    """One of the router's lines, in use or not, probed through itself.

    ``healthy``: null while nothing is known yet; ``since_s``: seconds so. ``rtt_ms``: to the cloud through this line.
    Probes are counted since the agent's start.
    """

    kind: Literal["wired", "mobile"]
    interface: ShortText = ""
    address: ShortText = ""
    carrier: bool = False
    healthy: bool | None = None
    since_s: float = 0
    rtt_ms: float | None = None
    in_use: bool = False
    probes_sent: int = 0
    probes_lost: int = 0


class Tunnel(_Document):
    """The router's own view of its tunnel. ``since_s``: seconds in this state."""

    up: bool
    gateway: ShortText = ""
    since_s: float = 0
    suite: ShortText = ""


class Load(_Document):
    """How busy the router is."""

    load_1m: float
    memory_available_mib: float
    uptime_s: float
    agent_rss_mib: float


class LanDevice(_Document):
    """A device on the site's LAN, at its real address there. ``seen_s``: seconds since the router heard from it."""

    mac: Annotated[str, Field(max_length=17)] = ""
    address: ShortText
    name: ShortText = ""
    source: Literal["reservation", "static", "lease", "seen"]
    seen_s: float | None = None


class Modem(_Document):
    """The mobile line's modem and the month's data. What is not known is None or empty.

    ``state``: where the modem stands, such as ``connected`` or ``pin-refused`` (router_agent/modem/machine.py).
    ``signal_dbm``: as 3GPP TS 27.007 section 8.5 has it. ``registration``: home, roaming, searching, denied, none.
    ``data_used_bytes``: both directions, this calendar month of the site's time zone; ``data_budget_bytes`` 0: none.
    """

    state: ShortText
    signal_dbm: int | None = None
    technology: ShortText = ""
    operator: ShortText = ""
    roaming: bool | None = None
    imei: ShortText = ""
    registration: ShortText = ""
    data_used_bytes: int | None = None
    data_budget_bytes: int = 0


class SettingsState(_Document):
    """What became of the desired settings. ``version`` is in force; ``reverted_version`` was tried and undone."""

    version: int
    reverted_version: int | None = None
    problem: Problem | None = None


class FirmwareState(_Document):
    """What runs on a router of ours, and how far it is with the release that it was offered.

    ``counter``: of the release that runs, 0: a build without one. ``stage`` (router_agent/update/machine.py): idle,
    offered, judged, fetching, assembled, installing, installed, trial, committed, returned, refused; while it waits it
    stays in its stage and ``problem`` says for what. ``release``: the target path that the stage speaks of; it stays
    with ``committed``, ``returned`` and ``refused`` until another one is offered. ``rollout``: the offer's.
    ``bytes_fetched``: over the lines, for this release, what came twice counted twice. ``since_s``: in this stage.
    """

    hardware: ShortText = ""
    version: ShortText = ""
    counter: int = 0
    slot: ShortText = ""
    stage: ShortText = "idle"
    release: ShortText = ""
    rollout: ShortText = ""
    progress_pct: float | None = None
    bytes_fetched: int = 0
    since_s: float = 0
    problem: Problem | None = None


class ModuleState(_Document):
    """One small signed module on a router. ``stage``: installed (in use, not proven yet), active, refused, returned
    (the agent did not come up with it), removed; ``version``: the one the stage speaks of."""

    name: ShortText
    version: ShortText = ""
    stage: ShortText
    problem: Problem | None = None


class ConsoleLogin(_Document):
    """Somebody logged in at the router's serial console. ``challenge``: as it was shown; ``at``: the router's clock,
    RFC 3339. Stands in each heartbeat until one that said ``ended`` was answered."""

    id: Annotated[str, Field(max_length=64)]
    at: ShortText = ""
    challenge: ShortText = ""
    ended: bool = False


class ConsoleState(_Document):
    """``key``: which of the service's console keys this router has: SHA-256 of its PEM; empty: none."""

    key: ShortText = ""
    logins: Annotated[list[ConsoleLogin], Field(max_length=16)] = []


class Heartbeat(_Document):
    """What a router says of itself."""

    protocol: Literal[1]
    site: ShortText
    #: The router's clock, RFC 3339, UTC.
    sent_at: ShortText
    uplink: Uplink
    tunnel: Tunnel
    load: Load
    versions: dict[ShortText, ShortText]
    settings: SettingsState
    problems: list[Problem] = []
    #: None: a router without a mobile line.
    modem: Modem | None = None
    uplinks: list[UplinkState] = []
    lan_devices: Annotated[list[LanDevice], Field(max_length=254)] = []
    #: None: a router whose firmware is not ours to change, or an older agent.
    firmware: FirmwareState | None = None
    modules: Annotated[list[ModuleState], Field(max_length=64)] = []
    #: None: an agent without a login at the serial console.
    console: ConsoleState | None = None
    #: What this agent can do beyond the first version of the protocol: LOG_PULLS, COMMANDS, CRASHES.
    features: Annotated[list[ShortText], Field(max_length=32)] = []


class DesiredSettings(_Document):
    """The settings a router shall have. Keys it does not know are a problem it reports, never a crash."""

    version: int
    values: dict[ShortText, str | int | float | bool | list[ShortText]]
    #: Seconds to reach the cloud through the tunnel after applying; else the router goes back to what it had.
    confirm_s: float


class LogRequest(_Document):
    """Hand over the last ``lines`` lines of the agent's and charon's logs."""

    id: ShortText
    lines: int


class LogPull(_Document):
    """Hand over what the logs hold of a range of time, in pieces. It stands in every answer until it is complete.

    ``units``: of agent, ike, kernel, modem, update; empty: all. ``since``, ``until``: RFC 3339, UTC, empty: no bound.
    ``lines``: only the newest so many, 0: all. ``follow``: go on handing over new lines, each piece a gzip by itself,
    until an answer says that they are not wanted any more. ``received``: bytes that the cloud has; the router goes on
    there. ``max_bytes``: of the gzip, the newest lines count. On a mobile line ``mobile_max_bytes`` holds instead, at
    ``mobile_rate_bytes_s`` (0: no limit); what was packed larger waits for a wired line.
    """

    id: ShortText
    units: list[ShortText] = []
    since: ShortText = ""
    until: ShortText = ""
    lines: int = 0
    follow: bool = False
    received: int = 0
    max_bytes: int
    mobile_max_bytes: int
    mobile_rate_bytes_s: int = 0


class PieceAnswer(_Document):
    """How much of a log pull the cloud has, in bytes from its start; ``wanted``: whether more of it is wanted."""

    received: int
    wanted: bool


class LogPullState(_Document):
    """Where a log pull stands on the router. ``state``: waiting (for a wired line, see ``problem``), or failed: these
    lines cannot be had at all."""

    state: Literal["waiting", "failed"]
    problem: Problem


class Command(_Document):
    """Run one of the diagnostic commands that the router knows by name, once. ``arguments``: by name; the router reads
    them strictly. ``expires_s``: not to be begun later than so many seconds from now."""

    id: ShortText
    name: ShortText
    arguments: dict[ShortText, ShortText | int] = {}
    timeout_s: float
    expires_s: float


class CommandResult(_Document):
    """What became of a command. ``state``: done (``status``: the exit status), refused (not known here, or arguments it
    does not take), timed-out, interrupted (the agent or the router stopped under it), expired, failed: see ``problem``.
    """

    state: Literal["done", "refused", "timed-out", "interrupted", "expired", "failed"]
    status: int | None = None
    output: Annotated[str, Field(max_length=OUTPUT_MAX_CHARS)] = ""
    truncated: bool = False
    #: The router's clock, RFC 3339, UTC.
    began_at: ShortText = ""
    duration_s: float = 0
    problem: Problem | None = None


class CrashReport(_Document):
    """Something ended that should not have. ``id``: the same report always has the same. ``kind``: exception (in the
    agent, which went on), killed (the agent ended without having been told to), reset (the machine did), kernel (an
    oops, a panic, out of memory), child (a program that the agent runs). ``count``: how often since the report was
    written first. Times are the router's, RFC 3339, UTC."""

    id: Annotated[str, Field(max_length=64, pattern=r"^[0-9a-f]{16,64}$")]
    kind: Literal["exception", "killed", "reset", "kernel", "child"]
    process: ShortText
    summary: ShortText
    first_at: ShortText
    last_at: ShortText
    count: int = 1
    versions: dict[ShortText, ShortText] = {}
    text: Annotated[str, Field(max_length=CRASH_MAX_CHARS)] = ""


class FirmwareOffer(_Document):
    """The release that this router shall run. The router decides whether it may; the repository's signatures, not this
    document, say what it is. Withdrawn by not being there: what has not been installed yet is given up then.

    ``release``: target path, such as ``releases/kyoten-x86-64/1.4.0.json``; ``counter``: that release's. ``consent``:
    a person agrees to the cost of the full image on a metered line. ``rate_bytes_s`` 0: no limit. ``budget_bytes``:
    most bytes on a metered line for this release, None: what the month's data budget leaves. ``permit``: a signed
    permit for a downgrade (firmware/permit.py). ``window``: "HH:MM-HH:MM" in the site's time zone, when the router may
    restart; empty: the site's own setting, or any time. ``visit_open``: somebody works on the site now: no restart.
    """

    release: ShortText
    counter: int
    rollout: ShortText = ""
    consent: bool = False
    rate_bytes_s: int = 0
    budget_bytes: int | None = None
    permit: Annotated[str, Field(max_length=20_000)] | None = None
    window: ShortText = ""
    visit_open: bool = False


class HeartbeatAnswer(_Document):
    """What the cloud wants of the router."""

    protocol: Literal[1] = 1
    heartbeat_s: float
    settings: DesiredSettings | None = None
    log_requests: list[LogRequest] = []
    #: Fetch another certificate now: the site has moved, or its authority or certificate is about to end.
    renew_certificate: bool = False
    #: The site's time zone, such as Asia/Tokyo: the month of the data budget is counted in it.
    timezone: ShortText = "UTC"
    firmware: FirmwareOffer | None = None
    #: Version of the firmware repository's snapshot: when it moves, routers look for modules at once, not in a day.
    repository: int | None = None
    log_pulls: list[LogPull] = []
    commands: list[Command] = []
    #: The service's console key, PEM, for a router that named another one or none.
    console_key: Annotated[str, Field(max_length=1_000)] | None = None


class CertificateRequest(_Document):
    """A certificate for the key of this request (PKCS#10 in PEM); of the request nothing else is looked at."""

    csr: Annotated[str, Field(max_length=16_384)]


class EnrolmentRequest(CertificateRequest):
    """A router that has no certificate yet: the site and token of its ticket, its device id and SSH host key."""

    site: Annotated[str, Field(max_length=63)]
    token: Annotated[str, Field(max_length=200)]
    device_id: Annotated[str, Field(max_length=64)]
    ssh_host_key: Annotated[str, Field(max_length=1_000)]


class Certificates(_Document):
    """Files as a bundle has them, by name; all of them text."""

    format: Literal[1] = 1
    files: dict[ShortText, str]
