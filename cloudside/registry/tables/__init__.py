"""The registry's tables. Times are UTC; prefixes and addresses are stored as text and met as ipaddress objects.

Gateways, routers and relays are plural from the first table on. What is secret is stored hashed (device ids, SMTP
passwords, tokens) or not at all (private keys live in the state directory, mode 0600).

inventory     tenants, sites, routers, devices, servers
reachability  policies, grants, counters of statements, refusals
trust         certificates, revocation lists, enrolment tokens
observed      heartbeats, tunnels and their history, gateways, usage
work          settings, log pulls, incidents
mail          mail credentials, limits, holds, suppressed addresses
firmware      labels of sites, releases, what sites run, rollouts
remote        settings drafts and changes to many sites, log pulls, commands, logins at consoles, crash reports
audit         who changed what
"""

from cloudside.registry.tables.audit import AuditEntry
from cloudside.registry.tables.base import Address, Network, Table
from cloudside.registry.tables.firmware import (
    FirmwareRelease,
    Rollout,
    RolloutProgress,
    RolloutTarget,
    SiteFirmware,
    SiteLabel,
)
from cloudside.registry.tables.inventory import Device, Router, Server, Site, Tenant
from cloudside.registry.tables.mail import MailDomain, MailHold, MailLimit, MailProfile, SmtpCredential, Suppression
from cloudside.registry.tables.observed import (
    GatewayState,
    Heartbeat,
    MembershipUsage,
    SiteProblem,
    SiteUsage,
    Tunnel,
    TunnelChange,
    UsageCursor,
)
from cloudside.registry.tables.reachability import (
    Grant,
    PlatformPolicy,
    Policy,
    Refusal,
    RuleRevision,
    StatementCounter,
)
from cloudside.registry.tables.remote import (
    ConsoleAnswer,
    CrashReport,
    LogPiece,
    LogPull,
    LogUpload,
    SettingsChange,
    SettingsChangeSite,
    SettingsDraft,
    SiteCommand,
)
from cloudside.registry.tables.trust import Certificate, EnrolmentToken, RevocationList
from cloudside.registry.tables.work import Incident, LogRequest, Settings

__all__ = [
    "Address",
    "AuditEntry",
    "Certificate",
    "ConsoleAnswer",
    "CrashReport",
    "Device",
    "EnrolmentToken",
    "FirmwareRelease",
    "GatewayState",
    "Grant",
    "Heartbeat",
    "Incident",
    "LogPiece",
    "LogPull",
    "LogRequest",
    "LogUpload",
    "MailDomain",
    "MailHold",
    "MailLimit",
    "MailProfile",
    "MembershipUsage",
    "Network",
    "PlatformPolicy",
    "Policy",
    "Refusal",
    "RevocationList",
    "Rollout",
    "RolloutProgress",
    "RolloutTarget",
    "Router",
    "RuleRevision",
    "Server",
    "Settings",
    "SettingsChange",
    "SettingsChangeSite",
    "SettingsDraft",
    "Site",
    "SiteCommand",
    "SiteFirmware",
    "SiteLabel",
    "SiteProblem",
    "SiteUsage",
    "SmtpCredential",
    "StatementCounter",
    "Suppression",
    "Table",
    "Tenant",
    "Tunnel",
    "TunnelChange",
    "UsageCursor",
]
