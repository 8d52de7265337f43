"""`/mcp` in a host's Application that polls, with an agent on every text message beside it."""

from __future__ import annotations

import asyncio

from gateway import sentences
from tests.adapters.telegram.host import StartHost
from tests.platforms.telegram import BotApi, Group, Person
from tests.servers.oauth import OAuthServer, authorize


class TestPrivate:
    async def test_the_list_and_its_button_lead_to_a_link(
        self, start_host: StartHost, api: BotApi, ada: Person
    ) -> None:
        async with start_host():
            ada.say("/mcp")
            listed = await ada.message("sign-in needed")
            press = ada.press(listed, "Sign in")
            checklist = await ada.message("open this link within 10 minutes")

        assert listed.marked("bold") == ["MCP Servers", "notes"]
        assert press.answered
        assert not press.alert
        assert checklist.urls[0].startswith("http://127.0.0.1:")
        assert checklist.payload["link_preview_options"] == {"is_disabled": True}
        assert api.refused == []

    async def test_a_pasted_redirect_finishes_and_the_message_with_the_link_is_edited(
        self, start_host: StartHost, oauth: OAuthServer, api: BotApi, ada: Person
    ) -> None:
        async with start_host() as host:
            ada.say("/mcp auth")
            checklist = await ada.message("open this link")
            redirect = await asyncio.to_thread(authorize, checklist.urls[0])
            ada.say(redirect)
            await ada.message("✓ notes: signed in, 3 tools")
            await api.until(lambda: "✓ notes" in checklist.text and not checklist.buttons)

        assert host.heard == []
        assert api.refused == []

    async def test_a_redirect_among_other_words_is_taken_too(self, start_host: StartHost, ada: Person) -> None:
        async with start_host() as host:
            ada.say("/mcp auth")
            checklist = await ada.message("open this link")
            redirect = await asyncio.to_thread(authorize, checklist.urls[0])
            ada.say(f"here it is:\n{redirect}\nthanks")
            await ada.message("notes: signed in")

        assert host.heard == []

    async def test_everything_else_reaches_the_host(self, start_host: StartHost, api: BotApi, ada: Person) -> None:
        said = [
            "hello",
            "/start",
            "/help",
            "what is /mcp?",
            "/mcpx",
            "/mcp@another_bot",
            "https://x.example/?code=1&state=2",
        ]
        async with start_host() as host:
            for text in said:
                ada.say(text)
            await api.until(lambda: len(host.heard) == len(said))

        assert host.heard == said
        assert ada.sent == []


class TestGroups:
    async def test_the_list_is_public_and_the_link_private(
        self, start_host: StartHost, api: BotApi, ada: Person, ops: Group
    ) -> None:
        async with start_host() as host:
            ada.start()
            ops.say(ada, "/mcp@slash_mcp_bot")
            listed = await ops.message("sign-in needed")
            asked = ops.say(ada, "/mcp auth")
            checklist = await ada.message("open this link")
            public = await ops.message(sentences.PRIVATE_ANSWER)

        assert public.reply_to is asked
        assert checklist.urls
        assert all(not message.urls for message in ops.sent)
        assert listed.button("Sign in")
        assert host.heard == ["/start"]
        assert api.refused == []

    async def test_who_never_started_the_bot_gets_a_deep_link_that_asks_the_same_again(
        self, start_host: StartHost, api: BotApi, ada: Person, ops: Group
    ) -> None:
        async with start_host():
            ops.say(ada, "/mcp auth notes")
            public = await ops.message("cannot reach you in private")
            ada.open_link(public.urls[0])
            checklist = await ada.message("open this link")

        assert len(ops.sent) == 1
        assert checklist.urls

    async def test_a_press_by_another_is_refused_with_an_alert(
        self, start_host: StartHost, api: BotApi, ada: Person, bob: Person, ops: Group
    ) -> None:
        async with start_host(allow=("telegram:1", "telegram:2"), identity="per_user"):
            ops.say(ada, "/mcp")
            listed = await ops.message("sign-in needed")
            press = bob.press(listed, "Sign in")
            await api.until(lambda: press.answered)

        assert press.alert
        assert press.text == sentences.BUTTON_NOT_YOURS
        assert bob.sent == []
