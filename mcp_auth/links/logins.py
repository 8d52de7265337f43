"""How people can prove who sits at a browser: what the host supplies beside the code that is typed in the chat."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from mcp_auth.config.models import GatewayOptions
from mcp_auth.outcome import Step

if TYPE_CHECKING:
    from starlette.requests import Request


class BrowserLogin(Protocol):
    """A platform's own login, with which a person proves in the browser which of its accounts they have."""

    @property
    def label(self) -> str:
        """What stands on the button."""
        ...

    @property
    def fields(self) -> frozenset[str]:
        """The parameters with which the platform sends the browser back."""
        ...

    def start(self, return_to: str) -> str:
        """Where the browser goes to log in, and is sent back from to `return_to`."""
        ...

    def principal(self, answer: Mapping[str, str]) -> str | None:
        """Whose account it is; None when the answer is forged or old."""
        ...


class Logins:
    """Empty at first: a host application and the adapters of platforms add what they have.

    Args:
        command: a next step in the words of the host's chats, for the pages.
    """

    def __init__(self, gateway: GatewayOptions, command: Callable[[Step], str] = str) -> None:
        self._gateway = gateway
        self.command = command
        self._verify: Callable[[Request], Awaitable[str | None]] | None = None
        self._by_platform: dict[str, BrowserLogin] = {}
        self._code_links: dict[str, Callable[[str], str]] = {}

    def verify_by(self, verify: Callable[[Request], Awaitable[str | None]]) -> None:
        """Let the host application say which principal sits at a browser, or None."""
        self._verify = verify

    def add(self, platform: str, login: BrowserLogin) -> None:
        """A platform's own login, offered on the page."""
        self._by_platform[platform] = login

    def carry_codes(self, platform: str, link: Callable[[str], str]) -> None:
        """`link(code)` opens this platform's chat with the code in it."""
        self._code_links[platform] = link

    @property
    def knows_browsers(self) -> bool:
        """Whether a host application says who sits at a browser."""
        return self._verify is not None

    async def identity(self, request: Request) -> str | None:
        """The principal who is proven to sit at this browser, or None.

        A neighbour on the same host can plant the host application's session, too: it counts only for the operator
        who asks for it with `gateway.verify: browser`.
        """
        if self._verify is None or self._gateway.verify != "browser":
            return None
        return await self._verify(request)

    def link_for(self, principal: str, code: str) -> str | None:
        """The link that carries a code into the chat of this principal's platform, where there is one."""
        make = self._code_links.get(principal.partition(":")[0])
        return make(code) if make is not None else None

    def login_for(self, principal: str) -> BrowserLogin | None:
        """The login that this principal's platform offers, unless `gateway.verify` wants the code."""
        if self._gateway.verify == "code":
            return None
        return self._by_platform.get(principal.partition(":")[0])
