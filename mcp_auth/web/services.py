"""What the endpoint needs of the core, which makes it: `McpAuth` has all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mcp_auth.config.models import Config
from mcp_auth.limits import Limits
from mcp_auth.links.gate import Gatekeeper
from mcp_auth.links.logins import Logins
from mcp_auth.oauth.authorization import AuthorizationResponse, Binding
from mcp_auth.records import KeyForm, SignIn
from mcp_auth.stores.base import Store
from mcp_auth.web.key_forms import Entry


class Services(Protocol):
    @property
    def config(self) -> Config: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def store(self) -> Store: ...

    @property
    def gatekeeper(self) -> Gatekeeper: ...

    @property
    def logins(self) -> Logins: ...

    def now(self) -> float:
        """Seconds since the epoch, by the clock that the records follow."""
        ...

    async def sign_in_of_ticket(self, ticket: str) -> SignIn | None: ...

    async def sign_in_of_state(self, state: str) -> SignIn | None: ...

    async def key_form_of_ticket(self, ticket: str) -> KeyForm | None: ...

    async def finish(self, answer: AuthorizationResponse, binding: Binding) -> SignIn: ...

    async def ask_last(self, answer: AuthorizationResponse, binding: Binding) -> tuple[SignIn, str | None]: ...

    async def last_page(self, answer: AuthorizationResponse, binding: Binding, secret: str) -> SignIn | None: ...

    async def fill_key_form(
        self, form: KeyForm, browser: str, values: Mapping[str, str], *, untried: bool = False
    ) -> Entry: ...

    async def client_document(self, connection: str) -> dict[str, Any] | None: ...
