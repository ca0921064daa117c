"""What a key allows, and who asks. Floor: control."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ipybox.control.errors import ForbiddenError, RequestRefusedError


class Scope(StrEnum):
    """One thing that a key may do."""

    READ = "read"
    """See what is one's own."""
    EXECUTE = "execute"
    """Make and end sessions, run code, write files."""
    TEMPLATES = "templates"
    """Make, change and delete templates."""
    INTERNAL = "internal"
    """Report as an executor does."""
    ADMIN = "admin"
    """Keys, the audit log, everybody's sessions; and all of the others."""


ALL_SCOPES = frozenset(Scope)
DEFAULT_SCOPES = (Scope.READ, Scope.EXECUTE)
"""What a new key gets if nothing else is said."""


def parse_scopes(names: Iterable[str]) -> tuple[Scope, ...]:
    """The scopes of these names, each once, in a fixed order.

    Raises:
        RequestRefusedError: One of them does not exist, or there is none.
    """
    wanted = set(names)
    if unknown := sorted(wanted - set(Scope)):
        raise RequestRefusedError(f"there is no scope {unknown[0]!r}, only {', '.join(Scope)}", "scopes")
    if not wanted:
        raise RequestRefusedError("a key without a scope would be good for nothing", "scopes")
    return tuple(scope for scope in Scope if scope in wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks.

    Attributes:
        owner: Whose sessions these are.
        key_id: Id of the key, or ``local``.
        max_sessions, max_executions: How many may be alive at once; None is what the server says.
    """

    owner: str
    key_id: str
    scopes: frozenset[Scope]
    max_sessions: int | None = None
    max_executions: int | None = None
    name: str = ""

    def allows(self, scope: Scope) -> bool:
        """Whether that may be done."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def require(self, scope: Scope) -> None:
        """Raises :class:`ForbiddenError` unless that may be done."""
        if not self.allows(scope):
            raise ForbiddenError(f"this needs a key with the scope '{scope}'")

    @property
    def sees_all(self) -> bool:
        """Whether sessions of others are seen as well."""
        return Scope.ADMIN in self.scopes


LOCAL = Principal(owner="local", key_id="local", scopes=ALL_SCOPES, name="local")
"""Who asks a server without keys, which only this machine can reach."""
