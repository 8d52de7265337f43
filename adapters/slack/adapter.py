"""Slack as a chat platform, on slack-bolt: `install` into an `AsyncApp`, or `run` one of our own."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import ClientError
from slack_bolt.middleware.async_middleware import AsyncMiddleware
from slack_bolt.request.async_request import AsyncBoltRequest
from slack_bolt.response import BoltResponse
from slack_sdk.errors import SlackApiError
from slack_sdk.webhook.async_client import AsyncWebhookClient

from adapters import buttons, log_filters
from adapters.base import Finding, remark
from adapters.driver import Driver
from adapters.refusals import EditWindowClosed, NotSupported, PrivateDeliveryUnavailable
from adapters.slack import incoming, render, service
from adapters.slack.incoming import PLATFORM, Installation
from adapters.slack.options import SlackOptions
from adapters.slack.response_urls import SECONDS, Answer, Answers, ResponseUrl, new_id
from adapters.slack.workspaces import SlackRefused, Workspaces, client_log, code_of, is_passing, retry_handlers
from adapters.tasks import Tasks
from gateway import sentences
from gateway.bounded_dict import BoundedDict
from gateway.invocations import Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Checklist, Ignored, ItemState, Notice, Reply, SecretPrompt, Text, TextModal

if TYPE_CHECKING:
    from slack_bolt.async_app import AsyncApp

    from gateway.gateway import Gateway

_log = logging.getLogger("adapters.slack")
# They write every message at DEBUG.
_WIRE = ("slack_bolt.AsyncioListenerRunner", "slack_sdk.socket_mode.aiohttp", "slack_sdk.socket_mode.websockets")
# An answer that will be better in a moment waits so long: what a slash command shows can be posted, not edited.
HOLD_SECONDS = 1.5
# What says only to wait would stand there for ever: it is posted when the wait is long enough to be wondered about.
WAIT_SECONDS = 10.0
# Slack wants an acknowledgement within 3 s, and the way there takes some of it.
_SUBMISSION_SECONDS = 2.0
_KEPT = 1000

_EDIT_OVER = frozenset({"message_not_found", "cant_update_message", "edit_window_closed", "channel_not_found"})
_TRIGGER_OVER = frozenset({"expired_trigger_id", "exchanged_trigger_id", "invalid_trigger_id", "trigger_expired"})


@dataclass(frozen=True, slots=True)
class Trigger:
    """The interaction that may open a modal, for three seconds and once."""

    id: str
    installation: Installation


class SlackAdapter:
    """`/mcp` in Slack.

    Args:
        options: instead of the section `gateway.slack` of the configuration.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        options: SlackOptions | None = None,
        clock: Callable[[], float] = time.time,
        hold: float = HOLD_SECONDS,
        wait: float = WAIT_SECONDS,
    ) -> None:
        self._gateway = gateway
        self._options = options or gateway.platform_options(PLATFORM, SlackOptions)
        self._clock = clock
        self._hold = hold
        self._wait = wait
        self._command = f"/{self._options.command.lstrip('/')}"
        self._words = frozenset({"mcp", self._command[1:].lower()})
        self._driver = Driver(gateway, self)
        self._answers = Answers()
        self._direct_channels: BoundedDict[tuple[Installation, Principal], str] = BoundedDict(_KEPT)
        self._submitted: BoundedDict[str, None] = BoundedDict(_KEPT)
        self._tasks = Tasks()
        self._installed: Workspaces | None = None
        self._undo: Callable[[], None] | None = None
        self.capabilities = Capabilities(
            edit_window=None,
            modal=True,
            secret_input=True,
            text_max=render.TEXT_MAX,
            button_url_max=render.BUTTON_URL_MAX,
        )

    # -- into an application -----------------------------------------------------------------

    def install(self, app: AsyncApp) -> None:
        """Answer `/mcp` in `app`, before any of its listeners, which never see what is ours.

        Middleware runs in the order in which it was added: install before an `Assistant` or a middleware of your own
        that reads messages. The gateway starts with the first invocation, or with `async with gateway`.

        Raises:
            RuntimeError: it is installed already.
        """
        if self._undo is not None:
            raise RuntimeError("this adapter is installed already; make another one for another app")
        log_filters.hide_payloads(app.logger.name, *_WIRE)
        self._installed = Workspaces(app, self._clock)
        app.use(_Middleware(self))
        self._undo = self._gateway.subscribe(PLATFORM, self._notify)

    async def stop(self) -> None:
        """Take no more messages and notices, and end what is being answered. Safe to call twice."""
        if self._undo is not None:
            self._undo()
            self._undo = None
        await self._tasks.stop()

    # -- in a process of our own -------------------------------------------------------------

    async def run(self) -> None:
        app = service.make_app(self._options, self._gateway)
        self.install(app)
        try:
            await service.run(self._gateway, app, self._options)
        finally:
            await self.stop()

    async def check(self) -> list[Finding]:
        return await service.check(self._gateway, self._options)

    # -- what comes in -----------------------------------------------------------------------

    async def claims(self, message: incoming.Body) -> bool:
        """Is this `message` or `app_mention` event ours? For a host that reads messages before we do."""
        found = incoming.message_of(message, incoming.mentioned(message))
        return found is not None and await self._is_ours(found)

    async def take(self, request: AsyncBoltRequest) -> BoltResponse | None:
        """What Slack gets as acknowledgement when the request is ours, at once; the work goes on in a task."""
        if self._undo is None:
            return None
        body, context = request.body, request.context
        installation = Installation(context.team_id, context.enterprise_id, bool(context.is_enterprise_install))
        self._workspaces.remember(installation, context.get("token"))
        if body.get("command") == self._command:
            self._tasks.start(self._on_command(body, installation))
            return _ack()
        match body.get("type"):
            case "block_actions" if any(incoming.our_actions(body, render.ACTION)):
                self._tasks.start(self._on_action(body, installation))
                return _ack()
            case "view_submission" if _callback(body).startswith(render.ACTION):
                return await self._on_submission(body, installation)
            case "view_closed" if _callback(body).startswith(render.ACTION):
                return _ack()
            case "event_callback" if body["event"].get("type") in ("message", "app_mention"):
                return await self._on_message(body, installation, context.bot_user_id)
        return None

    async def _on_command(self, body: incoming.Body, installation: Installation) -> None:
        principal = incoming.principal_of_command(body)
        if principal is None:
            return
        # Only the person who typed it sees the command and the answers, whatever the channel.
        chat = self._ephemeral(principal, installation, body["channel_id"], body["response_url"])
        text = incoming.plain(body.get("text", "")).strip()
        invocation = Invocation(
            principal, chat, text, True, f"command:{body['trigger_id']}", display_name=body.get("user_name", "")
        )
        await self._run(invocation, Trigger(body["trigger_id"], installation))

    async def _on_message(
        self, body: incoming.Body, installation: Installation, bot_user: str | None
    ) -> BoltResponse | None:
        event = body["event"]
        message = incoming.message_of(event, bot_user)
        if message is None or not await self._is_ours(message):
            return None
        principal = incoming.principal_of_event(body, installation)
        if message.fresh and principal is not None:
            self._tasks.start(self._answer_message(message, principal, installation))
        return _ack()

    async def _answer_message(
        self, message: incoming.Message, principal: Principal, installation: Installation
    ) -> None:
        text = incoming.command_in(message.text, self._words)
        thread = message.thread if message.direct else message.thread or message.ts
        chat = _chat(principal, installation, message.channel, thread)
        # A message and its mention arrive as two events with one `ts`.
        event_id = f"message:{installation.team}:{message.channel}:{message.ts}"
        await self._run(
            Invocation(principal, chat, message.text if text is None else text, message.direct, event_id), None
        )

    async def _is_ours(self, message: incoming.Message) -> bool:
        if (message.direct or message.mentions_bot) and incoming.command_in(message.text, self._words) is not None:
            return True
        return await self._gateway.claims(message.text)

    async def _on_action(self, body: incoming.Body, installation: Installation) -> None:
        principal = incoming.principal_of_action(body)
        if principal is None:
            return
        for action in incoming.our_actions(body, render.ACTION):
            self._adopt(action, principal, body.get("response_url"))
            if "url" not in action:
                await self._press(action, body, principal, installation)

    def _adopt(self, action: incoming.Body, principal: Principal, response_url: str | None) -> None:
        """From now on the message with this button can be edited."""
        answer = self._answers.get(render.message_of(action.get("block_id", "")))
        if answer is not None and answer.principal == principal and response_url:
            answer.editing = ResponseUrl(response_url, self._clock() + SECONDS)

    async def _press(
        self, action: incoming.Body, body: incoming.Body, principal: Principal, installation: Installation
    ) -> None:
        data = action.get("value", "")
        here = self._ephemeral(principal, installation, _channel(body), body.get("response_url", ""))
        command = buttons.unpack(data, self._gateway.names())
        if not buttons.is_for(data, principal):
            await self._guarded(self.reply(here, remark(sentences.BUTTON_NOT_YOURS)))
            return
        if command is None:
            await self._guarded(self.reply(here, remark(sentences.BUTTON_OVER)))
            return
        container = body.get("container") or {}
        chat, private = here, True
        if not container.get("is_ephemeral"):
            private = _channel(body).startswith("D")
            thread = container.get("thread_ts") if private else container.get("thread_ts") or container["message_ts"]
            chat = _chat(principal, installation, _channel(body), thread)
        name = (body.get("user") or {}).get("username", "")
        invocation = Invocation(principal, chat, command, private, f"press:{body['trigger_id']}", display_name=name)
        await self._run(invocation, Trigger(body["trigger_id"], installation))

    async def _run(self, invocation: Invocation, trigger: Trigger | None) -> None:
        decision = self._gateway.decide(invocation, self.capabilities)
        if isinstance(decision, Ignored):
            return
        try:
            if isinstance(decision, TextModal) and trigger is not None:
                await self._guarded(self._open_form(render.text_view(decision.verb), trigger))
            else:
                await self._guarded(self._driver.run_invocation(invocation, trigger))
        finally:
            answer = self._answers.get(invocation.chat.data.get("answer"))
            if answer is not None:
                answer.over = True

    # -- secrets -----------------------------------------------------------------------------

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        """Open the modal for a key. Without a trigger, or when it is over, a message with a button stands in."""
        if not isinstance(trigger, Trigger):
            raise NotSupported
        await self._open_form(render.key_view(prompt), trigger)

    async def _open_form(self, view: render.Payload, trigger: Trigger) -> None:
        client = await self._workspaces.client(trigger.installation)
        try:
            await client.views_open(trigger_id=trigger.id, view=view)
        except SlackApiError as error:
            if code_of(error) in _TRIGGER_OVER:
                raise NotSupported from None
            raise

    async def _on_submission(self, body: incoming.Body, installation: Installation) -> BoltResponse:
        view, principal = body["view"], incoming.principal_of_action(body)
        if principal is None or not self._is_new(body["trigger_id"]):
            return _ack()
        task = asyncio.create_task(self._submit(body, principal))
        await asyncio.wait({task}, timeout=_SUBMISSION_SECONDS)
        if not task.done():
            self._tasks.start(self._show_late(task, view["id"], principal, installation))
            return _shown_now(render.working_view())
        reply = task.result()
        asked = _asked_again(body, reply)
        if asked is not None:
            errors = {asked: render.problem_of(reply)}
            return BoltResponse(status=200, body={"response_action": "errors", "errors": errors})
        return _shown_now(self._view(reply, principal))

    async def _submit(self, body: incoming.Body, principal: Principal) -> Reply:
        """What became of a submitted modal. Never raises."""
        metadata = _metadata(body["view"])
        match _callback(body):
            case render.KEY_VIEW:
                return await self._gateway.submit_secret(principal, metadata.get("prompt", ""), _typed(body["view"]))
            case render.TEXT_VIEW:
                text = f"{metadata.get('verb', '')} {_typed(body['view'])}"
                return await self._answered(principal, text, body["trigger_id"])
        data = metadata.get("command", "")
        command = buttons.unpack(data, self._gateway.names()) if buttons.is_for(data, principal) else None
        if command is None:
            return remark(sentences.BUTTON_OVER)
        return await self._answered(principal, command, body["trigger_id"])

    async def _answered(self, principal: Principal, text: str, trigger: str) -> Reply:
        """The last reply to a command from a modal, which only this person sees."""
        invocation = Invocation(principal, ChatRef(PLATFORM), text, True, f"view:{trigger}")
        last = remark(sentences.BUTTON_OVER)
        async for reply in self._gateway.handle(invocation, Capabilities()):
            last = reply
        return last

    async def _show_late(
        self, task: asyncio.Task[Reply], view_id: str, principal: Principal, installation: Installation
    ) -> None:
        reply = await task
        client = await self._workspaces.client(installation)
        try:
            await client.views_update(view_id=view_id, view=self._view(reply, principal))
        except SlackApiError as error:
            if code_of(error) != "not_found":
                raise
            # The person closed the modal while the key was tried.
            await self.deliver_private(principal, reply, _chat(principal, installation, "", None))

    def _view(self, reply: Reply, principal: Principal) -> render.Payload:
        prompt = reply.prompt
        if prompt is None:
            return render.reply_view(reply, self._look(principal))
        problem = render.problem_of(reply) if any(isinstance(block, Text) for block in reply.blocks) else None
        return render.key_view(prompt, problem=problem)

    def _is_new(self, submission: str) -> bool:
        if submission in self._submitted:
            return False
        self._submitted[submission] = None
        return True

    # -- what goes out -----------------------------------------------------------------------

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        data = chat.data
        principal, installation = Principal(PLATFORM, data["principal"]), _installation(data)
        if "answer" not in data:
            return await self._post(installation, data["channel"], data.get("thread"), principal, reply)
        answer = self._answers.get(data["answer"])
        if answer is not None:
            try:
                return await self._begin_answer(answer, reply)
            except EditWindowClosed:
                _log.debug("a response URL is used up; the answer goes as a direct message")
        # The channel was never meant to read this.
        return await self._direct(principal, installation, reply)

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        """A direct message, which can be edited for ever; else a message in `via` that only this person sees."""
        data = via.data if via is not None else {}
        installation = _installation(data) if data else _home(principal)
        try:
            return await self._direct(principal, installation, reply)
        except SlackApiError as error:
            if is_passing(error):
                raise
            _log.info("no direct message to a person: %s", code_of(error))
        if data.get("channel") and "answer" not in data:
            try:
                return await self._post_ephemeral(installation, data, principal, reply)
            except SlackApiError as error:
                if is_passing(error):
                    raise
                _log.info("no message that only one person sees: %s", code_of(error))
        answer = self._answers.get(data.get("answer"))
        if answer is None:
            raise PrivateDeliveryUnavailable
        try:
            return await self._send(self._answers.beside(answer, self._clock()), reply)
        except EditWindowClosed:
            raise PrivateDeliveryUnavailable from None

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        data = message.data
        if "answer" in data:
            return await self._update_answer(data["answer"], reply)
        if "channel" not in data:
            raise EditWindowClosed
        client = await self._workspaces.client(_installation(data))
        payload = render.render(reply, self._look(Principal(PLATFORM, data["principal"])), message=new_id())
        try:
            await client.chat_update(channel=data["channel"], ts=data["ts"], **payload)
        except SlackApiError as error:
            if code_of(error) in _EDIT_OVER:
                raise EditWindowClosed from None
            raise
        return message

    async def _post(
        self, installation: Installation, channel: str, thread: str | None, principal: Principal, reply: Reply
    ) -> MessageRef:
        client = await self._workspaces.client(installation)
        payload = render.render(reply, self._look(principal), message=new_id())
        sent = await client.chat_postMessage(
            channel=channel, thread_ts=thread, unfurl_links=False, unfurl_media=False, **payload
        )
        data = {"channel": sent["channel"], "ts": sent["ts"], "principal": principal.user}
        return MessageRef(PLATFORM, {**_installed(installation), **data})

    async def _direct(self, principal: Principal, installation: Installation, reply: Reply) -> MessageRef:
        client = await self._workspaces.client(installation)
        known = self._direct_channels.get((installation, principal))
        if known is None:
            opened = await client.conversations_open(users=_user(principal))
            known = self._direct_channels[installation, principal] = str(opened["channel"]["id"])
        return await self._post(installation, known, None, principal, reply)

    async def _post_ephemeral(
        self, installation: Installation, data: dict[str, Any], principal: Principal, reply: Reply
    ) -> MessageRef:
        client = await self._workspaces.client(installation)
        # Without a response URL of its own until somebody presses a button of it.
        answer = self._answers.new(principal, "", self._clock())
        answer.sent = answer.over = True
        payload = render.render(reply, self._look(principal), message=answer.id)
        user = _user(principal)
        await client.chat_postEphemeral(channel=data["channel"], user=user, thread_ts=data.get("thread"), **payload)
        return MessageRef(PLATFORM, {"answer": answer.id})

    # -- ephemeral answers -------------------------------------------------------------------

    async def _begin_answer(self, answer: Answer, reply: Reply) -> MessageRef:
        if reply.final:
            return await self._send(answer, reply)
        self._hold_back(answer, reply)
        return MessageRef(PLATFORM, {"answer": answer.id})

    def _hold_back(self, answer: Answer, reply: Reply) -> None:
        """Until something better comes, or for so long that this is better than nothing."""
        held, answer.held = answer.held, reply
        only_waits = _only_waits(reply)
        if answer.timer is not None:
            if held is None or only_waits or not _only_waits(held):
                return
            answer.timer.cancel()
        answer.timer = self._tasks.start(self._release(answer, self._wait if only_waits else self._hold))

    async def _release(self, answer: Answer, seconds: float) -> None:
        await asyncio.sleep(seconds)
        answer.timer = None
        if answer.held is not None:
            await self._guarded(self._send(answer, answer.held))

    async def _update_answer(self, answer_id: str, reply: Reply) -> MessageRef:
        answer = self._answers.get(answer_id)
        if answer is None or (answer.over and answer.editing is None):
            raise EditWindowClosed
        if answer.editing is None and not reply.final:
            # Posting every step would fill the channel and use up the URL.
            if not answer.sent and not answer.lock.locked():
                self._hold_back(answer, reply)
            return MessageRef(PLATFORM, {"answer": answer.id})
        return await self._send(answer, reply)

    async def _send(self, answer: Answer, reply: Reply) -> MessageRef:
        """Post the answer, or replace it where a press made that possible.

        Raises:
            EditWindowClosed: the response URL is over.
        """
        async with answer.lock:
            answer.held = None
            if answer.timer is not None:
                answer.timer.cancel()
                answer.timer = None
            target = answer.editing or answer.posting
            if not target.url or not target.take(self._clock(), last=_is_last(reply)):
                raise EditWindowClosed
            payload = render.render(reply, self._look(answer.principal), message=answer.id)
            replaces = target is answer.editing
            body = {**payload, "response_type": "ephemeral", "replace_original": replaces}
            await self._use(target, body)
            answer.sent = True
        return MessageRef(PLATFORM, {"answer": answer.id})

    async def _use(self, target: ResponseUrl, body: dict[str, Any]) -> None:
        webhook = AsyncWebhookClient(target.url, logger=client_log, retry_handlers=retry_handlers())
        sent = await webhook.send_dict(body)
        if sent.status_code == 404:
            raise EditWindowClosed
        if sent.status_code != 200:
            raise SlackRefused(f"a response URL answered {sent.status_code}")

    def _ephemeral(self, principal: Principal, installation: Installation, channel: str, url: str) -> ChatRef:
        answer = self._answers.new(principal, url, self._clock())
        data = {"channel": channel, "answer": answer.id, "principal": principal.user}
        return ChatRef(PLATFORM, {**_installed(installation), **data})

    def _look(self, owner: Principal) -> render.Look:
        return render.Look(owner, self._gateway.names(), self._clock(), self._command)

    @property
    def _workspaces(self) -> Workspaces:
        if self._installed is None:
            raise SlackRefused("There is no Slack app yet.", next_step="call install(app), or run()")
        return self._installed

    async def _notify(self, notice: Notice) -> None:
        await self._guarded(self._driver.notify(notice))

    async def _guarded(self, sending: Awaitable[object]) -> None:
        """Slack's own failures, after their retries, are one line in the log and no end of anything."""
        try:
            await sending
        except SlackApiError as error:
            _log.warning("Slack refused a message: %s", code_of(error))
        except SlackRefused as error:
            _log.warning("Slack: %s", error)
        except (ClientError, TimeoutError, OSError) as error:
            _log.warning("Slack could not be reached: %s", type(error).__name__)


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
    return ChatRef(PLATFORM, {**_installed(installation), **data})


def _installed(installation: Installation) -> dict[str, Any]:
    return {"team": installation.team, "enterprise": installation.enterprise, "org_wide": installation.org_wide}


def _installation(data: dict[str, Any]) -> Installation:
    return Installation(data.get("team"), data.get("enterprise"), data.get("org_wide") is True)


def _home(principal: Principal) -> Installation:
    tenant = principal.user.partition("/")[0]
    return Installation(None, tenant, True) if tenant.startswith("E") else Installation(tenant, None)


def _user(principal: Principal) -> str:
    return principal.user.rpartition("/")[2]


def _channel(body: incoming.Body) -> str:
    return str((body.get("channel") or {}).get("id") or (body.get("container") or {}).get("channel_id", ""))


def _callback(body: incoming.Body) -> str:
    return str((body.get("view") or {}).get("callback_id", ""))


def _metadata(view: incoming.Body) -> dict[str, str]:
    found = json.loads(view.get("private_metadata") or "{}")
    return found if isinstance(found, dict) else {}


def _typed(view: incoming.Body) -> str:
    for block in view["state"]["values"].values():
        for entered in block.values():
            return entered.get("value") or ""
    return ""


def _is_last(reply: Reply) -> bool:
    """Is nothing expected after this? A checklist with an open link will change again."""
    waits = (ItemState.LINK, ItemState.PREPARING, ItemState.KEY)
    items = [item for block in reply.blocks if isinstance(block, Checklist) for item in block.items]
    return reply.final and not any(item.state in waits for item in items)


def _only_waits(reply: Reply) -> bool:
    """Does this tell nothing yet but that something is being done?"""
    return not reply.final and all(
        isinstance(block, Text)
        or (isinstance(block, Checklist) and all(item.state is ItemState.PREPARING for item in block.items))
        for block in reply.blocks
    )


def _asked_again(body: incoming.Body, reply: Reply) -> str | None:
    """The input that is to be filled in once more, by its block. None: this modal is done."""
    if _callback(body) == render.TEXT_VIEW and not reply.ok:
        return render.TEXT_VIEW
    prompt = reply.prompt
    if prompt is not None and _metadata(body["view"]).get("prompt") == prompt.id:
        return render.key_block(prompt.id)
    return None


def _shown_now(view: render.Payload) -> BoltResponse:
    return BoltResponse(status=200, body={"response_action": "update", "view": view})


def _ack() -> BoltResponse:
    return BoltResponse(status=200, body="")
