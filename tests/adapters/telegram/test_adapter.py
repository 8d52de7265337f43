"""`/mcp` in a host's Application that polls, with an agent on every text message beside it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from telegram import Chat as TelegramChat
from telegram import InlineKeyboardButton, InlineKeyboardMarkup, Update, User
from telegram import Message as TelegramMessage
from telegram.ext import CallbackQueryHandler

from adapters.buttons import pack
from gateway import sentences
from gateway.invocations import ChatRef, Principal
from gateway.replies import Reply, Text
from gateway.surfaces import in_chat
from mcp_auth.config.models import Server
from mcp_auth.errors import StoreError
from mcp_auth.outcome import Next
from tests.adapters.telegram.host import Host, StartHost
from tests.homes import ME
from tests.platforms.telegram import BotApi, Group, Lost, Person, Refusal, flood
from tests.servers.oauth import OAuthServer, authorize, visit

KEY = "sk-canary-0123456789"
SECRETS = {"telegram": {"secrets_in_chat": True}}


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

    async def test_a_host_that_logs_everything_logs_no_link_and_no_token(
        self, start_host: StartHost, api: BotApi, ada: Person, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with start_host() as host:
            # What it said before we were there is its own.
            caplog.set_level(logging.DEBUG)
            for name in ("httpx", "httpcore", "telegram", "telegram.ext.ExtBot", "telegram.ext.Application"):
                caplog.set_level(logging.DEBUG, name)
            ada.say("/mcp auth")
            link = (await ada.message("open this link")).urls[0]
            redirect = await asyncio.to_thread(authorize, link)
            ada.say(redirect)
            await ada.message("notes: signed in")
            said = [one for one in caplog.records if one.name.startswith(("httpx.", "telegram")) or one.name == "httpx"]

        text = "\n".join(one.getMessage() for one in said)
        assert "/bot***/sendMessage" in text
        assert "hidden by slash-mcp" in text
        for secret in (host.application.bot.token, link, redirect):
            assert secret not in text

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
        assert press.text == in_chat(sentences.BUTTON_NOT_YOURS)
        assert bob.sent == []

    async def test_a_redirect_pasted_where_others_read_is_kept_from_the_host_and_not_used(
        self, start_host: StartHost, api: BotApi, ada: Person, ops: Group
    ) -> None:
        api.reads_all = True
        async with start_host() as host:
            ada.say("/mcp auth")
            redirect = await asyncio.to_thread(authorize, (await ada.message("open this link")).urls[0])
            ops.say(ada, redirect)
            public = await ops.message("not used here")

            assert [one.server for one in await host.gateway.auth.open_sign_ins()] == ["notes"]

        assert "code=" not in public.text
        assert host.heard == []

    async def test_nobody_in_particular_is_told_so_once_a_minute(
        self, start_host: StartHost, ada: Person, ops: Group, api: BotApi
    ) -> None:
        channel = api.channel("News")
        async with start_host() as host:
            ops.say_anonymously("/mcp auth")
            await ops.message("I answer people only")
            ops.say_as_channel("/mcp", channel)
            ops.say(ada, "/mcp")
            await ops.message("sign-in needed")

        assert len(ops.sent) == 2
        assert host.heard == []

    async def test_a_channel_post_is_kept_from_the_host_and_not_answered(
        self, start_host: StartHost, api: BotApi, ada: Person
    ) -> None:
        channel = api.channel("News")
        async with start_host() as host:
            channel.edit(channel.write("/mcp auth", None), "/mcp auth notes")
            channel.write("good morning", None)
            ada.say("/mcp")
            await ada.message("sign-in needed")
            await api.until(lambda: host.heard)

        assert host.heard == ["good morning"]
        assert channel.sent == []

    async def test_a_topic_is_answered_in_the_topic(self, start_host: StartHost, ada: Person, ops: Group) -> None:
        async with start_host():
            ops.say(ada, "/mcp", thread=77)
            listed = await ops.message("sign-in needed")

        assert listed.thread == 77

    async def test_a_group_that_became_a_supergroup_is_found_again(
        self, start_host: StartHost, api: BotApi, ada: Person
    ) -> None:
        old = api.group("Old", kind="group")
        async with start_host():
            new = old.become_supergroup()
            old.say(ada, "/mcp")
            await new.message("sign-in needed")

    async def test_the_end_of_a_sign_in_is_told_in_the_group_without_the_account(
        self, start_host: StartHost, ada: Person, ops: Group, oauth: OAuthServer
    ) -> None:
        async with start_host():
            ada.start()
            ops.say(ada, "/mcp auth")
            redirect = await asyncio.to_thread(authorize, (await ada.message("open this link")).urls[0])
            await asyncio.to_thread(visit, redirect)
            told = await ops.message("notes: signed in.")

        assert told.text == "✓ notes: signed in."


class TestTroubles:
    async def test_an_edited_command_is_not_done_and_not_heard(
        self, start_host: StartHost, api: BotApi, ada: Person
    ) -> None:
        async with start_host() as host:
            message = ada.say("good morning")
            ada.edit(message, "/mcp auth")
            ada.edit(message, "good evening")
            await api.until(lambda: len(host.heard) == 2)

            assert await host.gateway.auth.open_sign_ins() == []

        assert host.heard == ["good morning", "good evening"]
        assert ada.sent == []

    async def test_what_comes_twice_is_done_once(self, start_host: StartHost, api: BotApi, ada: Person) -> None:
        async with start_host():
            ada.say("/mcp help", twice=True)
            await ada.message("What /mcp can do")
            ada.say("/mcp")
            listed = await ada.message("sign-in needed")
            ada.press(listed, "Sign in", twice=True)
            await ada.message("open this link")
            ada.say("/mcp logot")
            await ada.message("Did you mean")

        assert len(ada.sent) == 4

    async def test_flood_control_is_honoured(self, start_host: StartHost, api: BotApi, ada: Person) -> None:
        api.next_answers("sendMessage", flood(3), flood(7))
        async with start_host() as host:
            ada.say("/mcp help")
            await ada.message("What /mcp can do")

        assert host.pauses == [3.0, 7.0]
        assert len(api.sent("sendMessage")) == 3

    async def test_flood_control_of_an_hour_is_not_waited_for_and_the_next_command_works(
        self, start_host: StartHost, api: BotApi, ada: Person, caplog: pytest.LogCaptureFixture
    ) -> None:
        api.next_answers("sendMessage", flood(3600))
        async with start_host() as host:
            ada.say("/mcp help")
            await api.until(lambda: "Telegram wants silence for 3600 s" in caplog.text)
            ada.say("/mcp")
            await ada.message("sign-in needed")

        assert host.pauses == []

    async def test_a_lost_request_is_sent_again(self, start_host: StartHost, api: BotApi, ada: Person) -> None:
        api.next_answers("sendMessage", Lost(), Lost())
        api.next_answers("editMessageText", Lost())
        async with start_host() as host:
            ada.say("/mcp auth")
            await ada.message("open this link")

        assert len(ada.sent) == 1
        assert host.pauses[:2] == [1.0, 2.0]

    async def test_who_blocked_the_bot_is_told_in_the_group(
        self, start_host: StartHost, ada: Person, ops: Group
    ) -> None:
        async with start_host():
            ada.start()
            ada.block()
            ops.say(ada, "/mcp notes")
            public = await ops.message("cannot reach you in private")

        assert public.urls == ["https://t.me/slash_mcp_bot?start=mcp-status-" + _tag("notes")]

    @pytest.mark.parametrize(
        "words",
        [
            "Bad Request: TOPIC_CLOSED",
            "Bad Request: message thread not found",
            "Bad Request: not enough rights to send text messages to the chat",
        ],
    )
    async def test_in_a_room_that_takes_no_words_the_one_who_asked_is_answered_in_private(
        self, start_host: StartHost, api: BotApi, ada: Person, ops: Group, words: str
    ) -> None:
        async with start_host():
            ada.start()
            api.next_answers("sendMessage", Refusal(400, words))
            ops.say(ada, "/mcp help")
            answered = await ada.message("What /mcp can do")

        assert "I may not write where you asked" in answered.text

    async def test_an_edit_without_a_change_is_no_failure(
        self, start_host: StartHost, api: BotApi, ada: Person
    ) -> None:
        async with start_host() as host:
            reply = Reply((Text("the same"),))
            ada.start()
            message = await host.adapter.reply(ChatRef("telegram", {"chat": 1, "user": "1"}), reply)
            assert await host.adapter.update(message, reply) == message

        assert "is not modified" in str(api.sent("editMessageText")[0].error)

    async def test_what_was_deleted_meanwhile_is_delivered_anew(
        self, start_host: StartHost, api: BotApi, ada: Person, oauth: OAuthServer
    ) -> None:
        answered = oauth.knobs.mcp_gate = threading.Event()
        async with start_host():
            ada.say("/mcp auth")
            (await ada.message("preparing")).deleted = True
            answered.set()
            again = await ada.message("open this link")

        assert again.urls

    async def test_a_press_on_a_button_of_a_removed_server_says_so(
        self, start_host: StartHost, api: BotApi, ada: Person
    ) -> None:
        async with start_host():
            ada.say("/mcp notes")
            detail = await ada.message("sign-in needed")
            detail.button("Sign in")["callback_data"] = pack("auth gone", Principal("telegram", "1"), ["gone"])
            press = ada.press(detail, "Sign in")
            await api.until(lambda: press.answered)

        assert press.text == in_chat(sentences.BUTTON_OVER)

    async def test_a_store_that_fails_keeps_the_address_from_the_host(
        self, start_host: StartHost, ada: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(text: str) -> bool:
            raise StoreError("The disk is gone.", next_step=Next("doctor"))

        async with start_host() as host:
            monkeypatch.setattr(host.gateway.auth, "claims", fail)
            ada.say("http://127.0.0.1:8765/callback?code=c&state=s")
            await ada.api.until(lambda: ada.sent)

        assert host.heard == []

    async def test_two_hundred_servers(
        self, start_host: StartHost, oauth: OAuthServer, api: BotApi, ada: Person
    ) -> None:
        servers = [Server(name=f"server-{number:03}", url=oauth.url, auth="oauth") for number in range(200)]
        async with start_host(*servers):
            ada.say("/mcp")
            listed = await ada.message("MCP Servers")

        assert api.refused == []
        assert re.search(r"… and \d+ more\. /mcp SERVER shows one\.", listed.text)
        assert listed.text.endswith("Use /mcp auth to authenticate servers")

    async def test_names_with_markup_mentions_and_other_directions_are_only_text(
        self, start_host: StartHost, oauth: OAuthServer, api: BotApi, ada: Person, bob: Person, ops: Group
    ) -> None:
        names = [
            "<b>x</b>",
            "*_`[y](http://evil.example)",
            "@everyone_here",
            "/logout",
            "שרת",
            "a\u202eb\x07c",
            "👩‍🚀 z",
        ]
        async with start_host(*(Server(name=name, url=oauth.url, auth="oauth") for name in names)):
            ops.say(ada, "/mcp")
            listed = await ops.message("MCP Servers")

        assert api.refused == []
        assert listed.marked("mention") == []
        assert "/logout" not in listed.marked("bot_command")
        assert {"<b>x</b>", "שרת", "abc"} <= set(listed.marked("bold"))
        assert "@everyone_here" in listed.marked("code")
        assert not {"\u202e", "\x07"} & set(listed.text)

    async def test_without_network_the_host_polls_on(self, start_host: StartHost, api: BotApi, ada: Person) -> None:
        async with start_host():
            ada.say("/mcp help")
            await ada.message("What /mcp can do")
            api.offline = True
            api.end_polls()
            ada.say("/mcp")
            await api.until(lambda: api.calls[-1].error == "lost")
            api.offline = False
            await ada.message("sign-in needed")


class TestSecrets:
    async def test_a_key_is_a_reply_that_is_deleted_at_once(
        self, start_host: StartHost, oauth: OAuthServer, api: BotApi, ada: Person, tmp_path: Path
    ) -> None:
        oauth.knobs.protected, oauth.knobs.api_key = False, KEY
        async with start_host(weather(oauth), platforms=SECRETS) as host:
            ada.say("/mcp key")
            question = await ada.message(sentences.SECRET_REPLY)
            wrong = ada.answer(question, "wrong-canary-value")
            again = await ada.message("refuses this key")
            right = ada.answer(again, KEY, twice=True)
            await ada.message("the key works and is stored")
            ada.say("good morning")
            await api.until(lambda: host.heard)

        assert question.markup == {"force_reply": True}
        assert wrong.deleted
        assert right.deleted
        assert host.heard == ["good morning"]
        assert KEY in (tmp_path / ".env").read_text()
        assert len(ada.sent) == 3

    async def test_without_the_operators_word_nothing_is_asked(
        self, start_host: StartHost, oauth: OAuthServer, ada: Person
    ) -> None:
        async with start_host(weather(oauth)):
            ada.say("/mcp key weather")
            answer = await ada.message("Three ways")

        assert "gateway.telegram.secrets_in_chat" in answer.text
        assert answer.markup is None

    async def test_in_a_group_the_question_is_private(
        self, start_host: StartHost, oauth: OAuthServer, ada: Person, ops: Group
    ) -> None:
        async with start_host(weather(oauth), platforms=SECRETS):
            ada.start()
            ops.say(ada, "/mcp key weather")
            await ada.message(sentences.SECRET_REPLY)
            await ops.message(sentences.PRIVATE_ANSWER)

        assert all(message.markup is None for message in ops.sent)

    async def test_a_forgotten_reply_is_recognised_while_the_question_is_open(
        self, start_host: StartHost, oauth: OAuthServer, api: BotApi, ada: Person
    ) -> None:
        oauth.knobs.protected, oauth.knobs.api_key = False, KEY
        async with start_host(weather(oauth), platforms=SECRETS) as host:
            ada.say("/mcp key weather")
            await ada.message(sentences.SECRET_REPLY)
            ada.say("what is the weather?")
            loose = ada.say(KEY)
            await ada.message("the key works and is stored")

        assert loose.deleted
        assert host.heard == ["what is the weather?"]

    async def test_an_answer_after_a_restart_is_deleted_and_not_used(
        self, start_host: StartHost, oauth: OAuthServer, ada: Person
    ) -> None:
        async with start_host(weather(oauth), platforms=SECRETS):
            ada.say("/mcp key weather")
            question = await ada.message(sentences.SECRET_REPLY)
        async with start_host(weather(oauth), platforms=SECRETS) as host:
            late = ada.answer(question, KEY)
            await ada.message(in_chat(sentences.PROMPT_OVER))
            ada.edit(late, f"{KEY}x")
            ada.say("/mcp help")
            await ada.message("What /mcp can do")

        assert late.deleted
        assert host.heard == []

    async def test_a_message_that_cannot_be_deleted_is_told(
        self, start_host: StartHost, oauth: OAuthServer, api: BotApi, ada: Person
    ) -> None:
        oauth.knobs.protected, oauth.knobs.api_key = False, KEY
        api.next_answers("deleteMessage", Refusal(400, "Bad Request: message can't be deleted for everyone"))
        async with start_host(weather(oauth), platforms=SECRETS):
            ada.say("/mcp key weather")
            ada.answer(await ada.message(sentences.SECRET_REPLY), KEY)
            answer = await ada.message("the key works and is stored")

        assert sentences.SECRET_STAYS in answer.text

    async def test_a_key_typed_as_a_command_is_not_used_and_not_heard(
        self, start_host: StartHost, oauth: OAuthServer, ada: Person
    ) -> None:
        async with start_host(weather(oauth)) as host:
            ada.say(f"/mcp key weather {KEY}")
            answer = await ada.message("Replace it")

        assert KEY not in answer.text
        assert host.heard == []


class TestHost:
    async def test_the_commands_join_those_of_the_host(self, start_host: StartHost, api: BotApi, ada: Person) -> None:
        theirs = {"command": "weather", "description": "The weather"}
        api.commands = {"default": [theirs], "all_group_chats": [theirs]}
        async with start_host():
            ada.say("hello")
            await api.until(lambda: len(api.sent("setMyCommands")) == 2)

        ours = {"command": "mcp", "description": sentences.COMMAND_DESCRIPTION}
        assert api.commands == {"default": [theirs, ours], "all_group_chats": [theirs, ours]}

    async def test_without_commands_of_a_host_private_chats_and_groups_get_ours(
        self, start_host: StartHost, api: BotApi, ada: Person
    ) -> None:
        async with start_host():
            ada.say("hello")
            await api.until(lambda: len(api.commands) == 2)

        assert {scope: [one["command"] for one in commands] for scope, commands in api.commands.items()} == {
            "all_private_chats": ["mcp"],
            "all_group_chats": ["mcp"],
        }

    async def test_presses_on_the_hosts_buttons_reach_the_host(
        self, start_host: StartHost, api: BotApi, ada: Person
    ) -> None:
        pressed: list[Any] = []

        def prepare(host: Host) -> None:
            async def on_press(update: Update, context: Any) -> None:
                pressed.append(update.callback_query)

            host.application.add_handler(CallbackQueryHandler(on_press))

        async with start_host(prepare=prepare) as host:
            ada.start()
            keyboard = InlineKeyboardMarkup([[InlineKeyboardButton("Theirs", callback_data="theirs")]])
            await host.application.bot.send_message(1, "Choose", reply_markup=keyboard)
            ada.press(await ada.message("Choose"), "Theirs")
            await api.until(lambda: pressed)

    async def test_it_says_what_it_claims(self, start_host: StartHost, api: BotApi, ada: Person) -> None:
        async with start_host() as host:
            claimed = {
                text: await host.adapter.claims(_message(text, host))
                for text in ("/mcp auth", "/MCP", "/start mcp", "/start other", "hello", "http://a.example/?code=1")
            }

        assert [text for text, is_ours in claimed.items() if is_ours] == ["/mcp auth", "/MCP", "/start mcp"]

    async def test_it_installs_once_and_stops_as_often_as_one_likes(self, start_host: StartHost) -> None:
        async with start_host() as host:
            with pytest.raises(RuntimeError, match="installed already"):
                host.adapter.install(host.application)
            await host.adapter.stop()
            await host.adapter.stop()

    async def test_a_confirmation_code_arrives_by_deep_link(
        self, start_host: StartHost, ada: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        async with start_host() as host:
            handle = host.gateway.handle

            def listen(invocation: Any, abilities: Any) -> Any:
                asked.append(invocation.text)
                return handle(invocation, abilities)

            monkeypatch.setattr(host.gateway, "handle", listen)
            ada.start("mcp-confirm-K7QX-2M")
            await ada.api.until(lambda: ada.sent)

        assert asked == ["review-code K7QX-2M"]
        assert host.heard == []


async def test_two_people_have_their_own_sign_ins(
    start_host: StartHost, api: BotApi, ada: Person, bob: Person, ops: Group
) -> None:
    people = {"allow": ("telegram:1", "telegram:2"), "identity": "per_user"}
    async with start_host(**people) as host:
        await _sign_in_as(host, 1)
        ada.say("/mcp notes")
        bob.say("/mcp notes")
        mine = await ada.message("signed in")
        theirs = await bob.message("sign-in needed")

    assert "signed in" not in theirs.text
    assert "sign-in needed" not in mine.text


async def _sign_in_as(host: Host, user: int) -> None:
    """With several people a chat begins no sign-in yet; the operator does it for them."""
    auth = host.gateway.auth
    owner = f"principal:telegram:{user}"
    started = await auth.sign_in("notes", owner, ME, listen=False)
    await auth.paste(await asyncio.to_thread(authorize, started.link), ME.principal)


def weather(oauth: OAuthServer) -> Server:
    return Server(name="weather", url=oauth.url, headers={"Authorization": "Bearer ${WEATHER_KEY}"})


def _message(text: str, host: Host) -> Any:
    chat = TelegramChat(1, "private")
    return TelegramMessage(1, datetime.now(UTC), chat, from_user=User(1, "Ada", False), text=text)


def _tag(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]
