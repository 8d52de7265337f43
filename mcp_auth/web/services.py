"""What the endpoint needs of the core, which makes it: `McpAuth` has all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from mcp_auth.config.models import Config
from mcp_auth.limits import Limits
from mcp_auth.links.gate import BrowserLogin, Gatekeeper
from mcp_auth.oauth.authorization import AuthorizationResponse, Binding
from mcp_auth.records import KeyForm, SignIn
from mcp_auth.stores.base import Store
from mcp_auth.web.key_forms import Entry

if TYPE_CHECKING:
    from starlette.requests import Request


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
    def knows_browsers(self) -> bool:
        """Whether a host application says who sits at a browser."""
        ...

    def now(self) -> float:
        """Seconds since the epoch, by the clock that the records follow."""
        ...

    async def identity(self, request: Request) -> str | None:
        """The principal who is proven to sit at this browser, or None."""
        ...

    def confirm_link(self, principal: str, code: str) -> str | None:
        """The link that carries a code into the chat of this principal's platform, where there is one."""
        ...

    def browser_login(self, principal: str) -> BrowserLogin | None:
        """The login that this principal's platform offers."""
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
