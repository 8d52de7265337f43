"""discord.py's own client and Discord on loopback; the gateway and the servers behind it are real."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import discord
import pytest

from adapters.discord import interactions
from adapters.discord.adapter import DiscordAdapter
from gateway.invocations import ChatRef, Principal
from gateway.replies import Audience, Notice, Reply, Text
from mcp_auth.config.models import CallbackOptions, Server
from mcp_auth.records import encode
from mcp_auth.stores.files import FileStore
from mcp_auth.stores.memory import MemoryStore
from tests.adapters.discord.conftest import running_bot
from tests.browser import Browser
from tests.platforms.discord import DiscordServer, Interaction
from tests.ports import free_port
from tests.servers.oauth import OAuthServer, authorize, visit

DEAD = Server(name="dead", url="http://127.0.0.1:9/mcp", auth="oauth")
KEY = "sk-live-4f9a8b7c6d5e"
IN_CHAT = {"discord": {"secrets_in_chat": True}}


def notes(oauth: OAuthServer, name: str = "notes") -> Server:
    return Server(name=name, url=oauth.url, auth="oauth")


def weather(oauth: OAuthServer) -> Server:
    oauth.knobs.api_key = KEY
    return Server(name="weather", url=oauth.url, headers={"Authorization": "Bearer ${WEATHER_KEY}"})


def types(asked: Interaction, server: DiscordServer) -> list[str]:
    """What was sent for this interaction, as `callback 5` and `PATCH @original`."""
    shown = []
    for request in server.requests:
        if asked.token in request.path:
            last = request.path.rsplit("/", 1)[1]
            shown.append(f"callback {request.body['type']}" if last == "callback" else f"{request.method} {last}")
    return shown


# -- slash commands --------------------------------------------------------------------------


async def test_status_lists_the_servers_to_the_one_who_asked(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        asked = await server.slash(bot.ada, "status")
        message = await server.reading(asked, "sign-in needed")

        assert message.ephemeral_to is bot.ada
        assert "**dead**" in message.content
        assert "[Sign in]" in message.text
        assert types(asked, server) == ["callback 4"]


@pytest.mark.parametrize(
    ("verb", "options", "says"),
    [
        ("status", {"server": "dead"}, "**dead**"),
        ("status", {"server": "nothing like it"}, "I do not know that one"),
        ("auth", {"server": "dead"}, "dead"),
        ("key", {"server": "dead"}, "needs no key"),
        ("confirm", {"code": "ABC-DEF"}, "Codes are asked for"),
        ("people", {}, "Only an admin decides who is served"),
        ("allow", {"code": "nonsense"}, "Only an admin decides"),
        ("deny", {"who": "nobody"}, "Only an admin decides"),
        ("cancel", {}, "No sign-in is open"),
        ("logout", {"server": "dead"}, "dead"),
        ("test", {"server": "dead"}, "dead"),
        ("help", {}, "What /mcp can do"),
    ],
)
async def test_every_subcommand_answers_its_user_alone(
    server: DiscordServer, tmp_path: Path, verb: str, options: dict[str, str], says: str
) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        asked = await server.slash(bot.ada, verb, **options)
        message = await server.reading(asked, says)
        assert message.ephemeral_to is bot.ada
        assert server.in_place(server.channel) == []


async def test_a_command_that_is_named_can_be_clicked_once_somebody_has_used_it(
    server: DiscordServer, tmp_path: Path
) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        (command,) = [one for one in server.commands if one["name"] == "mcp"]
        shown = await server.reading(await server.slash(bot.ada, "status"), "Use ")
        assert f"Use </mcp auth:{command['id']}> to authenticate servers" in shown.content


async def test_nothing_mentions_and_nothing_previews(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        message = await server.reading(await server.slash(bot.ada, "status"), "sign-in needed")
        (sent, *_) = message.payloads
        assert sent["allowed_mentions"] == {"parse": []}
        assert sent["flags"] == 4 | 64


async def test_what_needs_the_network_is_acknowledged_first(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    async with running_bot(server, tmp_path, notes(oauth)) as bot:
        asked = await server.slash(bot.ada, "auth")
        await server.reading(asked, "open this link")
        assert types(asked, server)[:2] == ["callback 5", "PATCH @original"]
        assert len(asked.messages) == 1


async def test_a_slow_answer_from_memory_is_acknowledged_in_time(
    server: DiscordServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowGrants:
        """Nothing is known of them before Discord has been told to wait."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            async def slow(*given: Any, **named: Any) -> Any:
                await server.until(acknowledged)
                return await getattr(self._real, name)(*given, **named)

            return slow

    def acknowledged() -> bool:
        return all(one.answer is not None for one in server.interactions.values())

    monkeypatch.setattr(interactions, "_ACKNOWLEDGE_SECONDS", 0.05)
    store = MemoryStore()
    store.grants = SlowGrants(store.grants)  # type: ignore[assignment]
    async with running_bot(server, tmp_path, DEAD, store=store) as bot:
        asked = await server.slash(bot.ada, "status")
        await server.reading(asked, "sign-in needed")
        assert types(asked, server)[:2] == ["callback 5", "PATCH @original"]


async def test_a_stranger_gets_one_sentence_and_no_names(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        first = await server.slash(bot.eve, "status")
        message = await server.reading(first, "I do not know you yet")
        second = await server.slash(bot.eve, "auth")
        offered = await server.type(bot.eve, "auth", "server", "")

        assert message.ephemeral_to is bot.eve
        assert second.answer is None
        assert offered == []


async def test_an_interaction_that_arrives_twice_is_answered_once(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        asked = await server.slash(bot.ada, "status")
        await server.reading(asked, "sign-in needed")
        await server.deliver_again(asked)
        await server.reading(await server.slash(bot.ada, "help"), "What /mcp can do")
        assert types(asked, server) == ["callback 4"]


async def test_names_are_offered_from_memory_25_at_most(server: DiscordServer, tmp_path: Path) -> None:
    servers = [replace_name(DEAD, name) for name in ("github", "gitlab", "my-git", "n" * 101)]
    servers += [replace_name(DEAD, f"server-{at}") for at in range(40)]
    async with running_bot(server, tmp_path, *servers) as bot:
        before = len(server.requests)
        assert await server.type(bot.ada, "auth", "server", "GIT") == ["github", "gitlab", "my-git"]
        assert len(await server.type(bot.ada, "logout", "server", "")) == 25
        assert all("callback" in request.path for request in server.requests[before:])


def replace_name(base: Server, name: str) -> Server:
    return Server(name=name, url=base.url, auth=base.auth)


async def test_the_command_is_for_servers_and_persons_everywhere(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD):
        (command,) = server.commands
        assert command["integration_types"] == [0, 1]
        assert command["contexts"] == [0, 1, 2]
        options = {sub["name"]: [one["name"] for one in sub.get("options", [])] for sub in command["options"]}
        # No option takes a key or an address.
        assert options == {
            "status": ["server"],
            "auth": ["server"],
            "key": ["server"],
            "paste": [],
            "confirm": ["code"],
            "cancel": ["server"],
            "logout": ["server"],
            "test": ["server"],
            "people": [],
            "allow": ["code"],
            "deny": ["who"],
            "help": [],
        }


async def test_whoever_installed_it_uses_it_where_the_bot_is_not(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    async with running_bot(server, tmp_path, notes(oauth)) as bot:
        for place in (server.elsewhere(), server.foreign_guild()):
            asked = await server.slash(bot.ada, "auth", place)
            message = await server.reading(asked, "open this link")
            assert message.ephemeral_to is bot.ada


# -- signing in ------------------------------------------------------------------------------


async def sign_in_at(link: str) -> None:
    await asyncio.to_thread(visit, await asyncio.to_thread(authorize, link))


async def test_a_sign_in_from_the_link_to_the_notice(server: DiscordServer, tmp_path: Path, oauth: OAuthServer) -> None:
    async with running_bot(server, tmp_path, notes(oauth)) as bot:
        asked = await server.slash(bot.ada, "auth", server="notes")
        message = await server.reading(asked, "open this link within 10 minutes")
        (link,) = message.links()
        await sign_in_at(link)
        await server.reading(asked, "notes: signed in, 3 tools")
        await server.until(lambda: "signed in, 3 tools" in message.text and message.links() == [])

        assert all(one.ephemeral_to is bot.ada for one in asked.messages)
        assert server.in_place(server.channel) == []
        assert server.in_place(server.dm(bot.ada)) == []


async def test_what_is_stored_holds_no_interaction_token(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    async with running_bot(server, tmp_path, notes(oauth)) as bot:
        asked = await server.slash(bot.ada, "auth")
        await server.reading(asked, "open this link")
        (stored,) = await bot.gateway.auth.open_sign_ins()
        chat = {"platform": "discord", "data": {"interaction": str(asked.id), "user": str(bot.ada.id)}, "private": True}
        assert stored.origin.chat == chat
        assert asked.token.encode() not in encode(stored)


async def test_after_fifteen_minutes_the_news_is_a_direct_message(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    async with running_bot(server, tmp_path, notes(oauth)) as bot:
        asked = await server.slash(bot.ada, "auth")
        message = await server.reading(asked, "open this link")
        (link,) = message.links()
        server.clock.advance(15 * 60 + 1)
        await sign_in_at(link)
        await server.posted(server.dm(bot.ada), "notes: signed in, 3 tools")

        assert "open this link" in message.text
        assert types(asked, server)[-1] == "PATCH @original"
        assert server.in_place(server.channel) == []


async def test_closed_direct_messages_the_next_command_shows_the_news(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    async with running_bot(server, tmp_path, notes(oauth)) as bot:
        bot.ada.takes_dms = False
        (link,) = (await server.reading(await server.slash(bot.ada, "auth"), "open this link")).links()
        server.clock.advance(15 * 60 + 1)
        await sign_in_at(link)
        await server.until(lambda: any("users/@me/channels" in one.path for one in server.requests))
        await bot.gateway.settled(5)
        asked = await server.slash(bot.ada, "help")
        news = await server.reading(asked, "notes: signed in, 3 tools")
        again = await server.slash(bot.ada, "help")
        await server.reading(again, "What /mcp can do")

        assert news.content.startswith("Earlier, this could not be sent to you:")
        assert news.ephemeral_to is bot.ada
        assert server.in_place(server.channel) == []
        assert len(again.messages) == 1


async def test_closed_direct_messages_the_news_is_there_after_a_restart(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    ada = server.user("ada")
    ada.takes_dms = False
    async with running_bot(server, tmp_path, notes(oauth), ada=ada, store=FileStore(tmp_path)) as bot:
        (link,) = (await server.reading(await server.slash(ada, "auth"), "open this link")).links()
        server.clock.advance(15 * 60 + 1)
        await sign_in_at(link)
        await server.until(lambda: any("users/@me/channels" in one.path for one in server.requests))
        assert await bot.gateway.settled(5)
    server.sessions.clear()

    async with running_bot(server, tmp_path, notes(oauth), ada=ada, store=FileStore(tmp_path)):
        news = await server.reading(await server.slash(ada, "help"), "notes: signed in, 3 tools")

        assert news.content.startswith("Earlier, this could not be sent to you:")
        assert news.ephemeral_to is ada
        assert not list((tmp_path / "discord").glob("*.json"))


async def test_news_is_not_shown_to_who_was_shut_out_meanwhile(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        reply = Reply((Text("notes: signed in as ada@example.com"),), audience=Audience.CALLER)
        bot.eve.takes_dms = False
        await bot.adapter.notify(Notice(Principal("discord", str(bot.eve.id)), ChatRef("discord"), reply))
        bot.eve.takes_dms = True
        asked = await server.slash(bot.eve, "help")
        await server.reading(asked, "do not know you")
        # What would be shown comes right behind; by then another person is answered.
        for _ in range(2):
            await server.reading(await server.slash(bot.ada, "help"), "What /mcp can do")

        assert not [one for one in server.messages if "ada@example.com" in one.text]


async def test_a_form_takes_the_address_of_the_last_page(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    async with running_bot(server, tmp_path, notes(oauth)) as bot:
        asked = await server.slash(bot.ada, "auth")
        message = await server.reading(asked, "enter it with the button below")
        redirect = await asyncio.to_thread(authorize, message.links()[0])
        opened = await server.answered(await server.press(bot.ada, message, "Enter the address"))
        sent = await server.submit(opened, redirect)
        outcome = await server.reading(sent, "notes: signed in, 3 tools")

        assert types(opened, server) == ["callback 9"]
        assert types(sent, server)[:1] == ["callback 5"]
        assert outcome.ephemeral_to is bot.ada
        assert redirect not in repr([one.payloads for one in server.messages])


async def test_paste_is_a_form_and_never_an_option(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        opened = await server.answered(await server.slash(bot.ada, "paste"))
        sent = await server.submit(opened, "https://somewhere.example/?code=1&state=2")
        assert opened.modal is not None
        await server.reading(sent, "sign-in")


async def test_for_several_people_paste_is_refused_with_its_reason(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD, also=("discord:1",)) as bot:
        asked = await server.slash(bot.ada, "paste")
        await server.reading(asked, "more than one person")
        assert asked.modal is None


async def test_an_admin_lets_a_person_in_with_the_code_they_were_given(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD, identity="per_user", admins=True) as bot:
        told = await server.reading(await server.slash(bot.eve, "status"), "I do not know you yet")
        code = told.content.partition("this assistant: ")[2].partition(".")[0]
        await server.reading(await server.slash(bot.ada, "allow", code=code), str(bot.eve.id))
        await server.reading(await server.slash(bot.eve, "status"), "**dead**")


async def test_the_code_of_a_page_is_entered_into_a_form_and_the_page_goes_on(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    port = free_port()
    public = {"public_url": f"http://127.0.0.1:{port}", "callback": CallbackOptions(port=port)}
    async with running_bot(server, tmp_path, notes(oauth), also=("discord:1",), **public) as bot, Browser() as browser:
        asked = await server.slash(bot.ada, "auth", server="notes")
        board = await server.reading(asked, "enter it with the button below, or with </mcp confirm:")
        page = await browser.press(await browser.open(board.links()[0]))
        opened = await server.answered(await server.press(bot.ada, board, "Enter the code"))
        said = await server.reading(await server.submit(opened, page.code), "that is you")
        page = await browser.open(await browser.authorize(await browser.open(page.url)))
        await server.reading(asked, "notes: signed in, 3 tools")

        assert page.heading == "notes is connected"
        assert said.ephemeral_to is bot.ada
        assert server.in_place(server.channel) == []


# -- keys ------------------------------------------------------------------------------------


async def test_without_the_operators_word_no_key_goes_through_the_chat(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    async with running_bot(server, tmp_path, weather(oauth)) as bot:
        asked = await server.slash(bot.ada, "key", server="weather")
        message = await server.reading(asked, "Three ways")
        assert "gateway.discord.secrets\\_in\\_chat" in message.content
        assert asked.modal is None


async def test_a_key_is_entered_into_a_form_that_is_the_first_answer(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    async with running_bot(server, tmp_path, weather(oauth), platforms=IN_CHAT) as bot:
        opened = await server.answered(await server.slash(bot.ada, "key", server="weather"))
        assert opened.modal is not None
        assert opened.modal["title"] == "Key for weather"
        sent = await server.submit(opened, KEY)
        stored = await server.reading(sent, "the key works and is stored")

        assert types(opened, server) == ["callback 9"]
        assert types(sent, server) == ["callback 5", "PATCH @original"]
        assert stored.ephemeral_to is bot.ada
        assert KEY in (tmp_path / ".env").read_text()
        assert KEY not in repr([one.body for one in server.requests])


async def test_a_refused_key_is_asked_for_again_by_a_button(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    async with running_bot(server, tmp_path, weather(oauth), platforms=IN_CHAT) as bot:
        opened = await server.answered(await server.slash(bot.ada, "key", server="weather"))
        refused = await server.reading(await server.submit(opened, "wrong"), "refuses this key")
        again = await server.answered(await server.press(bot.ada, refused, "Enter the key"))
        await server.reading(await server.submit(again, KEY), "the key works and is stored")


async def test_two_keys_are_entered_one_after_the_other(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    oauth.knobs.api_key = KEY
    headers = {"Authorization": "Bearer ${WEATHER_KEY}", "X-Team": "${WEATHER_TEAM}"}
    both = Server(name="weather", url=oauth.url, headers=headers)
    async with running_bot(server, tmp_path, both, platforms=IN_CHAT) as bot:
        first = await server.answered(await server.slash(bot.ada, "key", server="weather"))
        asked = await server.reading(await server.submit(first, KEY), "weather needs WEATHER")
        second = await server.answered(await server.press(bot.ada, asked, "Enter the key"))
        await server.reading(await server.submit(second, "team-42"), "the key works and is stored")


async def test_a_form_that_comes_too_late_is_opened_by_a_button(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interactions, "_ACKNOWLEDGE_SECONDS", 0.05)
    async with running_bot(server, tmp_path, weather(oauth), platforms=IN_CHAT) as bot:
        real = bot.gateway.auth.key_variables

        async def slow(*given: Any, **named: Any) -> Any:
            await server.until(lambda: all(one.answer is not None for one in server.interactions.values()))
            return await real(*given, **named)

        monkeypatch.setattr(bot.gateway.auth, "key_variables", slow)
        asked = await server.slash(bot.ada, "key", server="weather")
        question = await server.reading(asked, "weather needs WEATHER")
        monkeypatch.undo()
        opened = await server.answered(await server.press(bot.ada, question, "Enter the key"))
        await server.reading(await server.submit(opened, KEY), "the key works and is stored")


async def test_a_question_that_is_over_says_so(server: DiscordServer, tmp_path: Path, oauth: OAuthServer) -> None:
    async with running_bot(server, tmp_path, weather(oauth), platforms=IN_CHAT) as bot:
        opened = await server.answered(await server.slash(bot.ada, "key", server="weather"))
        refused = await server.reading(await server.submit(opened, "wrong"), "refuses this key")
        server.clock.advance(601)
        await server.reading(await server.press(bot.ada, refused, "Enter the key"), "This question is over")


async def test_the_host_s_listeners_do_not_see_what_was_entered(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    seen: list[str] = []
    async with running_bot(server, tmp_path, weather(oauth), platforms=IN_CHAT) as bot:

        async def on_interaction(interaction: discord.Interaction) -> None:
            seen.append(repr(interaction.data))

        bot.client.event(on_interaction)
        opened = await server.answered(await server.slash(bot.ada, "key", server="weather"))
        await server.reading(await server.submit(opened, KEY), "the key works")
        assert len(seen) == 2
        assert KEY not in repr(seen)


async def test_a_key_button_of_the_checklist_opens_the_form(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    async with running_bot(server, tmp_path, weather(oauth), platforms=IN_CHAT) as bot:
        asked = await server.slash(bot.ada, "auth")
        board = await server.reading(asked, "needs a key")
        opened = await server.answered(await server.press(bot.ada, board, "Enter the key for weather"))
        await server.reading(await server.submit(opened, KEY), "the key works")
        await server.until(lambda: "key stored" in board.text)


# -- presses ---------------------------------------------------------------------------------


async def test_a_press_answers_in_a_message_of_its_own(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        asked = await server.slash(bot.ada, "status")
        listed = await server.reading(asked, "sign-in needed")
        pressed = await server.press(bot.ada, listed, "Sign in")
        await server.reading(pressed, "cannot be reached")

        assert "sign-in needed" in listed.text


async def test_a_button_of_somebody_else_is_refused(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD, also=("discord:1",)) as bot:
        await server.say(bot.ada, "@bot mcp")
        listed = await server.posted(server.channel, "sign-in needed")
        pressed = await server.press(bot.eve, listed, "Sign in")
        refused = await server.reading(pressed, "made for somebody else")

        assert refused.ephemeral_to is bot.eve
        assert len(pressed.messages) == 1


async def test_a_button_works_after_a_restart(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path / "a", DEAD) as bot:
        ada = bot.ada
        await server.say(ada, "@bot mcp", server.dm(ada))
        listed = await server.posted(server.dm(ada), "sign-in needed")
    async with running_bot(server, tmp_path / "b", DEAD, also=(f"discord:{ada.id}",)):
        await server.reading(await server.press(ada, listed, "Sign in"), "dead")


async def test_a_button_for_a_server_that_is_gone_says_so(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path / "a", DEAD) as bot:
        ada = bot.ada
        asked = await server.slash(ada, "auth")
        board = await server.reading(asked, "cannot be reached")
    other = replace_name(DEAD, "other")
    async with running_bot(server, tmp_path / "b", other, also=(f"discord:{ada.id}",)):
        await server.reading(
            await server.press(ada, board, "Try dead again"), "This button leads nowhere any more. Ask again: "
        )


# -- text ------------------------------------------------------------------------------------


async def test_the_bare_form_is_a_mention(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        await server.say(bot.ada, "@bot mcp")
        message = await server.posted(server.channel, "sign-in needed")
        assert message.payloads[0]["allowed_mentions"] == {"parse": []}
        assert message.payloads[0]["flags"] == 4


async def test_a_link_asked_for_in_a_channel_goes_into_the_direct_messages(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    async with running_bot(server, tmp_path, notes(oauth)) as bot:
        await server.say(bot.ada, "@bot /mcp auth notes")
        sent = await server.posted(server.dm(bot.ada), "open this link")
        await server.posted(server.channel, "Sent you the answer in private.")
        await sign_in_at(sent.links()[0])
        await server.posted(server.channel, "notes: signed in.")
        await server.until(lambda: "signed in, 3 tools" in sent.text)

        assert all(one.links() == [] for one in server.in_place(server.channel))


async def test_closed_direct_messages_the_channel_reads_how_and_nothing_else(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    async with running_bot(server, tmp_path, notes(oauth)) as bot:
        bot.ada.takes_dms = False
        await server.say(bot.ada, "@bot mcp auth")
        await server.posted(server.channel, "here, where only you see what it answers.")
        # What is said next comes after all that was still on its way.
        await server.say(bot.ada, "@bot mcp help")
        await server.posted(server.channel, "What /mcp can do")
        assert all(one.links() == [] for one in server.in_place(server.channel))


async def test_where_the_bot_may_not_write_the_answer_is_a_direct_message(
    server: DiscordServer, tmp_path: Path
) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        server.fail("POST /channels", status=403, body={"message": "Missing Permissions", "code": 50013})
        await server.say(bot.ada, "@bot mcp help")
        await server.posted(server.dm(bot.ada), "What /mcp can do")


async def test_direct_messages_need_no_mention_and_take_the_bare_address(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    async with running_bot(server, tmp_path, notes(oauth)) as bot:
        dm = server.dm(bot.ada)
        await server.say(bot.ada, "!mcp auth", dm)
        sent = await server.posted(dm, "open this link")
        await server.say(bot.ada, await asyncio.to_thread(authorize, sent.links()[0]), dm)
        await server.posted(dm, "notes: signed in, 3 tools")


@pytest.mark.parametrize("members", [{}, {"webhook_id": "1234"}], ids=["bot", "webhook"])
async def test_bots_and_webhooks_are_not_heard(server: DiscordServer, tmp_path: Path, members: dict[str, str]) -> None:
    async with running_bot(server, tmp_path, DEAD, also=("discord:1",)) as bot:
        speaker = server.user("ada2", bot=True) if not members else bot.ada
        await server.say(speaker, "@bot mcp", **members)
        await server.say(bot.ada, "@bot mcp help")
        await server.posted(server.channel, "What /mcp can do")
        assert len(server.in_place(server.channel)) == 1


async def test_what_is_not_ours_is_left_alone(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        for text in ("hello", "@bot hello", "mcp", "@bot mcpx"):
            await server.say(bot.ada, text)
        for text in ("https://elsewhere.example/?code=1&state=2", "mcp is broken", "!mcpx"):
            await server.say(bot.ada, text, server.dm(bot.ada))
        await server.say(bot.ada, "@bot mcp help")
        await server.posted(server.channel, "What /mcp can do")
        assert len(server.in_place(server.channel)) == 1
        assert server.in_place(server.dm(bot.ada)) == []


# -- trouble ---------------------------------------------------------------------------------


async def test_a_rate_limit_is_waited_for(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        server.rate_limit("POST /interactions/.*/callback", 0.05)
        await server.reading(await server.slash(bot.ada, "help"), "What /mcp can do")
        server.rate_limit("POST /channels/.*/messages", 0.05, times=2)
        await server.say(bot.ada, "@bot mcp help")
        await server.posted(server.channel, "What /mcp can do")


async def test_a_broken_connection_is_tried_again(
    server: DiscordServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiscordAdapter, "pauses", (0.01, 0.01))
    async with running_bot(server, tmp_path, DEAD) as bot:
        server.fail("POST /interactions/.*/callback")
        asked = await server.slash(bot.ada, "help")
        await server.reading(asked, "What /mcp can do")
        server.fail("POST /channels/.*/messages")
        await server.say(bot.ada, "@bot mcp help")
        await server.posted(server.channel, "What /mcp can do")
        assert len(asked.messages) == 1


async def test_an_answer_that_was_taken_before_the_connection_broke_is_not_sent_twice(
    server: DiscordServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiscordAdapter, "pauses", (0.01, 0.01))
    async with running_bot(server, tmp_path, DEAD) as bot:
        server.fail("POST /interactions/.*/callback", before=False)
        asked = await server.slash(bot.ada, "help")
        await server.until(lambda: "PATCH @original" in types(asked, server))
        assert [one.text.splitlines()[0] for one in asked.messages] == ["**What /mcp can do**"]
        (refused,) = server.violations
        assert "already been acknowledged" in refused
        server.violations.clear()


async def test_discord_out_of_reach_costs_one_line_in_the_log_and_nothing_else(
    server: DiscordServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(DiscordAdapter, "pauses", (0.01, 0.01))
    async with running_bot(server, tmp_path, DEAD) as bot:
        server.fail("POST /interactions", times=3)
        with caplog.at_level(logging.WARNING):
            await server.slash(bot.ada, "help")
            await server.until(lambda: not server.faults)
            await server.reading(await server.slash(bot.ada, "help"), "What /mcp can do")
        (line,) = [one.getMessage() for one in caplog.records if one.name.startswith(("adapters", "gateway"))]
        assert line.startswith(
            f"Discord: an answer to discord:{bot.ada.id} was not delivered: Discord cannot be reached"
        )


async def test_an_interaction_that_is_over_is_answered_in_the_direct_messages(
    server: DiscordServer, tmp_path: Path
) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        server.fail("POST /interactions", status=404, body={"message": "Unknown interaction", "code": 10062})
        await server.slash(bot.ada, "help")
        await server.posted(server.dm(bot.ada), "What /mcp can do")
        assert server.in_place(server.channel) == []


async def test_a_revoked_token_is_one_line_in_the_log(
    server: DiscordServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        server.fail("POST /channels", status=401, body={"message": "401: Unauthorized", "code": 0})
        with caplog.at_level(logging.WARNING):
            await server.say(bot.ada, "@bot mcp help")
            await server.until(lambda: not server.faults)
            await server.say(bot.ada, "@bot mcp help")
            await server.posted(server.channel, "What /mcp can do")
        (line,) = [one.getMessage() for one in caplog.records if one.name.startswith(("adapters", "gateway"))]
        assert f"an answer to discord:{bot.ada.id} was refused: HTTP 401, code 0" in line


async def test_an_answer_that_discord_refuses_is_replaced_by_a_sentence_with_its_reference(
    server: DiscordServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        server.fail("POST /interactions", status=400, body={"message": "Invalid Form Body", "code": 50035})
        said = await server.reading(await server.slash(bot.ada, "help"), "Something went wrong inside")
        reference = said.content.rpartition("under ")[2].rstrip(".")
        assert reference in caplog.text


async def test_a_lost_connection_is_resumed_and_nothing_is_lost(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        await server.cut_connections()
        asked = await server.slash(bot.ada, "help")
        await server.connected()
        await server.reading(asked, "What /mcp can do")
        assert server.connections == 2
        assert len(server.sessions) == 1


async def test_a_lost_session_is_begun_anew(
    server: DiscordServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(shard_id: int | None, *, initial: bool = False) -> None:
        """The library waits five seconds before it identifies again."""

    async with running_bot(server, tmp_path, DEAD) as bot:
        monkeypatch.setattr(bot.client, "before_identify_hook", at_once)
        await server.cut_connections(forget=True, code=4009)
        await server.connected()
        await server.reading(await server.slash(bot.ada, "help"), "What /mcp can do")


# -- secrets ---------------------------------------------------------------------------------


async def test_no_log_holds_a_token_a_link_or_a_key(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer, caplog: pytest.LogCaptureFixture
) -> None:
    signed = OAuthServer()
    with signed.running(), caplog.at_level(logging.DEBUG):
        async with running_bot(server, tmp_path, weather(oauth), notes(signed), platforms=IN_CHAT) as bot:
            for name in [one for one in logging.root.manager.loggerDict if one.startswith("discord")]:
                caplog.set_level(logging.DEBUG, name)
            opened = await server.answered(await server.slash(bot.ada, "key", server="weather"))
            await server.reading(await server.submit(opened, KEY), "the key works")
            asked = await server.slash(bot.ada, "auth", server="notes")
            (link,) = (await server.reading(asked, "open this link")).links()
            await sign_in_at(link)
            await server.reading(asked, "signed in, 3 tools")
            secrets = [KEY, link, server.token, *(one.token for one in server.interactions.values())]
    # The browser of this test is not part of it.
    ours = ("adapters", "gateway", "mcp_auth", "discord")
    records = [one for one in caplog.records if one.name.startswith(ours)]
    text = "".join(f"{one.getMessage()} {one.__dict__}" for one in records)
    assert [secret for secret in secrets if secret in text] == []
