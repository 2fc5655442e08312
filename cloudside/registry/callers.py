"""On whose behalf a query runs. Another tenant's object is indistinguishable from one that does not exist."""

from dataclasses import dataclass

from cloudside.errors import RefusedError


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``tenant`` None: the service itself or an operator, who sees every tenant."""

    tenant: str | None

    def require_operator(self) -> None:
        """Raise RefusedError unless the caller is an operator: blocks and servers are not a customer's to give."""
        if self.tenant is not None:
            raise RefusedError("registry.operators-only", tenant=self.tenant)


#: The service's own staff and daemons.
OPERATOR = Caller(None)
