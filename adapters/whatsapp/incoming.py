"""What arrives from WhatsApp: read once, and from then on a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from pywa_async.types import CallbackButton, CallbackSelection, Message
from pywa_async.types.chat import ChatType

from gateway import policy
from gateway.invocations import ChatRef, Principal
from mcp_auth.config.models import GatewayOptions

if TYPE_CHECKING:
    from pywa_async.types.user import User

Update: TypeAlias = Message | CallbackButton[Any] | CallbackSelection[Any]
PLATFORM = "whatsapp"


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message or a press.

    `text`: what was typed; None: it is a press, or holds no text. `button`: what the pressed one carries. `also`: the
    other addresses under which the person may be known. `private`: in a group others read along, even though the
    answer comes in private.
    """

    id: str
    principal: Principal
    chat: ChatRef
    text: str | None
    button: str | None
    private: bool
    name: str
    also: tuple[str, ...]


def read(update: Update, gateway: GatewayOptions) -> Incoming:
    user = update.from_user
    principal = principal_of(user, gateway)
    button = None if isinstance(update, Message) else update.data
    return Incoming(
        id=update.id,
        principal=principal,
        chat=ChatRef(PLATFORM, {"to": user.preferred_id, "user": principal.user}),
        text=update.text if isinstance(update, Message) else None,
        button=button if isinstance(button, str) else None,
        private=not (isinstance(update, Message) and update.chat.type is ChatType.GROUP),
        name=user.name or "",
        also=tuple(one for one in (user.bsuid, user.wa_id, user.preferred_id) if one),
    )


def principal_of(user: User, gateway: GatewayOptions) -> Principal:
    """The business-scoped user id, or the number where the configuration names the person by it.

    A number can be given to somebody else one day, and a person may hide it; the id is the person's own.
    """
    known = [Principal(PLATFORM, one) for one in (user.bsuid, user.wa_id) if one]
    return next((one for one in known if policy.is_allowed(one, gateway)), known[0])
