"""Discord as a chat: slash commands, presses, forms, `@bot mcp` and direct messages in; ephemeral answers out."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import discord
from discord import app_commands

from adapters import buttons
from adapters.base import Adapter, Finding
from adapters.discord import interactions, process
from adapters.discord.commands import McpCommands
from adapters.discord.forms import KeyForm, TextForm
from adapters.discord.interactions import Expired, Live
from adapters.discord.options import DiscordOptions
from adapters.discord.render import CHOICE_MAX, CHOICES_MAX, CONTENT_MAX, URL_MAX, render
from adapters.driver import remark
from adapters.refusals import EditWindowClosed, Elsewhere, NotSupported, PrivateDeliveryUnavailable, Refused
from adapters.text import clean
from gateway import sentences
from gateway.bounded_dict import BoundedDict
from gateway.grammar import looks_like_redirect
from gateway.invocations import Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Reply, SecretPrompt
from mcp_auth.errors import ConfigError

if TYPE_CHECKING:
    from gateway.gateway import Gateway

PLATFORM = "discord"
_COMMAND = re.compile(r"(?P<mark>[/!])?mcp(?:\s+(?P<text>.*))?", re.IGNORECASE | re.DOTALL)
_PERSON_WROTE = frozenset({discord.MessageType.default, discord.MessageType.reply})
_PRESS = re.compile(r"mcp:[^:]*:[^:]*:[^:]*")
_PROMPTS_KEPT = 1000


class DiscordAdapter(Adapter[DiscordOptions]):
    """`/mcp` for a discord.py client: `install` puts it into somebody else's, `run` has its own."""

    platform = PLATFORM
    title = "Discord"
    options_type = DiscordOptions
    # Ephemeral answers exist for interactions, which are private chats here; a text in a channel has none.
    capabilities = Capabilities(
        edit_window=interactions.TOKEN_SECONDS,
        modal=True,
        secret_input=True,
        text_max=CONTENT_MAX,
        button_url_max=URL_MAX,
    )
    failures = interactions.FAILURES
    pauses = (0.5, 1.0, 2.0)
    call_seconds = 30.0
    wire = interactions.WIRE
    _client: discord.Client | None = None

    def __init__(
        self, gateway: Gateway, *, options: DiscordOptions | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(gateway, options=options, clock=clock)
        self._interactions = interactions.Interactions(clock, self.attempt)
        self._prompts: BoundedDict[str, SecretPrompt] = BoundedDict(_PROMPTS_KEPT)
        # The id under which Discord knows `/mcp`; each use of it tells.
        self._command_id: str | None = None

    # -- installing --------------------------------------------------------------------------

    def install(self, target: discord.Client | app_commands.CommandTree[Any]) -> None:
        """Add `/mcp` to a client, or to its command tree. Nothing is synced: that stays with the host.

        A `commands.Bot` gets one more listener for `on_message`; a plain `Client` gets an `on_message` that keeps what
        is ours and passes the rest on to the one it had (so install after setting it, or call `on_message` from it).

        Raises:
            ConfigError: the client has a command `/mcp`, or a tree that was not given.
            RuntimeError: it is installed already.
        """
        tree = target if isinstance(target, app_commands.CommandTree) else _tree_of(target)
        client, group, pressed = tree.client, McpCommands("mcp", self.take, self._choices), _press_of(self)
        self.attach()
        try:
            tree.add_command(group)
        except app_commands.CommandAlreadyRegistered:
            self.detach()
            raise ConfigError(
                "This Discord client has a command /mcp already.",
                next_step="remove it, or do not install slash-mcp twice",
            ) from None
        self._client = client
        client.add_dynamic_items(pressed)
        self.undo += [
            lambda: tree.remove_command(group.name),
            lambda: client.remove_dynamic_items(pressed),
            _listen(client, self.on_message),
        ]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        options = self.options
        process.keep_logs_short()
        with process.endpoints(options.base_url, options.gateway_url):
            client = process.OwnClient()
            self.install(client.tree)
            async with client:
                await client.login(options.token)
                yield

    async def receive(self) -> None:
        await self._connected.connect()

    async def examine(self) -> list[Finding]:
        with process.endpoints(self.options.base_url, self.options.gateway_url):
            return await process.look(self.options.token)

    def refusal(self, error: Exception) -> Refused:
        return interactions.refusal_of(error)

    # -- what people do ----------------------------------------------------------------------

    async def take(self, interaction: discord.Interaction, text: str) -> None:
        """Answer an interaction for what would be typed after `/mcp`."""
        if interaction.user.bot or self._interactions.get(str(interaction.id)) is not None:
            return
        if interaction.type is discord.InteractionType.application_command:
            used: Any = interaction.data or {}
            self._command_id = str(used["id"]) if "id" in used else self._command_id
        live = self._interactions.keep(interaction)
        with live.acknowledged_in_time(self.spawn):
            await self.answer(self._invocation(interaction, text), live)

    async def acknowledge(self, invocation: Invocation, trigger: object) -> None:
        if isinstance(trigger, Live):
            await trigger.acknowledge()

    async def press(self, interaction: discord.Interaction) -> None:
        """Somebody pressed one of our buttons."""
        pressed: Any = interaction.data or {}
        data = str(pressed.get("custom_id", ""))
        principal = self.principal(interaction.user.id)
        asked, why = self.pressed(data, principal)
        prompt_id = buttons.prompt_of(data) if buttons.is_for(data, principal) else None
        if prompt_id is not None:
            prompt, why = self._prompts.get(prompt_id), sentences.PROMPT_OVER
            if prompt is not None and prompt.expires_at > self.clock():
                live = self._interactions.keep(interaction)
                async with self.excused(principal, self._place(interaction)):
                    await self.ask_secret(prompt, live)
                return
        if asked is not None:
            await self.take(interaction, asked)
            return
        self._interactions.keep(interaction)
        async with self.excused(principal, self._place(interaction)):
            await self.deliver_private(principal, remark(why), self._place(interaction))

    async def _submit_key(self, interaction: discord.Interaction, prompt: SecretPrompt, value: str) -> None:
        principal, place = self.principal(interaction.user.id), self._place(interaction)
        live = self._interactions.keep(interaction)
        async with self.excused(principal, place):
            await live.acknowledge()
            await self.take_secret(principal, place, prompt.id, value, deleted=True)

    def _place(self, interaction: discord.Interaction) -> ChatRef:
        return ChatRef(PLATFORM, {"interaction": str(interaction.id), "user": str(interaction.user.id)})

    def _invocation(self, interaction: discord.Interaction, text: str) -> Invocation:
        user = interaction.user
        place = self._place(interaction)
        return Invocation(self.principal(user.id), place, text, True, str(interaction.id), user.display_name)

    def _choices(self, interaction: discord.Interaction, typed: str) -> list[app_commands.Choice[str]]:
        """The servers whose names hold what was typed; none for strangers, who are not told any."""
        if not self.is_allowed(self.principal(interaction.user.id)):
            return []
        wanted = typed.strip().casefold()
        fitting = [name for name in self.gateway.names() if wanted in name.casefold() and len(name) <= CHOICE_MAX]
        fitting.sort(key=lambda name: not name.casefold().startswith(wanted))
        return [app_commands.Choice(name=clean(name) or name, value=name) for name in fitting[:CHOICES_MAX]]

    async def on_message(self, message: discord.Message) -> bool:
        """Answer a message, if it is ours. Returns whether it is."""
        if not await self.claims(message):
            return False
        user = message.author
        chat = ChatRef(PLATFORM, {"channel": str(message.channel.id), "user": str(user.id)})
        is_private = isinstance(message.channel, discord.DMChannel)
        text = self._text_in(message) or ""
        await self.answer(
            Invocation(self.principal(user.id), chat, text, is_private, str(message.id), user.display_name)
        )
        return True

    async def claims(self, message: discord.Message) -> bool:
        """Is this message for `/mcp`, so that nobody else should act on it? `@bot mcp ...`, in direct messages also
        `!mcp ...`, and wherever we can read it the bare address of one of our sign-ins. Never what a bot or a webhook
        wrote."""
        text = self._text_in(message)
        if text is None:
            return False
        return not looks_like_redirect(text) or await self.gateway.claims(text)

    def _text_in(self, message: discord.Message) -> str | None:
        """What stands after the mention and `mcp`; None: it is no message of a person to us."""
        me = self._client.user if self._client is not None else None
        if me is None or message.author.bot or message.webhook_id is not None or message.type not in _PERSON_WROTE:
            return None
        text = message.content.strip()
        direct = isinstance(message.channel, discord.DMChannel)
        mention = re.match(rf"<@!?{me.id}>\s*", text)
        text = text[mention.end() :] if mention is not None else text
        if looks_like_redirect(text):
            return text
        if mention is None and not direct:
            return None
        found = _COMMAND.fullmatch(text)
        # "mcp is broken" in the direct messages is for whoever the person talks to there.
        if found is None or (mention is None and found["mark"] is None):
            return None
        return (found["text"] or "").strip()

    # -- what goes out -----------------------------------------------------------------------

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        principal = self.principal(chat.data["user"])
        if "channel" not in chat.data:
            return await self.deliver_private(principal, reply, chat)
        return await self._post(self._channel(chat.data), principal, reply)

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        live = self._interactions.get(via.data.get("interaction", "")) if via is not None else None
        if via is not None and live is not None:
            try:
                message = await live.send(self._render(reply, principal))
            except Expired:
                self.log.debug("an interaction is over; its answer goes into the direct messages")
            else:
                return MessageRef(PLATFORM, {**via.data, "message": message})
        client = self._connected
        try:
            channel = await self.attempt(lambda: client.create_dm(discord.Object(int(principal.user))))
            return await self._post(channel, principal, reply)
        except Elsewhere as error:
            raise PrivateDeliveryUnavailable(how=sentences.DISCORD_PRIVATE, why=error.message) from None

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        data = message.data
        payload = self._render(reply, self.principal(data["user"]))
        live = self._interactions.get(data.get("interaction", ""))
        try:
            if "channel" in data:
                posted = self._channel(data).get_partial_message(int(data["message"]))
                shown = interactions.as_edit(payload)
                await self.attempt(lambda: posted.edit(**shown))
            elif live is not None:
                await live.edit(data["message"], payload)
            else:
                raise EditWindowClosed
        except Elsewhere as error:
            raise EditWindowClosed(error.message) from None
        return message

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        form = KeyForm(prompt, lambda interaction, value: self._submit_key(interaction, prompt, value))
        if not isinstance(trigger, Live) or not await trigger.open(form):
            raise NotSupported

    async def ask_text(self, verb: str, trigger: object) -> None:
        form = TextForm(verb, lambda interaction, entered: self.take(interaction, f"{verb} {entered}"))
        if not isinstance(trigger, Live) or not await trigger.open(form):
            raise NotSupported

    async def _post(self, channel: discord.abc.Messageable, owner: Principal, reply: Reply) -> MessageRef:
        shown = interactions.as_message(self._render(reply, owner))
        # Sent twice after a broken connection, it is one message: Discord knows it by its nonce.
        nonce = secrets.token_hex(12)
        message = await self.attempt(lambda: channel.send(nonce=nonce, **shown))
        where = {"channel": str(message.channel.id), "message": str(message.id), "user": owner.user}
        return MessageRef(PLATFORM, where)

    def _render(self, reply: Reply, owner: Principal) -> dict[str, Any]:
        if reply.prompt is not None:
            self._prompts[reply.prompt.id] = reply.prompt
        servers = self.gateway.names()
        return render(reply, owner=owner, servers=servers, now=self.clock(), command_id=self._command_id)

    def _channel(self, data: dict[str, Any]) -> discord.PartialMessageable:
        return self._connected.get_partial_messageable(int(data["channel"]))

    @property
    def _connected(self) -> discord.Client:
        if self._client is None:
            raise RuntimeError("install() or run() comes first")
        return self._client


def _tree_of(client: discord.Client) -> app_commands.CommandTree[Any]:
    """The client's tree where one is at hand (`commands.Bot`, or the usual `self.tree`), else a new one."""
    tree = getattr(client, "tree", None)
    if isinstance(tree, app_commands.CommandTree):
        return tree
    try:
        return app_commands.CommandTree(client)
    except discord.ClientException:
        raise ConfigError(
            "This Discord client has a command tree already, and it is not at client.tree.",
            next_step="give the tree itself: DiscordAdapter(gateway).install(tree)",
        ) from None


def _press_of(adapter: DiscordAdapter) -> type[discord.ui.DynamicItem[Any]]:
    """What discord.py calls for every button whose custom id is one of ours, also for messages before a restart."""

    class Press(discord.ui.DynamicItem[discord.ui.Button[Any]], template=_PRESS):
        @classmethod
        async def from_custom_id(
            cls, interaction: discord.Interaction[Any], item: discord.ui.Item[Any], match: re.Match[str]
        ) -> Press:
            return cls(cast("discord.ui.Button[Any]", item))

        async def callback(self, interaction: discord.Interaction[Any]) -> None:
            await adapter.press(interaction)

    return Press


def _listen(client: Any, ours: Callable[[discord.Message], Awaitable[bool]]) -> Callable[[], None]:
    if hasattr(client, "add_listener"):

        async def listener(message: discord.Message) -> None:
            await ours(message)

        client.add_listener(listener, "on_message")
        return lambda: client.remove_listener(listener, "on_message")
    theirs = getattr(client, "on_message", None)

    async def on_message(message: discord.Message) -> None:
        if not await ours(message) and theirs is not None:
            await theirs(message)

    client.event(on_message)

    def undo() -> None:
        if client.on_message is not on_message:
            return
        del client.on_message
        if theirs is not None:
            client.on_message = theirs

    return undo
