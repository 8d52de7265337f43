"""The driver, between replies as the gateway gives them and a platform that lives in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest

from adapters.driver import Driver
from adapters.refusals import EditWindowClosed, NotSupported, PrivateDeliveryUnavailable
from gateway.invocations import Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Audience, Notice, Reply, SecretPrompt, Text

ADA = Principal("memory", "ada")
ROOM = ChatRef("memory", {"room": 1})
LINK = "https://as.example/authorize?state=abc"


@dataclass
class Platform:
    """Rooms and direct messages in two lists. The knobs are what real platforms refuse."""

    capabilities: Capabilities = field(default_factory=lambda: Capabilities(edit_window=None))
    reachable: bool = True
    editable: bool = True
    has_secret_input: bool = False
    room: list[str] = field(default_factory=list)
    direct: list[str] = field(default_factory=list)
    edits: list[str] = field(default_factory=list)
    asked: list[tuple[str, object]] = field(default_factory=list)

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        self.room.append(_words(reply))
        return MessageRef("memory", {"in": "room", "at": len(self.room) - 1})

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
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

    async def run(self) -> None: ...


@dataclass
class Answers:
    """The side of the gateway that a driver sees: the replies that a test wants walked."""

    replies: list[Reply]
    placed: list[dict[str, Any]] = field(default_factory=list)
    closed: bool = False

    async def handle(self, invocation: Invocation, capabilities: Capabilities) -> AsyncGenerator[Reply, None]:
        try:
            for reply in self.replies:
                yield reply
        finally:
            self.closed = True

    def delivered(self, invocation: Invocation, message: MessageRef) -> None:
        self.placed.append(message.data)


async def drive(platform: Platform, *replies: Reply, private: bool = False, trigger: object = None) -> tuple[bool, Any]:
    gateway: Any = Answers(list(replies))
    invocation = Invocation(ADA, ROOM, "auth", private, "e1")
    return await Driver(gateway, platform).run_invocation(invocation, trigger), gateway


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

    async def test_who_cannot_be_reached_gets_the_summary_in_the_chat(self) -> None:
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


async def notify(platform: Platform, reply: Reply, message: MessageRef | None = None) -> bool:
    gateway: Any = Answers([])
    return await Driver(gateway, platform).notify(Notice(ADA, ROOM, reply, message))


def _words(reply: Reply) -> str:
    return " ".join(block.text for block in reply.blocks if isinstance(block, Text | SecretPrompt))
