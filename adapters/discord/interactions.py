"""Interactions that can still be answered, the requests that answer them, and what Discord says no with.

An interaction's token is a credential: it lives here, in memory, and is forgotten after its 15 minutes. What is
stored elsewhere names an interaction by its id only.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import discord

from adapters.refusals import Elsewhere, Later, Misconfigured, Refused

# These write every body that is sent and received at DEBUG: tokens of interactions, links, entered keys.
WIRE = ("discord.gateway", "discord.http", "discord.webhook.async_")
FAILURES = (discord.DiscordException, aiohttp.ClientError, OSError, TimeoutError)
PORTAL = "https://discord.com/developers/applications"
ORIGINAL = "@original"
# A token lives for 15 minutes; what is sent in the last seconds may arrive too late.
TOKEN_SECONDS = 15 * 60 - 10.0
# The first answer is due within 3 seconds.
_ACKNOWLEDGE_SECONDS = 2.0
_KEPT = 5000


class Expired(Elsewhere):
    """The interaction, or the message it made, cannot be used any more."""


class Acknowledged(Refused):
    """Discord took the first answer already: what an earlier try of ours has done, whose connection broke."""


# https://docs.discord.com/developers/topics/opcodes-and-status-codes, by the code of the JSON answer.
_CODES: dict[int, type[Refused]] = {
    10062: Expired,  # unknown interaction
    10015: Expired,  # unknown webhook
    10008: Expired,  # unknown message
    50027: Expired,  # invalid token
    40060: Acknowledged,
    50083: Elsewhere,  # archived or locked thread
}
_STATUSES: dict[int, type[Refused]] = {401: Misconfigured, 403: Elsewhere, 404: Elsewhere}


def refusal_of(error: Exception) -> Refused:
    """What the library repeats itself, rate limits and answers with 5xx, is not tried once more."""
    match error:
        case discord.LoginFailure() | discord.ConnectionClosed(code=4004):
            return Misconfigured(
                "Discord refuses the token of gateway.discord.",
                key="gateway.discord.token",
                next_step=f"make a new one at {PORTAL} (your application, Bot, Reset Token)",
            )
        case discord.ConnectionClosed():
            return Later(f"Discord closed the connection with code {error.code}.")
        case discord.RateLimited():
            return Later(f"rate limited for {error.retry_after:.0f} s", wait=math.inf)
        case discord.DiscordServerError() | TimeoutError():
            status = f"HTTP {error.status}" if isinstance(error, discord.DiscordServerError) else "no answer in time"
            return Later(f"{status} from Discord", wait=math.inf)
        case discord.HTTPException():
            kind = _CODES.get(error.code) or _STATUSES.get(error.status, Refused)
            return kind(f"HTTP {error.status}, code {error.code}")
        case aiohttp.ClientError() | OSError() | discord.GatewayNotFound():
            why = f"Discord cannot be reached ({type(error).__name__})."
            return Later(why, next_step="look at this host's connection")
    return Refused(f"discord.py says {type(error).__name__}")


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
    """One interaction. Whatever answers it is seen by its user alone.

    `attempt`: makes a request, and raises what it is refused with.
    """

    interaction: discord.Interaction
    expires_at: float
    attempt: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
    state: Literal["new", "deferred", "answered"] = "new"
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def acknowledge(self) -> None:
        """Show that an answer is on its way, unless there was one.

        Raises:
            Refused: Discord does not take it.
        """
        async with self.lock:
            if self.state != "new":
                return
            try:
                await self.attempt(lambda: self.interaction.response.defer(ephemeral=True, thinking=True))
            except Expired:
                # Too late for a first answer: what follows goes into the direct messages.
                self.expires_at = 0.0
                return
            except Acknowledged:
                pass
            self.state = "deferred"

    @contextmanager
    def acknowledged_in_time(self, spawn: Callable[[Awaitable[None]], object]) -> Iterator[None]:
        """Acknowledge by itself when the first answer takes long."""
        timer = asyncio.get_running_loop().call_later(_ACKNOWLEDGE_SECONDS, lambda: spawn(self.acknowledge()))
        try:
            yield
        finally:
            timer.cancel()

    async def send(self, payload: dict[str, Any]) -> str:
        """A new ephemeral message; the first one takes the place of the acknowledgement. Returns its id.

        Raises:
            Refused: `Expired`, or what else Discord says.
        """
        shown = as_message(payload)
        async with self.lock:
            if self.state == "new":
                try:
                    await self.attempt(lambda: self.interaction.response.send_message(**shown, ephemeral=True))
                except Acknowledged:
                    # Repeating it is refused, editing it is not.
                    self.state = "deferred"
                else:
                    self.state = "answered"
                    return ORIGINAL
            if self.state == "deferred":
                await self._edit(ORIGINAL, payload)
                self.state = "answered"
                return ORIGINAL
            message = await self.attempt(lambda: self.interaction.followup.send(wait=True, **shown, ephemeral=True))
            return str(message.id)

    async def edit(self, message: str, payload: dict[str, Any]) -> None:
        """Raises Refused: as `send`."""
        async with self.lock:
            await self._edit(message, payload)

    async def open(self, modal: discord.ui.Modal) -> bool:
        """Open a form. False: it is too late for one, because something was answered or time is over."""
        async with self.lock:
            if self.state != "new":
                return False
            try:
                await self.attempt(lambda: self.interaction.response.send_modal(modal))
            except Expired:
                self.expires_at = 0.0
                return False
            except Acknowledged:
                pass
            self.state = "answered"
            return True

    async def _edit(self, message: str, payload: dict[str, Any]) -> None:
        shown, interaction = as_edit(payload), self.interaction
        if message == ORIGINAL:
            await self.attempt(lambda: interaction.edit_original_response(**shown))
        else:
            await self.attempt(lambda: interaction.followup.edit_message(int(message), **shown))


class Interactions:
    """The live ones, by id."""

    def __init__(
        self, clock: Callable[[], float], attempt: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
    ) -> None:
        self._clock = clock
        self._attempt = attempt
        self._live: OrderedDict[str, Live] = OrderedDict()

    def keep(self, interaction: discord.Interaction) -> Live:
        now = self._clock()
        while self._live and (len(self._live) >= _KEPT or next(iter(self._live.values())).expires_at <= now):
            self._live.popitem(last=False)
        live = self._live[str(interaction.id)] = Live(interaction, now + TOKEN_SECONDS, self._attempt)
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
