"""Interactions that can still be answered, and the requests that answer them.

An interaction's token is a credential: it lives here, in memory, and is forgotten after its 15 minutes. What is
stored elsewhere names an interaction by its id only.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import aiohttp
import discord

Result = TypeVar("Result")

# These write every body that is sent and received at DEBUG: tokens of interactions, links, entered keys.
WIRE = ("discord.gateway", "discord.http", "discord.webhook.async_")
ORIGINAL = "@original"
# A token lives for 15 minutes; what is sent in the last seconds may arrive too late.
TOKEN_SECONDS = 15 * 60 - 10.0
# The first answer is due within 3 seconds.
_ACKNOWLEDGE_SECONDS = 2.0
_KEPT = 5000
_REQUEST_SECONDS = 30.0
_PAUSES = (0.5, 1.0, 2.0)

_UNKNOWN_INTERACTION, _UNKNOWN_WEBHOOK, _UNKNOWN_MESSAGE, _INVALID_TOKEN = 10062, 10015, 10008, 50027
_EXPIRED = frozenset({_UNKNOWN_INTERACTION, _UNKNOWN_WEBHOOK, _UNKNOWN_MESSAGE, _INVALID_TOKEN})
_ACKNOWLEDGED = 40060


class NotDelivered(Exception):
    """Discord did not take a message. The text says why and holds neither content nor token."""


class Expired(Exception):
    """The interaction, or the message it made, cannot be used any more."""


async def attempt(call: Callable[[], Awaitable[Result]]) -> Result:
    """One request, sent again a few times while the network is down.

    discord.py itself waits for rate limits and repeats what Discord answers with 5xx.

    Raises:
        NotDelivered: it cannot be done now.
        discord.HTTPException: Discord refuses it; see its `code`.
    """
    for pause in (*_PAUSES, None):
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                return await call()
        except discord.RateLimited as error:
            raise NotDelivered(f"rate limited for {error.retry_after:.0f} s") from None
        except discord.DiscordServerError as error:
            raise NotDelivered(f"HTTP {error.status} from Discord") from None
        except TimeoutError:
            raise NotDelivered(f"no answer within {_REQUEST_SECONDS:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            if pause is None:
                raise NotDelivered(f"no connection to Discord ({type(error).__name__})") from None
            await asyncio.sleep(pause)
    raise AssertionError("the last round returns or raises")


class Rows(discord.ui.View):
    """Rows of buttons as they are. Presses are dispatched by their custom id, so the library keeps nothing of it."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__(timeout=None)
        self._rows = rows
        self.stop()

    def to_components(self) -> list[dict[str, Any]]:
        return self._rows


@dataclass(eq=False, slots=True)
class Live:
    """One interaction. Whatever answers it is seen by its user alone."""

    interaction: discord.Interaction
    expires_at: float
    state: Literal["new", "deferred", "answered"] = "new"
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    late: asyncio.Task[None] | None = None

    async def acknowledge(self) -> None:
        """Show that an answer is on its way, unless there was one."""
        async with self.lock:
            if self.state != "new":
                return
            try:
                await _request(lambda: self.interaction.response.defer(ephemeral=True, thinking=True))
            except Expired:
                # Too late for a first answer: what follows goes into the direct messages.
                self.expires_at = 0.0
                return
            self.state = "deferred"

    @contextmanager
    def acknowledged_in_time(self) -> Iterator[None]:
        """Acknowledge by itself when the first answer takes long."""
        timer = asyncio.get_running_loop().call_later(_ACKNOWLEDGE_SECONDS, self._begin_to_acknowledge)
        try:
            yield
        finally:
            timer.cancel()

    def _begin_to_acknowledge(self) -> None:
        self.late = asyncio.create_task(self._acknowledge_late())

    async def _acknowledge_late(self) -> None:
        try:
            await self.acknowledge()
        except (NotDelivered, discord.HTTPException):
            # The answer itself runs into the same wall, and says so.
            return

    async def send(self, payload: dict[str, Any]) -> str:
        """A new ephemeral message; the first one takes the place of the acknowledgement. Returns its id.

        Raises:
            Expired, NotDelivered.
        """
        async with self.lock:
            if self.state == "new":
                answered = await _request(
                    lambda: self.interaction.response.send_message(**as_message(payload), ephemeral=True)
                )
                # None: the connection broke after the answer was taken. Repeating it is refused, editing it is not.
                self.state = "answered" if answered is not None else "deferred"
                if answered is not None:
                    return ORIGINAL
            if self.state == "deferred":
                await self._edit(ORIGINAL, payload)
                self.state = "answered"
                return ORIGINAL
            message = await _request(
                lambda: self.interaction.followup.send(wait=True, **as_message(payload), ephemeral=True)
            )
            return str(message.id) if message is not None else ORIGINAL

    async def edit(self, message: str, payload: dict[str, Any]) -> None:
        """Raises: Expired, NotDelivered."""
        async with self.lock:
            await self._edit(message, payload)

    async def open(self, modal: discord.ui.Modal) -> bool:
        """Open a form. False: it is too late for one, because something was answered."""
        async with self.lock:
            if self.state != "new":
                return False
            await _request(lambda: self.interaction.response.send_modal(modal))
            self.state = "answered"
            return True

    async def _edit(self, message: str, payload: dict[str, Any]) -> None:
        shown = as_edit(payload)
        if message == ORIGINAL:
            await _request(lambda: self.interaction.edit_original_response(**shown))
        else:
            await _request(lambda: self.interaction.followup.edit_message(int(message), **shown))


class Interactions:
    """The live ones, by id."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._live: OrderedDict[str, Live] = OrderedDict()

    def keep(self, interaction: discord.Interaction) -> Live:
        now = self._clock()
        while self._live and (len(self._live) >= _KEPT or next(iter(self._live.values())).expires_at <= now):
            self._live.popitem(last=False)
        live = self._live[str(interaction.id)] = Live(interaction, now + TOKEN_SECONDS)
        return live

    def get(self, interaction_id: str) -> Live | None:
        live = self._live.get(interaction_id)
        return live if live is not None and live.expires_at > self._clock() else None


def as_message(payload: dict[str, Any]) -> dict[str, Any]:
    """A rendered message as discord.py's arguments for a new one, without previews."""
    return {**as_edit(payload), "suppress_embeds": True}


def as_edit(payload: dict[str, Any]) -> dict[str, Any]:
    """The same for an edit; the message keeps its flags."""
    return {
        "content": payload["content"],
        "view": Rows(payload["components"]),
        "allowed_mentions": discord.AllowedMentions.none(),
    }


async def _request(call: Callable[[], Awaitable[Result]]) -> Result | None:
    """`attempt`, where "acknowledged already" is what an earlier try of ours has done: None."""
    try:
        return await attempt(call)
    except discord.HTTPException as error:
        if error.code in _EXPIRED:
            raise Expired from None
        if error.code == _ACKNOWLEDGED:
            return None
        raise
