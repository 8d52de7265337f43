"""A client of our own: the connection, the registration of `/mcp`, and what `slash-mcp doctor` asks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import discord
import yarl
from discord import app_commands
from discord.gateway import DiscordWebSocket
from discord.http import Route

from adapters.base import Finding
from adapters.discord.interactions import PORTAL, WIRE
from adapters.symbols import BAD, GOOD, WARN
from mcp_auth.errors import ConfigError
from mcp_auth.outcome import Next

_log = logging.getLogger(__name__)

_NOISY = (*WIRE, "discord.client")
_RATE_LIMIT_SECONDS = 30.0


class OwnClient(discord.Client):
    """No privileged intent: Discord shows a bot the content of direct messages and of what mentions it anyway."""

    def __init__(self) -> None:
        intents = discord.Intents.none()
        intents.guilds = intents.guild_messages = intents.dm_messages = True
        # Without a message cache no link that was sent stays in memory.
        super().__init__(intents=intents, max_messages=None, max_ratelimit_timeout=_RATE_LIMIT_SECONDS)
        self.tree = app_commands.CommandTree(self)

    async def setup_hook(self) -> None:
        await sync_if_changed(self.tree)


async def sync_if_changed(tree: app_commands.CommandTree[Any]) -> bool:
    """Register the tree's commands unless Discord has them as they are. Returns whether it wrote."""
    client = tree.client
    # As JSON: `fetch_commands` of discord.py 2.7 reads contexts and installations shifted by one.
    stored = await client.http.get_global_commands(client.application_id)
    known = {command["name"]: _shape(command) for command in stored}
    ours = {command.name: _shape(command.to_dict(tree)) for command in tree.get_commands()}
    if known == ours:
        return False
    await tree.sync()
    _log.info("Discord: registered %s", ", ".join(f"/{name}" for name in ours))
    return True


def _shape(command: Mapping[str, Any]) -> dict[str, Any]:
    """What a definition says, without what Discord adds to it or leaves out of it."""
    return {
        "name": command["name"],
        "type": int(command.get("type") or 1),
        "description": command.get("description", ""),
        "required": bool(command.get("required")),
        "autocomplete": bool(command.get("autocomplete")),
        "contexts": sorted(command.get("contexts") or ()),
        "integration_types": sorted(command.get("integration_types") or ()),
        "options": [_shape(option) for option in command.get("options") or ()],
    }


async def look(token: str) -> list[Finding]:
    """What can be wrong between us and Discord. Raises what discord.py raises."""
    client = discord.Client(intents=discord.Intents.none(), max_ratelimit_timeout=_RATE_LIMIT_SECONDS)
    tree = app_commands.CommandTree(client)
    async with client:
        await client.login(token)
        application = await client.application_info()
        registered = await tree.fetch_commands()
    findings = [Finding(GOOD, f"signed in as {client.user}; no privileged intent is needed")]
    page = f"{PORTAL}/{application.id}"
    if application.interactions_endpoint_url:
        text = "an interactions endpoint URL is set, so no command reaches this program"
        findings.append(Finding(BAD, text, f"empty that field at {page}/information"))
    if application.user_integration_config is None:
        text = "the application cannot be added to an account, only to servers"
        findings.append(Finding(WARN, text, f"if you want that, tick User Install at {page}/installation"))
    if not any(command.name == "mcp" for command in registered):
        findings.append(Finding(WARN, "/mcp is not registered yet", Next("serve")))
    return findings


_default_endpoints = (Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY)
# One entry for each context that is open; all the same.
_in_use: list[tuple[str, yarl.URL]] = []


@contextmanager
def endpoints(base_url: str | None, gateway_url: str | None) -> Iterator[None]:
    """Point discord.py at other addresses, and back afterwards.

    The library has them as attributes of its classes, for the whole process: two clients with different
    addresses cannot run in it at the same time.

    Args:
        base_url: with version and without a slash at its end (`https://discord.com/api/v10`).
        gateway_url: of the websocket.

    Raises:
        ConfigError: another client of this process uses other addresses.
    """
    base, socket = _default_endpoints
    wanted = (base_url or base, yarl.URL(gateway_url) if gateway_url else socket)
    if _in_use and wanted != _in_use[0]:
        raise ConfigError(
            "Another Discord client of this process uses other addresses.",
            key="gateway.discord.base_url",
            next_step="run it in a process of its own",
        )
    _in_use.append(wanted)
    Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY = wanted
    try:
        yield
    finally:
        _in_use.pop()
        if not _in_use:
            Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY = _default_endpoints


def keep_logs_short() -> None:
    """In a process of our own."""
    # Nobody speaks here: the library need not say that it lacks what voice takes.
    discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False
    for name in _NOISY:
        noisy = logging.getLogger(name)
        noisy.setLevel(max(logging.INFO, noisy.getEffectiveLevel()))
        noisy.addFilter(_one_line)


class _OneLine(logging.Filter):
    """A lost connection is one line: the library's tracebacks say nothing more."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = record.exc_text = None
        return True


_one_line = _OneLine()
