"""Slack as a chat platform, on slack-bolt: `install` into an `AsyncApp`, or `run` one of our own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from slack_bolt.middleware.async_middleware import AsyncMiddleware
from slack_bolt.request.async_request import AsyncBoltRequest
from slack_bolt.response import BoltResponse
from slack_sdk.web.async_client import AsyncWebClient

from adapters import log_filters
from adapters.base import Adapter, Finding
from adapters.driver import remark
from adapters.refusals import EditWindowClosed, Elsewhere, Later, NotSupported, PrivateDeliveryUnavailable, Refused
from adapters.slack import forms, incoming, render, service, workspaces
from adapters.slack.incoming import PLATFORM, Installation, Press, Submission, Trigger
from adapters.slack.options import SlackOptions
from adapters.slack.response_urls import Answer, Answers, new_id
from adapters.slack.workspaces import Workspaces
from gateway import sentences
from gateway.bounded_dict import BoundedDict
from gateway.invocations import Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Reply, SecretPrompt

if TYPE_CHECKING:
    from slack_bolt.async_app import AsyncApp

    from gateway.gateway import Gateway

T = TypeVar("T")
# An answer that will be better in a moment waits so long: what a slash command shows can be posted, not edited.
HOLD_SECONDS = 1.5
# What says only to wait would stand there for ever: it is posted when the wait is long enough to be wondered about.
WAIT_SECONDS = 10.0
# Slack wants an acknowledgement within 3 s, and the way there takes some of it.
_SUBMISSION_SECONDS = 2.0
_KEPT = 1000


class SlackAdapter(Adapter[SlackOptions]):
    """`/mcp` in Slack."""

    platform = PLATFORM
    title = "Slack"
    options_type = SlackOptions
    capabilities = Capabilities(
        edit_window=None,
        modal=True,
        secret_input=True,
        text_max=render.TEXT_MAX,
        button_url_max=render.BUTTON_URL_MAX,
    )
    # The library tries again by itself: see `workspaces.retry_handlers`.
    failures = workspaces.FAILURES
    wire = ("slack_bolt.AsyncioListenerRunner", "slack_sdk.socket_mode.aiohttp", "slack_sdk.socket_mode.websockets")
    _app: AsyncApp | None = None
    _installed: Workspaces | None = None

    def __init__(
        self,
        gateway: Gateway,
        *,
        options: SlackOptions | None = None,
        clock: Callable[[], float] = time.time,
        hold: float = HOLD_SECONDS,
        wait: float = WAIT_SECONDS,
    ) -> None:
        super().__init__(gateway, options=options, clock=clock)
        self._command = f"/{self.options.command.lstrip('/')}"
        self._words = frozenset({"mcp", self._command[1:].lower()})
        self._answers = Answers(self._respond, self.spawn, self.clock, hold=hold, wait=wait)
        self._direct_channels: BoundedDict[tuple[Installation, Principal], str] = BoundedDict(_KEPT)
        self._submitted: BoundedDict[str, None] = BoundedDict(_KEPT)

    # -- the two ways to run -----------------------------------------------------------------

    def install(self, app: AsyncApp) -> None:
        """Answer `/mcp` in `app`, before any of its listeners, which never see what is ours.

        Middleware runs in the order in which it was added: install before an `Assistant` or a middleware of your own
        that reads messages. The gateway starts with the first invocation, or with `async with gateway`.

        Raises:
            RuntimeError: it is installed already.
        """
        self.attach()
        log_filters.hide_payloads(app.logger.name)
        self._app = app
        self._installed = Workspaces(app, self.clock)
        app.use(_Middleware(self))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        app = service.make_app(self.options, self.gateway)
        if app.oauth_flow is None:
            who = await service.who_is_it(app.client)
            self.log.info("Slack: @%s in %s (%s)", who["user"], who["team"], who["team_id"])
        self.install(app)
        yield

    async def receive(self) -> None:
        if self._app is not None:
            await service.receive(self.gateway, self._app, self.options)

    async def examine(self) -> list[Finding]:
        return await service.examine(self.gateway, self.options)

    def refusal(self, error: Exception) -> Refused:
        return workspaces.refusal_of(error)

    # -- what comes in -----------------------------------------------------------------------

    async def claims(self, message: incoming.Body) -> bool:
        """Is this `message` or `app_mention` event ours? For a host that reads messages before we do."""
        found = incoming.message_of(message, incoming.mentioned(message))
        return found is not None and await self._is_ours(found)

    async def take(self, request: AsyncBoltRequest) -> BoltResponse | None:
        """What Slack gets as acknowledgement when the request is ours, at once; the work goes on in a task."""
        if not self.undo:
            return None
        body, context = request.body, request.context
        installation = Installation(context.team_id, context.enterprise_id, bool(context.is_enterprise_install))
        self._workspaces.remember(installation, context.get("token"))
        if body.get("command") == self._command:
            self.spawn(self._answer_command(body, installation))
            return forms.ack()
        callback = str((body.get("view") or {}).get("callback_id", ""))
        match body.get("type"):
            case "block_actions" if presses := list(incoming.presses_of(body, render.ACTION)):
                principal = incoming.principal_of_action(body)
                if principal is not None:
                    self.spawn(self._answer_presses(presses, principal, Trigger(body["trigger_id"], installation)))
                return forms.ack()
            case "view_submission" if callback.startswith(render.ACTION):
                return await self._on_submission(incoming.read_submission(body, installation))
            case "view_closed" if callback.startswith(render.ACTION):
                return forms.ack()
            case "event_callback" if body["event"].get("type") in ("message", "app_mention"):
                message = incoming.message_of(body["event"], context.bot_user_id)
                if message is None or not await self._is_ours(message):
                    return None
                principal = incoming.principal_of_event(body, installation)
                if message.fresh and principal is not None:
                    self.spawn(self._answer_message(message, principal, installation))
                return forms.ack()
        return None

    async def _answer_command(self, body: incoming.Body, installation: Installation) -> None:
        principal = incoming.principal_of_command(body)
        if principal is None:
            return
        # Only the person who typed it sees the command and the answers, whatever the channel.
        chat = self._ephemeral(principal, installation, body["channel_id"], body["response_url"])
        text, trigger = incoming.plain(body.get("text", "")).strip(), Trigger(body["trigger_id"], installation)
        name = body.get("user_name", "")
        await self.answer(Invocation(principal, chat, text, True, f"command:{trigger.id}", name), trigger)

    async def _answer_message(
        self, message: incoming.Message, principal: Principal, installation: Installation
    ) -> None:
        text = incoming.command_in(message.text, self._words)
        thread = message.thread if message.direct else message.thread or message.ts
        chat = _chat(principal, installation, message.channel, thread)
        # A message and its mention arrive as two events with one `ts`.
        event_id = f"message:{installation.team}:{message.channel}:{message.ts}"
        await self.answer(Invocation(principal, chat, message.text if text is None else text, message.direct, event_id))

    async def _is_ours(self, message: incoming.Message) -> bool:
        if (message.direct or message.mentions_bot) and incoming.command_in(message.text, self._words) is not None:
            return True
        return await self.gateway.claims(message.text)

    async def _answer_presses(self, presses: Sequence[Press], principal: Principal, trigger: Trigger) -> None:
        for press in presses:
            self._answers.adopt(render.message_of(press.block), principal, press.response_url)
            if press.data is None:
                continue
            chat, private = self._ephemeral(principal, trigger.installation, press.channel, press.response_url), True
            asked, why = self.pressed(press.data, principal)
            if asked is None:
                async with self.excused(principal, chat):
                    await self.reply(chat, remark(why))
                continue
            if not press.ephemeral:
                chat = _chat(principal, trigger.installation, press.channel, press.thread)
                private = press.channel.startswith("D")
            await self.answer(Invocation(principal, chat, asked, private, f"press:{trigger.id}", press.name), trigger)

    async def answer(self, invocation: Invocation, trigger: object = None) -> None:
        try:
            await super().answer(invocation, trigger)
        finally:
            answer = self._answers.get(invocation.chat.data.get("answer"))
            if answer is not None:
                answer.over = True

    # -- forms -------------------------------------------------------------------------------

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        """Without a trigger, or when it is over, a message with a button stands in."""
        await self._open_form(render.key_view(prompt), trigger)

    async def ask_text(self, verb: str, trigger: object) -> None:
        await self._open_form(render.text_view(verb), trigger)

    async def _open_form(self, view: render.Payload, trigger: object) -> None:
        if not isinstance(trigger, Trigger):
            raise NotSupported
        try:
            await self._call(trigger.installation, lambda slack: slack.views_open(trigger_id=trigger.id, view=view))
        except workspaces.TriggerOver:
            raise NotSupported from None

    async def _on_submission(self, sent: Submission | None) -> BoltResponse:
        if sent is None or sent.trigger.id in self._submitted:
            return forms.ack()
        self._submitted[sent.trigger.id] = None
        task = asyncio.create_task(self._submit(sent))
        await asyncio.wait({task}, timeout=_SUBMISSION_SECONDS)
        if not task.done():
            self.spawn(self._show_late(task, sent))
            return forms.working()
        return forms.response_to(sent, task.result(), self._look(sent.principal))

    async def _submit(self, sent: Submission) -> Reply:
        """What became of a submitted modal: the last reply, which only this person sees. Never raises."""
        if sent.kind == render.KEY_VIEW:
            return await self.gateway.submit_secret(sent.principal, sent.metadata.get("prompt", ""), sent.typed)
        last = remark(sentences.BUTTON_OVER)
        asked: str | None = f"{sent.metadata.get('verb', '')} {sent.typed}"
        if sent.kind != render.TEXT_VIEW:
            asked, _ = self.pressed(sent.metadata.get("command", ""), sent.principal)
        if asked is not None:
            invocation = Invocation(sent.principal, ChatRef(PLATFORM), asked, True, f"view:{sent.trigger.id}")
            async for reply in self.gateway.handle(invocation, Capabilities()):
                last = reply
        return last

    async def _show_late(self, task: asyncio.Task[Reply], sent: Submission) -> None:
        reply = await task
        view, installation = forms.view_of(reply, self._look(sent.principal)), sent.trigger.installation
        try:
            await self._call(installation, lambda slack: slack.views_update(view_id=sent.view, view=view))
        except workspaces.ViewClosed:
            # The person closed the modal while the key was tried.
            await self.deliver_private(sent.principal, reply, _chat(sent.principal, installation, "", None))

    # -- what goes out -----------------------------------------------------------------------

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        data = chat.data
        principal, installation = self.principal(data["principal"]), incoming.installation_of(data)
        if "answer" not in data:
            return await self._post(installation, data["channel"], data.get("thread"), principal, reply)
        answer = self._answers.get(data["answer"])
        if answer is not None:
            try:
                await self._answers.begin(answer, reply)
                return MessageRef(PLATFORM, {"answer": answer.id})
            except EditWindowClosed:
                self.log.debug("a response URL is used up; the answer goes as a direct message")
        # The channel was never meant to read this.
        return await self._direct(principal, installation, reply)

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        """A direct message, which can be edited for ever; else a message in `via` that only this person sees."""
        data = via.data if via is not None else {}
        installation = incoming.installation_of(data) if data else incoming.home_of(principal)
        try:
            return await self._direct(principal, installation, reply)
        except Later:
            raise
        except Refused as error:
            why = error.message
            self.log.info("no direct message to a person: %s", error)
        if data.get("channel") and "answer" not in data:
            try:
                return await self._post_ephemeral(installation, data, principal, reply)
            except Later:
                raise
            except Refused as error:
                self.log.info("no message that only one person sees: %s", error)
        answer = self._answers.get(data.get("answer"))
        if answer is None:
            raise PrivateDeliveryUnavailable(why=why)
        try:
            beside = self._answers.beside(answer)
            await self._answers.send(beside, reply)
        except EditWindowClosed:
            raise PrivateDeliveryUnavailable(why=why) from None
        return MessageRef(PLATFORM, {"answer": beside.id})

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        data = message.data
        answer = self._answers.get(data.get("answer"))
        if answer is not None:
            await self._answers.update(answer, reply)
            return message
        if "channel" not in data:
            raise EditWindowClosed
        payload = self._render(reply, self.principal(data["principal"]), new_id())
        where = {"channel": data["channel"], "ts": data["ts"]}
        try:
            await self._call(incoming.installation_of(data), lambda slack: slack.chat_update(**where, **payload))
        except Elsewhere as error:
            raise EditWindowClosed(error.message) from None
        return message

    async def _post(
        self, installation: Installation, channel: str, thread: str | None, principal: Principal, reply: Reply
    ) -> MessageRef:
        payload = self._render(reply, principal, new_id())
        where: dict[str, Any] = {"channel": channel, "thread_ts": thread, "unfurl_links": False, "unfurl_media": False}
        sent = await self._call(installation, lambda slack: slack.chat_postMessage(**where, **payload))
        data = {"channel": sent["channel"], "ts": sent["ts"], "principal": principal.user}
        return MessageRef(PLATFORM, {**installation.data, **data})

    async def _direct(self, principal: Principal, installation: Installation, reply: Reply) -> MessageRef:
        known = self._direct_channels.get((installation, principal))
        if known is None:
            user = incoming.user_of(principal)
            opened = await self._call(installation, lambda slack: slack.conversations_open(users=user))
            known = self._direct_channels[installation, principal] = str(opened["channel"]["id"])
        return await self._post(installation, known, None, principal, reply)

    async def _post_ephemeral(
        self, installation: Installation, data: dict[str, Any], principal: Principal, reply: Reply
    ) -> MessageRef:
        # Without a response URL of its own until somebody presses a button of it.
        answer = self._answers.new(principal)
        answer.sent = answer.over = True
        payload = self._render(reply, principal, answer.id)
        where = {"channel": data["channel"], "user": incoming.user_of(principal), "thread_ts": data.get("thread")}
        await self._call(installation, lambda slack: slack.chat_postEphemeral(**where, **payload))
        return MessageRef(PLATFORM, {"answer": answer.id})

    async def _respond(self, url: str, answer: Answer, reply: Reply, replaces: bool) -> None:
        payload = self._render(reply, answer.principal, answer.id)
        body = {**payload, "response_type": "ephemeral", "replace_original": replaces}
        sent = await self.attempt(lambda: workspaces.webhook(url).send_dict(body))
        if sent.status_code == 404:
            raise EditWindowClosed
        if sent.status_code != 200:
            raise Refused(f"a response URL answered {sent.status_code}")

    def _ephemeral(self, principal: Principal, installation: Installation, channel: str, url: str) -> ChatRef:
        data = {"channel": channel, "answer": self._answers.new(principal, url).id, "principal": principal.user}
        return ChatRef(PLATFORM, {**installation.data, **data})

    async def _call(self, installation: Installation, call: Callable[[AsyncWebClient], Awaitable[T]]) -> T:
        client = await self._workspaces.client(installation)
        return await self.attempt(lambda: call(client))

    def _render(self, reply: Reply, owner: Principal, message: str) -> render.Payload:
        return render.render(reply, self._look(owner), message=message)

    def _look(self, owner: Principal) -> render.Look:
        return render.Look(owner, self.gateway.names(), self.clock(), self._command)

    @property
    def _workspaces(self) -> Workspaces:
        if self._installed is None:
            raise RuntimeError("install() or run() comes first")
        return self._installed


class _Middleware(AsyncMiddleware):
    """Global, so it comes before every listener. What is ours ends here."""

    def __init__(self, adapter: SlackAdapter) -> None:
        self._adapter = adapter

    async def async_process(
        self, *, req: AsyncBoltRequest, resp: BoltResponse, next: Callable[[], Awaitable[BoltResponse]]
    ) -> BoltResponse | None:
        taken = await self._adapter.take(req)
        return taken if taken is not None else await next()


def _chat(principal: Principal, installation: Installation, channel: str, thread: str | None) -> ChatRef:
    data = {"channel": channel, "thread": thread, "principal": principal.user}
    return ChatRef(PLATFORM, {**installation.data, **data})
