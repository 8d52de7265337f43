"""What the endpoint needs of the parts behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from mcp_auth.config.models import Config
from mcp_auth.kinds import KEY_FORM, SIGN_IN, LinkKind
from mcp_auth.limits import Limits
from mcp_auth.links.logins import Logins
from mcp_auth.links.tickets import connection_ids, slot_of
from mcp_auth.links.verification import LinkVerifier
from mcp_auth.oauth.authorization import AuthorizationResponse
from mcp_auth.oauth.exchange import Exchanges
from mcp_auth.oauth.registration import client_document, uses_own_document
from mcp_auth.oauth.sign_in import SignIns
from mcp_auth.records import Linked, SignIn
from mcp_auth.stores.base import Store
from mcp_auth.web.key_forms import KeyForms

if TYPE_CHECKING:
    from starlette.types import ASGIApp


class Links(Protocol):
    """The service of one kind of link."""

    async def as_of_now(self, record: Any) -> Any:
        """The record with what time did to it."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """`now`: seconds since the epoch, by the clock that the records follow. `mounts`: somebody else's applications."""

    config: Config
    store: Store
    limits: Limits
    logins: Logins
    verifier: LinkVerifier
    sign_ins: SignIns
    exchanges: Exchanges
    key_forms: KeyForms
    now: Callable[[], float]
    mounts: dict[str, ASGIApp] = field(default_factory=dict)

    async def of_ticket(self, kind: LinkKind, ticket: str) -> Linked | None:
        """What this ticket opens, or None."""
        slot = slot_of(ticket)
        record = await self.store.links(kind).get(slot) if slot is not None else None
        if record is None or not self.verifier.knows(record, ticket):
            return None
        links: dict[LinkKind, Links] = {SIGN_IN: self.sign_ins, KEY_FORM: self.key_forms}
        return cast("Linked", await links[kind].as_of_now(record))

    async def of_state(self, state: str) -> SignIn | None:
        """The sign-in behind a link of ours that may have sent the browser on with this `state`, else None."""
        slot = AuthorizationResponse(state=state).slot
        sign_in = await self.store.sign_ins.get(slot) if slot is not None else None
        return sign_in if sign_in is not None and sign_in.binding is not None else None

    async def client_document(self, connection: str) -> dict[str, Any] | None:
        """The client ID metadata document of a connection where it is who we are, else None."""
        public_url = self.config.gateway.public_url
        if public_url is None or not public_url.startswith("https://"):
            return None
        for entry in self.config.servers.values():
            known = await self.store.profiles.get(entry.url) if entry.url is not None else None
            if known is None or entry.url is None or not uses_own_document(entry):
                continue
            at = {one.issuer for one in known.registrations if one.source == "metadata_document"}
            if known.metadata is not None and known.metadata.client_id_metadata_document_supported is True:
                at.add(known.metadata.issuer)
            if any(connection in connection_ids(entry.url, issuer) for issuer in at):
                return client_document(entry, public_url, connection)
        return None
