"""What the gateway's keepers work with."""

from collections.abc import Callable
from dataclasses import dataclass

from cloudside.datapath.enforcement import Enforcement
from cloudside.datapath.flows import Flows
from cloudside.datapath.site_routes import SiteRoutes
from cloudside.registry.database import Database
from cloudside.vpn.charon_care import Stream
from cloudside.vpn.credentials import CredentialLoader
from linux.charon import Charon
from linux.charon_process import CharonProcess
from linux.routes import Routes
from rules.compile import RuleSet


@dataclass(frozen=True, slots=True)
class Parts:
    """One thread uses them all, but ``lister``: a charon client for listings alone."""

    database: Database
    process: CharonProcess
    charon: Charon
    lister: Charon
    credentials: CredentialLoader
    enforcement: Enforcement
    flows: Flows
    routes: Routes
    site_routes: SiteRoutes
    #: Told of each rule set just before it comes into force.
    deciding: Callable[[RuleSet], None] = lambda _: None
    #: charon's events, to be opened anew when they tell nothing any more.
    events: Stream | None = None
