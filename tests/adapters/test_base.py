"""The driver, between replies as the gateway gives them and a platform that lives in memory."""

from __future__ import annotations

import asyncio
import logging
import math
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.base import Adapter, Finding
from adapters.refusals import (
    EditWindowClosed,
    Elsewhere,
    Later,
    Misconfigured,
    NotSupported,
    PrivateDeliveryUnavailable,
    Refused,
)
from adapters.symbols import BAD, GOOD, WARN
from gateway import sentences
from gateway.invocations import Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import (
    Audience,
    Checklist,
    ChecklistItem,
    Decision,
    Deferred,
    Ignored,
    Immediate,
    ItemState,
    Notice,
    Reply,
    SecretPrompt,
    Text,
    TextModal,
)
from mcp_auth.config.models import Config, GatewayOptions, Settings
from mcp_auth.errors import ConfigError, Unreachable
from mcp_auth.stores.files import FileBackend
from mcp_auth.stores.memory import MemoryBackend

ADA = Principal("memory", "ada")
ROOM = ChatRef("memory", {"room": 1})
LINK = "https://as.example/authorize?state=abc"


class LibraryError(Exception):
    """What the platform's library raises."""


class Platform(Adapter[Settings]):
    """Rooms and direct messages in two lists. The knobs are what real platforms refuse."""

    platform = "memory"
    title = "Memory"
    options_type = Settings
    failures = (LibraryError,)
    pauses = (1.0, 2.0)

    def __init__(
        self,
        capabilities: Capabilities | None = None,
        *,
        reachable: bool = True,
        editable: bool = True,
        has_secret_input: bool = False,
        closed_room: bool = False,
        room: Sequence[str] = (),
    ) -> None:
        super().__init__(Answers([]), sleep=self._wait)  # type: ignore[arg-type]
        self.capabilities = capabilities or Capabilities(edit_window=None)
        self.reachable = reachable
        self.editable = editable
        self.has_secret_input = has_secret_input
        self.closed_room = closed_room
        self.refuses: list[Exception] = []
        self.room = list(room)
        self.direct: list[str] = []
        self.edits: list[str] = []
        self.asked: list[tuple[str, object]] = []
        self.waits: list[float] = []
        self.acknowledged: list[str] = []
        self.steps: list[str] = []

    async def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self.attach()
        self.steps.append("open")
        yield
        self.steps.append("closed")

    async def receive(self) -> None:
        self.steps.append("received")
        self._refuse()

    async def examine(self) -> list[Finding]:
        self._refuse()
        return [Finding(GOOD, "it answers")]

    def refusal(self, error: Exception) -> Refused:
        return error.args[0]

    def _refuse(self) -> None:
        if self.refuses:
            raise self.refuses.pop(0)

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        self._refuse()
        if self.closed_room:
            raise Elsewhere("the topic is closed")
        self.room.append(_words(reply))
        return MessageRef("memory", {"in": "room", "at": len(self.room) - 1})

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        self._refuse()
        if not self.reachable:
            raise PrivateDeliveryUnavailable
        self.direct.append(_words(reply))
        return MessageRef("memory", {"in": "direct", "at": len(self.direct) - 1})

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        if not self.editable:
            raise EditWindowClosed
        place = self.room if message.data["in"] == "room" else self.direct
        place[message.data["at"]] = _words(reply)
        self.edits.append(_words(reply))
        return message

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        if not self.has_secret_input:
            raise NotSupported
        self.asked.append((prompt.id, trigger))

    async def ask_text(self, verb: str, trigger: object) -> None:
        if trigger is None:
            raise NotSupported
        self.asked.append((verb, trigger))

    async def acknowledge(self, invocation: Invocation, trigger: object) -> None:
        self.acknowledged.append(invocation.text)


class Answers:
    """The side of the gateway that a driver sees: the replies that a test wants walked."""

    def __init__(self, replies: list[Reply], decision: Decision | None = None, home: Path | None = None) -> None:
        self.replies = replies
        self.decision = decision or Immediate()
        self.placed: list[dict[str, Any]] = []
        self.closed = False
        self.subscribed: list[str] = []
        options = GatewayOptions(allow=(str(ADA),))
        self.config = Config(home=home or Path("/nowhere"), path=None, servers={}, gateway=options)
        self.backend = MemoryBackend() if home is None else FileBackend(home)

    def decide(self, invocation: Invocation, capabilities: Capabilities) -> Decision:
        return self.decision

    async def handle(self, invocation: Invocation, capabilities: Capabilities) -> AsyncGenerator[Reply, None]:
        try:
            for reply in self.replies:
                yield reply
        finally:
            self.closed = True

    def delivered(self, invocation: Invocation, message: MessageRef) -> None:
        self.placed.append(message.data)

    def subscribe(self, platform: str, callback: object) -> Callable[[], None]:
        self.subscribed.append(platform)
        return lambda: self.subscribed.remove(platform)


async def drive(platform: Platform, *replies: Reply, private: bool = False, trigger: object = None) -> tuple[bool, Any]:
    gateway: Any = Answers(list(replies))
    invocation = Invocation(ADA, ROOM, "auth", private, "e1")
    platform.gateway = gateway
    return await platform.run_invocation(invocation, trigger), gateway


def for_all(text: str, **more: Any) -> Reply:
    return Reply((Text(text),), **more)


def for_caller(text: str, **more: Any) -> Reply:
    return Reply((Text(text),), audience=Audience.CALLER, **more)


async def test_what_is_for_the_chat_is_sent_once_and_then_edited() -> None:
    platform = Platform()
    ok, gateway = await drive(platform, for_all("list", final=False), for_all("list with live results"))
    assert (platform.room, platform.direct) == (["list with live results"], [])
    assert gateway.placed == [{"in": "room", "at": 0}] * 2
    assert ok
    assert gateway.closed


async def test_what_is_for_the_caller_goes_to_the_caller_and_the_room_reads_the_summary() -> None:
    platform = Platform()
    await drive(platform, for_caller(LINK, summary="Sent you 1 link in private."))
    assert platform.direct == [LINK]
    assert platform.room == ["Sent you 1 link in private."]


async def test_an_ephemeral_answer_needs_no_summary() -> None:
    platform = Platform(Capabilities(edit_window=None, ephemeral=True))
    await drive(platform, for_caller(LINK, summary="Sent you 1 link in private."))
    assert (platform.direct, platform.room) == ([LINK], [])


async def test_a_private_chat_is_answered_where_it_is() -> None:
    platform = Platform()
    await drive(platform, for_caller(LINK, summary="unneeded"), private=True)
    assert (platform.direct, platform.room) == ([], [LINK])


async def test_who_cannot_be_reached_in_private_is_told_how_and_the_content_stays_unsaid() -> None:
    platform = Platform(reachable=False)
    _, gateway = await drive(platform, for_caller(LINK, summary="Sent you 1 link in private."))
    (said,) = platform.room
    assert LINK not in said
    assert "Sent you" not in said
    assert "/mcp" in said
    assert gateway.placed == []


async def test_a_platform_says_how_to_be_reached_there() -> None:
    class Closed(Platform):
        async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
            raise PrivateDeliveryUnavailable(how="Use /mcp auth here: only you see its answer.")

    platform = Closed()
    await drive(platform, for_caller(LINK))
    assert platform.room == ["Use /mcp auth here: only you see its answer."]


async def test_a_public_message_is_never_edited_into_a_private_one() -> None:
    platform = Platform()
    await drive(platform, for_all("looking", final=False), for_caller(LINK))
    assert platform.room == ["looking"]
    assert platform.direct == [LINK]


async def test_a_private_message_is_edited_where_it_is() -> None:
    platform = Platform()
    await drive(platform, for_caller("preparing", final=False), for_caller(LINK), for_caller("signed in"))
    assert (platform.room, platform.direct) == ([], ["signed in"])


async def test_what_can_no_longer_be_edited_is_delivered_anew_in_private() -> None:
    platform = Platform(editable=False)
    _, gateway = await drive(platform, for_caller("preparing", final=False), for_caller(LINK))
    assert platform.direct == ["preparing", LINK]
    assert gateway.placed[-1] == {"in": "direct", "at": 1}


async def test_the_last_reply_decides_whether_it_went_well() -> None:
    ok, _ = await drive(Platform(), for_all("preparing", final=False), for_all("failed", ok=False))
    assert not ok


async def test_a_secret_is_asked_for_with_the_live_interaction_and_nothing_is_posted() -> None:
    platform = Platform(has_secret_input=True)
    interaction = object()
    prompt = SecretPrompt("p1", "weather", "KEY", "weather needs KEY", 0.0)
    await drive(platform, Reply((prompt,), audience=Audience.CALLER, summary="Sent you."), trigger=interaction)
    assert platform.asked == [("p1", interaction)]
    assert (platform.room, platform.direct) == ([], [])


async def test_without_a_secret_input_the_prompt_is_shown_in_private() -> None:
    platform = Platform()
    prompt = SecretPrompt("p1", "weather", "KEY", "weather needs KEY", 0.0)
    await drive(platform, Reply((prompt,), audience=Audience.CALLER))
    assert (platform.room, platform.direct) == ([], ["weather needs KEY"])


class TestNotices:
    @pytest.mark.parametrize(
        ("audience", "room", "direct"),
        [(Audience.CHAT, ["signed in"], []), (Audience.CALLER, [], ["signed in"])],
    )
    async def test_they_go_to_their_audience(self, audience: Audience, room: list[str], direct: list[str]) -> None:
        platform = Platform()
        await notify(platform, Reply((Text("signed in"),), audience=audience, summary="summary"))
        assert (platform.room, platform.direct) == (room, direct)

    async def test_who_cannot_be_reached_gets_the_summary_in_the_chat(self, tmp_path: Path) -> None:
        platform = Platform(reachable=False)
        await notify(platform, for_caller("signed in as ada@example.com", summary="notes: signed in."))
        assert platform.room == ["notes: signed in."]

    async def test_without_a_summary_nothing_is_posted(self) -> None:
        platform = Platform(reachable=False)
        await notify(platform, for_caller("signed in as ada@example.com"))
        assert platform.room == []

    async def test_an_edit_replaces_its_message(self) -> None:
        platform = Platform(room=["open this link"])
        await notify(platform, for_all("signed in"), MessageRef("memory", {"in": "room", "at": 0}))
        assert platform.room == ["signed in"]

    async def test_a_late_edit_is_dropped_because_the_news_comes_by_itself(self) -> None:
        platform = Platform(editable=False, room=["open this link"])
        await notify(platform, for_all("signed in"), MessageRef("memory", {"in": "room", "at": 0}))
        assert (platform.room, platform.direct) == (["open this link"], [])

    async def test_the_driver_tells_whether_a_notice_arrived(self) -> None:
        assert await notify(Platform(), for_caller("signed in"))
        assert not await notify(Platform(reachable=False), for_caller("signed in"))


class TestLate:
    """What could not be told waits for the person's next word."""

    async def test_news_comes_with_the_next_private_answer_and_once(self, tmp_path: Path) -> None:
        platform = Platform(reachable=False)
        assert not await notify(platform, for_caller("signed in"), home=tmp_path)
        platform.reachable = True

        await answer(platform, for_caller("list"), home=tmp_path)
        await answer(platform, for_caller("list"), home=tmp_path)

        assert platform.direct == [f"{sentences.SENT_LATE} signed in"]
        assert platform.room == ["list", "list"]

    @pytest.mark.parametrize("error", [Later("an outage"), Refused("a code of 400")], ids=["later", "unknown"])
    async def test_it_waits_on_until_it_arrived(self, tmp_path: Path, error: Refused) -> None:
        platform = Platform(reachable=False)
        await notify(platform, for_caller("signed in"), home=tmp_path)
        platform.reachable = True
        gateway = tell_answers(platform, [], home=tmp_path)
        platform.refuses = [error]

        with pytest.raises(Refused):
            await platform.tell_late(ADA, ROOM)
        await platform.tell_late(ADA, ROOM)

        assert gateway.closed is False
        assert platform.direct == [f"{sentences.SENT_LATE} signed in"]

    async def test_it_is_kept_when_the_process_ends_while_it_is_sent(self, tmp_path: Path) -> None:
        platform = Platform()
        platform.refuses = [asyncio.CancelledError()]  # type: ignore[list-item]
        with pytest.raises(asyncio.CancelledError):
            await notify(platform, for_caller("signed in"), home=tmp_path)

        later = Platform()
        await answer(later, for_caller("list"), home=tmp_path)

        assert later.direct == [f"{sentences.SENT_LATE} signed in"]

    async def test_who_is_not_served_any_more_is_told_nothing(self, tmp_path: Path) -> None:
        platform, eve = Platform(), Principal("memory", "eve")
        tell_answers(platform, [], home=tmp_path)
        await platform.undelivered.add("eve", for_caller("signed in"), is_news=True)

        await platform.tell_late(eve, ROOM)

        assert platform.direct == []

    async def test_a_platform_that_keeps_answers_tells_them_late_too_but_no_link(self, tmp_path: Path) -> None:
        platform = Platform()
        platform.keeps_answers = True  # type: ignore[misc]
        link = Reply((Checklist((ChecklistItem("notes", ItemState.LINK, "open", link=LINK),)),))
        for reply in (for_caller("list"), link):
            platform.refuses = [Later("an outage")]
            await answer(platform, reply, home=tmp_path)

        assert await platform.undelivered.take("ada") == ([], [for_caller("list")])


class TestAnswers:
    async def test_what_is_ignored_is_not_answered(self, tmp_path: Path) -> None:
        platform = Platform()
        await answer(platform, for_all("list"), decision=Ignored(), home=tmp_path)
        assert platform.room == []

    async def test_what_takes_a_while_is_acknowledged_and_the_rest_is_not(self, tmp_path: Path) -> None:
        platform = Platform()
        await answer(platform, for_all("list"), decision=Deferred(), home=tmp_path)
        await answer(platform, for_all("list"), home=tmp_path)
        assert platform.acknowledged == ["auth"]

    async def test_a_form_is_opened_where_there_is_one_and_the_text_shown_where_not(self, tmp_path: Path) -> None:
        platform, interaction = Platform(), object()
        await answer(platform, for_all("how"), decision=TextModal("paste"), trigger=interaction, home=tmp_path)
        assert (platform.asked, platform.room) == ([("paste", interaction)], [])
        await answer(platform, for_all("how"), decision=TextModal("paste"), home=tmp_path)
        assert platform.room == ["how"]

    async def test_a_refusal_that_no_table_knows_is_told_with_its_reference_and_logged_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        platform = Platform()
        platform.refuses = [Refused("code 4711")]
        await answer(platform, for_all("list"), home=tmp_path)

        (said,) = platform.direct
        (line,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
        reference = line.rpartition(" ")[2]
        assert line.startswith("Memory: an answer to memory:ada was refused: code 4711.")
        assert reference in said

    @pytest.mark.parametrize(
        ("error", "line"),
        [
            (Later("a rate limit"), "not delivered: a rate limit."),
            (Elsewhere("the topic is closed"), "refused: the topic is closed."),
            (Misconfigured("the token is over", next_step="make one"), "refused: the token is over. Next: make one"),
        ],
        ids=["later", "elsewhere", "misconfigured"],
    )
    async def test_a_refusal_that_is_known_is_one_line(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Refused, line: str
    ) -> None:
        platform = Platform()
        platform.refuses = [error]
        await answer(platform, for_all("list"), home=tmp_path)

        assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == [
            f"Memory: an answer to memory:ada was {line}"
        ]
        assert (platform.room, platform.direct) == ([], [])

    async def test_what_nobody_foresaw_is_told_with_its_reference(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        platform = Platform()
        platform.refuses = [RuntimeError("canary")]
        await answer(platform, for_all("list"), home=tmp_path)

        assert "Something went wrong inside" in platform.direct[0]
        assert "canary" not in caplog.text + platform.direct[0]


class TestClosedRooms:
    """A read-only room, a closed topic, an archived channel: nobody hears silence."""

    async def test_a_public_word_that_is_refused_does_not_end_the_private_answer(self) -> None:
        platform = Platform(closed_room=True)
        ok, gateway = await drive(
            platform, for_caller("preparing", final=False, summary="Sent you."), for_caller("open this link")
        )
        assert ok
        assert (platform.room, platform.direct) == ([], ["open this link"])
        assert gateway.placed == [{"in": "direct", "at": 0}] * 2

    async def test_what_is_for_all_goes_to_the_one_who_asked_with_a_word_why(self) -> None:
        platform = Platform(closed_room=True)
        ok, _ = await drive(platform, for_all("list"))
        assert ok
        assert (platform.room, platform.direct) == ([], [f"{sentences.ROOM_CLOSED} list"])

    async def test_a_notice_for_all_goes_to_the_one_it_is_about(self) -> None:
        platform = Platform(closed_room=True)
        assert await notify(platform, for_all("notes: signed in."))
        assert (platform.room, platform.direct) == ([], ["notes: signed in."])

    async def test_a_private_chat_that_is_closed_is_a_refusal(self) -> None:
        platform = Platform(closed_room=True)
        with pytest.raises(Elsewhere):
            await drive(platform, for_all("list"), private=True)


class TestTries:
    async def test_what_may_pass_is_tried_again_with_the_pauses_or_as_the_platform_says(self) -> None:
        platform = Platform()
        errors = [LibraryError(Later("lost")), LibraryError(Later("flood", wait=5.0))]

        async def call() -> str:
            if errors:
                raise errors.pop(0)
            return "taken"

        assert await platform.attempt(call) == "taken"
        assert platform.waits == [1.0, 5.0]

    @pytest.mark.parametrize(
        ("refusal", "waits"),
        [
            (Later("lost"), [1.0, 2.0]),
            (Later("flood", wait=121.0), []),
            (Later("the library has tried", wait=math.inf), []),
            (Elsewhere("closed"), []),
        ],
        ids=["lost", "flood", "tried", "elsewhere"],
    )
    async def test_what_does_not_pass_ends(self, refusal: Refused, waits: list[float]) -> None:
        platform = Platform()

        async def call() -> None:
            raise LibraryError(refusal)

        with pytest.raises(type(refusal)) as raised:
            await platform.attempt(call)
        assert raised.value.__context__ is None
        assert platform.waits == waits

    async def test_a_nicety_that_fails_is_no_trouble(self, caplog: pytest.LogCaptureFixture) -> None:
        platform = Platform()

        async def call() -> None:
            raise LibraryError(Later("lost"))

        platform.spawn_nicety(call)
        await platform.idle()

        assert platform.waits == []
        assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


class TestRunning:
    async def test_it_opens_receives_and_closes(self) -> None:
        platform = Platform()
        await platform.run()
        assert platform.steps == ["open", "received", "closed"]
        assert platform.undo == []

    async def test_a_process_that_only_delivers_receives_nothing(self) -> None:
        platform = Platform()
        gateway = tell_answers(platform, [])
        async with platform.connected():
            assert gateway.subscribed == ["memory"]
            assert await platform.notify(Notice(ADA, ROOM, for_caller("signed in")))
        assert (platform.steps, gateway.subscribed) == (["open", "closed"], [])

    async def test_what_ends_it_is_told_in_the_words_of_the_table(self) -> None:
        platform = Platform()
        platform.refuses = [LibraryError(Misconfigured("the token is over", key="gateway.memory.token"))]
        with pytest.raises(ConfigError, match="the token is over"):
            await platform.run()
        platform.refuses = [LibraryError(Later("it does not answer"))]
        with pytest.raises(Unreachable):
            await platform.run()

    async def test_it_is_attached_once_until_it_is_stopped(self) -> None:
        platform = Platform()
        undone: list[str] = []
        platform.attach(lambda: undone.append("first"), lambda: undone.append("second"))
        with pytest.raises(RuntimeError, match="installed already"):
            platform.attach()
        await platform.stop()
        await platform.stop()
        assert undone == ["second", "first"]

    async def test_the_doctor_hears_what_is_wrong_and_when_nobody_is_served(self) -> None:
        platform = Platform()
        assert await platform.check() == [Finding(GOOD, "it answers")]
        gateway = tell_answers(platform, [])
        gateway.config = Config(home=Path("/nowhere"), path=None, servers={}, gateway=GatewayOptions())
        (_, unserved) = await platform.check()
        assert unserved.mark == WARN
        assert "memory:ID" in unserved.text
        for outage, mark in ((BAD, BAD), (WARN, WARN)):
            platform.outage = outage  # type: ignore[misc]
            platform.refuses = [LibraryError(Later("it does not answer"))]
            assert await platform.check() == [Finding(mark, "it does not answer.")]
        platform.refuses = [ConfigError("the token is missing", next_step="set it")]
        assert await platform.check() == [Finding(BAD, "the token is missing.", "set it")]


def tell_answers(
    platform: Platform, replies: list[Reply], *, decision: Decision | None = None, home: Path | None = None
) -> Answers:
    gateway: Any = Answers(replies, decision, home)
    platform.gateway = gateway
    return gateway  # type: ignore[no-any-return]


async def answer(
    platform: Platform, reply: Reply, *, home: Path, decision: Decision | None = None, trigger: object = None
) -> None:
    tell_answers(platform, [reply], decision=decision, home=home)
    await platform.answer(Invocation(ADA, ROOM, "auth", True, "e1"), trigger)


async def notify(
    platform: Platform, reply: Reply, message: MessageRef | None = None, *, home: Path | None = None
) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        tell_answers(platform, [], home=home or Path(folder))
        return await platform.notify(Notice(ADA, ROOM, reply, message))


def _words(reply: Reply) -> str:
    return " ".join(block.text for block in reply.blocks if isinstance(block, Text | SecretPrompt))
