"""Discord as a chat: slash commands, presses, forms, `@bot mcp` and direct messages in; ephemeral answers out."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import discord
from discord import app_commands

from adapters import buttons, log_filters
from adapters.base import (
    Driver,
    EditWindowClosed,
    Finding,
    NotSupported,
    PrivateDeliveryUnavailable,
    nobody_served,
    remark,
)
from adapters.discord import process
from adapters.discord.commands import McpCommands
from adapters.discord.forms import KeyForm, TextForm
from adapters.discord.interactions import (
    TOKEN_SECONDS,
    WIRE,
    Expired,
    Interactions,
    Live,
    NotDelivered,
    as_edit,
    as_message,
    attempt,
)
from adapters.discord.options import DiscordOptions
from adapters.discord.render import CHOICE_MAX, CHOICES_MAX, CONTENT_MAX, URL_MAX, render
from adapters.symbols import BAD
from adapters.text import clean
from adapters.waiting import Waiting
from gateway import error_reports, sentences
from gateway.bounded_dict import BoundedDict
from gateway.grammar import looks_like_redirect
from gateway.invocations import Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.policy import is_allowed
from gateway.replies import Deferred, Ignored, Notice, Reply, SecretPrompt, Text, TextModal
from mcp_auth.errors import ConfigError, McpAuthError

if TYPE_CHECKING:
    from gateway.gateway import Gateway

_log = logging.getLogger(__name__)

PLATFORM = "discord"
_COMMAND = re.compile(r"(?P<mark>[/!])?mcp(?:\s+(?P<text>.*))?", re.IGNORECASE | re.DOTALL)
_PERSON_WROTE = frozenset({discord.MessageType.default, discord.MessageType.reply})
_PRESS = re.compile(r"mcp:[^:]*:[^:]*:[^:]*")
_PROMPTS_KEPT = 1000


class DiscordAdapter:
    """`/mcp` for a discord.py client: `install` puts it into somebody else's, `run` has its own.

    Args:
        options: instead of the section `gateway.discord`; only `run` and `check` need any.
        clock: seconds since the epoch.
    """

    # Ephemeral answers exist for interactions, which are private chats here; a text in a channel has none.
    capabilities = Capabilities(
        edit_window=TOKEN_SECONDS,
        modal=True,
        secret_input=True,
        text_max=CONTENT_MAX,
        button_url_max=URL_MAX,
    )

    def __init__(
        self, gateway: Gateway, *, options: DiscordOptions | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._gateway = gateway
        self._options = options
        self._clock = clock
        self._driver = Driver(gateway, self)
        self._interactions = Interactions(clock)
        self._client: discord.Client | None = None
        self._undo: list[Callable[[], object]] = []
        self._prompts: BoundedDict[str, SecretPrompt] = BoundedDict(_PROMPTS_KEPT)
        self._missed = Waiting(gateway.config.home / PLATFORM)

    # -- installing --------------------------------------------------------------------------

    def install(self, target: discord.Client | app_commands.CommandTree[Any]) -> None:
        """Add `/mcp` to a client, or to its command tree. Nothing is synced: that stays with the host.

        A `commands.Bot` gets one more listener for `on_message`; a plain `Client` gets an `on_message` that keeps what
        is ours and passes the rest on to the one it had (so install after setting it, or call `on_message` from it).

        Raises:
            ConfigError: the client has a command `/mcp`, or a tree that was not given.
            RuntimeError: it is installed already.
        """
        if self._undo:
            raise RuntimeError("this adapter is installed already; make another one for another client")
        log_filters.hide_payloads(*WIRE)
        tree = target if isinstance(target, app_commands.CommandTree) else _tree_of(target)
        client = self._client = tree.client
        group = McpCommands("mcp", self.take, self._choices)
        try:
            tree.add_command(group)
        except app_commands.CommandAlreadyRegistered:
            raise ConfigError(
                "This Discord client has a command /mcp already.",
                next_step="remove it, or do not install slash-mcp twice",
            ) from None
        pressed = _press_of(self)
        client.add_dynamic_items(pressed)
        self._undo = [
            lambda: tree.remove_command(group.name),
            lambda: client.remove_dynamic_items(pressed),
            _listen(client, self.on_message),
            self._gateway.subscribe(PLATFORM, self._notified),
        ]

    async def stop(self) -> None:
        """Take `/mcp` out of the client again, and take no more notices. Safe to call twice."""
        while self._undo:
            self._undo.pop()()

    async def run(self) -> None:
        """A client of our own with the token of `gateway.discord`, until cancelled.

        Raises:
            ConfigError: the section is incomplete, or Discord refuses the token.
            Unreachable: there is no connection to Discord.
        """
        try:
            await process.run(self.options(), self.install)
        finally:
            await self.stop()

    async def check(self) -> list[Finding]:
        try:
            findings = await process.check(self.options())
        except McpAuthError as error:
            return [Finding(BAD, str(error))]
        return findings + nobody_served(self._gateway, PLATFORM)

    def options(self) -> DiscordOptions:
        """Raises ConfigError: `gateway.discord` is incomplete."""
        return self._options or self._gateway.platform_options(PLATFORM, DiscordOptions)

    # -- what people do ----------------------------------------------------------------------

    async def take(self, interaction: discord.Interaction, text: str) -> None:
        """Answer an interaction for what would be typed after `/mcp`."""
        principal = Principal(PLATFORM, str(interaction.user.id))
        invocation = Invocation(
            principal=principal,
            chat=ChatRef(PLATFORM, {"interaction": str(interaction.id), "user": principal.user}),
            text=text,
            private=True,
            event_id=str(interaction.id),
            display_name=interaction.user.display_name,
        )
        decision = self._gateway.decide(invocation, self.capabilities)
        is_known = self._interactions.get(str(interaction.id)) is not None
        if isinstance(decision, Ignored) or is_known or interaction.user.bot:
            return
        live = self._interactions.keep(interaction)
        await self._guarded(live, principal, lambda: self._answer(invocation, live, decision))

    async def _answer(self, invocation: Invocation, live: Live, decision: object) -> None:
        if isinstance(decision, TextModal):
            verb = decision.verb
            await live.open(TextForm(verb, lambda interaction, entered: self.take(interaction, f"{verb} {entered}")))
            return
        if isinstance(decision, Deferred):
            await live.acknowledge()
        with live.acknowledged_in_time():
            await self._driver.run_invocation(invocation, live)
        await self._show_missed(invocation)

    async def press(self, interaction: discord.Interaction) -> None:
        """Somebody pressed one of our buttons."""
        principal = Principal(PLATFORM, str(interaction.user.id))
        pressed: Any = interaction.data or {}
        data = str(pressed.get("custom_id", ""))
        if not buttons.is_for(data, principal):
            await self._say(interaction, sentences.BUTTON_NOT_YOURS)
            return
        prompt_id = buttons.prompt_of(data)
        if prompt_id is not None:
            await self._open_prompt(interaction, self._prompts.get(prompt_id))
            return
        command = buttons.unpack(data, self._gateway.names())
        if command is None:
            await self._say(interaction, sentences.BUTTON_OVER)
            return
        await self.take(interaction, command)

    async def _open_prompt(self, interaction: discord.Interaction, prompt: SecretPrompt | None) -> None:
        if prompt is None or prompt.expires_at <= self._clock():
            await self._say(interaction, sentences.PROMPT_OVER)
            return
        live = self._interactions.keep(interaction)
        principal = Principal(PLATFORM, str(interaction.user.id))
        await self._guarded(live, principal, lambda: self.ask_secret(prompt, live))

    async def _submit_key(self, interaction: discord.Interaction, prompt: SecretPrompt, value: str) -> None:
        principal = Principal(PLATFORM, str(interaction.user.id))
        live = self._interactions.keep(interaction)

        async def answer() -> None:
            await live.acknowledge()
            reply = await self._gateway.submit_secret(principal, prompt.id, value)
            via = ChatRef(PLATFORM, {"interaction": str(interaction.id), "user": principal.user})
            await self.deliver_private(principal, reply, via)

        await self._guarded(live, principal, answer)

    def _choices(self, interaction: discord.Interaction, typed: str) -> list[app_commands.Choice[str]]:
        """The servers whose names hold what was typed; none for strangers, who are not told any."""
        if not is_allowed(Principal(PLATFORM, str(interaction.user.id)), self._gateway.config.gateway):
            return []
        wanted = typed.strip().casefold()
        fitting = [name for name in self._gateway.names() if wanted in name.casefold() and len(name) <= CHOICE_MAX]
        fitting.sort(key=lambda name: not name.casefold().startswith(wanted))
        return [app_commands.Choice(name=clean(name) or name, value=name) for name in fitting[:CHOICES_MAX]]

    async def on_message(self, message: discord.Message) -> bool:
        """Answer a message, if it is ours. Returns whether it is."""
        if not await self.claims(message):
            return False
        text = self._text_in(message) or ""
        principal = Principal(PLATFORM, str(message.author.id))
        invocation = Invocation(
            principal=principal,
            chat=ChatRef(PLATFORM, {"channel": str(message.channel.id), "user": principal.user}),
            text=text,
            private=isinstance(message.channel, discord.DMChannel),
            event_id=str(message.id),
            display_name=message.author.display_name,
        )

        async def answer() -> None:
            await self._driver.run_invocation(invocation)
            await self._show_missed(invocation)

        await self._guarded(None, principal, answer)
        return True

    async def claims(self, message: discord.Message) -> bool:
        """Is this message for `/mcp`, so that nobody else should act on it? `@bot mcp ...`, in direct messages also
        `!mcp ...`, and wherever we can read it the bare address of one of our sign-ins. Never what a bot or a webhook
        wrote."""
        text = self._text_in(message)
        if text is None:
            return False
        return not looks_like_redirect(text) or await self._gateway.claims(text)

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

    # -- the contract ------------------------------------------------------------------------

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        principal = Principal(PLATFORM, chat.data["user"])
        if "channel" not in chat.data:
            return await self.deliver_private(principal, reply, chat)
        channel = self._connected().get_partial_messageable(int(chat.data["channel"]))
        try:
            return await self._post(channel, principal, reply)
        except PrivateDeliveryUnavailable:
            # The bot may not write there, or it is gone; the one who asked is answered all the same.
            return await self._post(await self._direct(principal), principal, reply)

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        live = self._interactions.get(via.data.get("interaction", "")) if via is not None else None
        if via is not None and live is not None:
            try:
                message = await live.send(self._render(reply, principal))
            except Expired:
                _log.debug("an interaction is over; its answer goes into the direct messages")
            else:
                return MessageRef(PLATFORM, {**via.data, "message": message})
        return await self._post(await self._direct(principal), principal, reply)

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        data = message.data
        payload = self._render(reply, Principal(PLATFORM, data["user"]))
        if "interaction" in data:
            live = self._interactions.get(data["interaction"])
            if live is None:
                raise EditWindowClosed
            try:
                await live.edit(data["message"], payload)
            except Expired:
                raise EditWindowClosed from None
            return message
        channel = self._connected().get_partial_messageable(int(data["channel"]))
        posted = channel.get_partial_message(int(data["message"]))
        shown = as_edit(payload)
        try:
            await attempt(lambda: posted.edit(**shown))
        except (discord.NotFound, discord.Forbidden):
            raise EditWindowClosed from None
        return message

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        if not isinstance(trigger, Live):
            raise NotSupported
        form = KeyForm(prompt, lambda interaction, value: self._submit_key(interaction, prompt, value))
        if not await trigger.open(form):
            raise NotSupported

    # -- delivering --------------------------------------------------------------------------

    def _render(self, reply: Reply, owner: Principal) -> dict[str, Any]:
        if reply.prompt is not None:
            self._prompts[reply.prompt.id] = reply.prompt
        return render(reply, owner=owner, servers=self._gateway.names(), now=self._clock())

    def _connected(self) -> discord.Client:
        if self._client is None:
            raise RuntimeError("install() or run() comes first")
        return self._client

    async def _direct(self, principal: Principal) -> discord.abc.Messageable:
        client = self._connected()
        try:
            return await attempt(lambda: client.create_dm(discord.Object(int(principal.user))))
        except discord.HTTPException as error:
            raise _unavailable(error) from None

    async def _post(self, channel: discord.abc.Messageable, owner: Principal, reply: Reply) -> MessageRef:
        shown = as_message(self._render(reply, owner))
        # Sent twice after a broken connection, it is one message: Discord knows it by its nonce.
        nonce = secrets.token_hex(12)
        try:
            message = await attempt(lambda: channel.send(nonce=nonce, **shown))
        except (discord.Forbidden, discord.NotFound) as error:
            raise _unavailable(error) from None
        where = {"channel": str(message.channel.id), "message": str(message.id), "user": owner.user}
        return MessageRef(PLATFORM, where)

    async def _say(self, interaction: discord.Interaction, text: str) -> None:
        principal = Principal(PLATFORM, str(interaction.user.id))
        live = self._interactions.keep(interaction)
        reply = remark(text)
        via = ChatRef(PLATFORM, {"interaction": str(interaction.id), "user": principal.user})

        async def answer() -> None:
            await self.deliver_private(principal, reply, via)

        await self._guarded(live, principal, answer)

    async def _guarded(self, live: Live | None, principal: Principal, answer: Callable[[], Awaitable[object]]) -> None:
        """Run `answer`; what goes wrong becomes one line in the log, and a sentence where one can be sent."""
        try:
            await answer()
        except NotDelivered as error:
            _log.warning("Discord: an answer to %s was not delivered: %s", principal, error)
        except PrivateDeliveryUnavailable:
            _log.warning("Discord: an answer to %s was not delivered: their direct messages are closed", principal)
        except discord.HTTPException as error:
            reference = secrets.token_hex(4)
            refused = "Discord: an answer to %s was refused: HTTP %d, code %d, reference %s"
            _log.warning(refused, principal, error.status, error.code, reference)
            await self._apologize(live, reference)
        except Exception as error:  # noqa: BLE001 - the person waits for an answer, whatever happens here
            await self._apologize(live, error_reports.note(error))

    async def _apologize(self, live: Live | None, reference: str) -> None:
        if live is None:
            return
        try:
            await live.send({"content": sentences.unexpected(reference), "components": []})
        except (Expired, NotDelivered, discord.HTTPException) as error:
            _log.warning("Discord: %s could not be told: %s", reference, type(error).__name__)

    # -- notices -----------------------------------------------------------------------------

    async def _notified(self, notice: Notice) -> None:
        try:
            arrived = await self._driver.notify(notice)
        except (NotDelivered, PrivateDeliveryUnavailable, discord.HTTPException) as error:
            _log.warning("Discord: a notice to %s was not delivered: %s", notice.principal, type(error).__name__)
            # An edit that is lost costs nothing; its news also comes as a notice of its own.
            arrived = notice.message is not None
        if not arrived:
            self._missed.add(notice.principal.user, notice.reply, is_news=True)

    async def _show_missed(self, invocation: Invocation) -> None:
        """What could not be told before, now that there is a way to tell it."""
        principal = invocation.principal
        if not invocation.private or not is_allowed(principal, self._gateway.config.gateway):
            return
        stored, others = self._missed.take(principal.user)
        missed = [*stored, *others]
        while missed:
            late = replace(missed[0], blocks=(Text(sentences.SENT_LATE), *missed[0].blocks))
            try:
                await self.deliver_private(principal, late, invocation.chat)
            except (PrivateDeliveryUnavailable, NotDelivered):
                for reply in missed:
                    self._missed.add(principal.user, reply, is_news=True)
                return
            del missed[0]


def _unavailable(error: discord.HTTPException) -> PrivateDeliveryUnavailable:
    _log.info("Discord refuses a message: HTTP %d, code %d", error.status, error.code)
    return PrivateDeliveryUnavailable(how=sentences.DISCORD_PRIVATE)


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
