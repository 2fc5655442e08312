"""pyroute2 without the parts that nobody here uses.

Its package loads all of them as soon as any is asked for, 80 modules more than are used, and on a small processor that
takes seconds. So its directory stands in for the package while those are loaded that we need.
"""

import sys
from importlib.util import find_spec
from types import ModuleType

if "pyroute2" not in sys.modules:
    _spec = find_spec("pyroute2")
    if _spec is None or _spec.submodule_search_locations is None:
        raise ImportError("pyroute2 is not installed")
    _package = ModuleType("pyroute2")
    _package.__path__ = list(_spec.submodule_search_locations)
    _package.__spec__ = _spec
    sys.modules["pyroute2"] = _package

from pyroute2.iproute.linux import AsyncIPRoute, IPRoute
from pyroute2.netlink.exceptions import NetlinkError

# Its own modules ask the package for these.
sys.modules["pyroute2"].__dict__.setdefault("IPRoute", IPRoute)
sys.modules["pyroute2"].__dict__.setdefault("AsyncIPRoute", AsyncIPRoute)

__all__ = ["IPRoute", "NetlinkError"]
