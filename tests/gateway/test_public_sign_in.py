"""Sign-ins over the public endpoint: from a chat message to the tool call, with the same-person proof."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.layout import lay_out
from adapters.telegram.login import TelegramLogin
from gateway.invocations import Capabilities, Principal
from gateway.replies import Audience, ItemState
from gateway.sentences import happened
from mcp_auth.audit import Event
from mcp_auth.config.models import CallbackOptions, OAuthOptions, Server
from mcp_auth.status import AuthState
from mcp_auth.stores.memory import MemoryStore
from tests.browser import Browser
from tests.gateway.chat import Chat, configure, item, open_gateway, words
from tests.homes import Clock, query_of
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.public import ANN, BOB, Session, allow, link_of, proven, public_gateway, team
from tests.servers.oauth import OAuthServer


def notes(oauth: OAuthServer, **options: object) -> Server:
    return Server(name="notes", url=oauth.url, auth="oauth", oauth=OAuthOptions(**options))  # type: ignore[arg-type]


def named(oauth: OAuthServer, name: str) -> Server:
    return Server(name=name, url=oauth.url, auth="oauth")


async def test_one_person_signs_in_from_a_chat_and_the_agent_calls_a_tool(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.id_token_claims = {"email": "ada@example.com"}
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        last = (await chat.say("auth notes"))[-1]
        link = item(last, "notes").link
        assert link is not None
        assert link.startswith(f"{gateway.config.gateway.public_url}/a/")
        assert "last page will not load" not in words(last)

        page = await browser.sign_in(link)

        assert page.heading == "notes is connected"
        assert "ada@example.com" in page.text
        assert "Tools 3" in page.text
        await chat.notice("notes: signed in as ada@example.com, 3 tools")
        assert item((await chat.edit("signed in")).reply, "notes").state is ItemState.DONE
        async with gateway.auth.session("notes") as session:
            assert (await session.call_tool("add", {})).is_error is not True


async def test_the_last_page_names_the_account_and_not_what_its_owner_calls_themselves(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    """Whoever forwards a link could name themselves as the person who opens it does."""
    oauth.knobs.id_token_claims = {"name": "Ann Example", "sub": "mallory-17"}
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        page = await browser.sign_in(await link_of(Chat(gateway, ANN)))
        assert "Connected as mallory-17" in page.text
        assert "Ann Example" not in page.text.partition("Connected as")[2]


async def test_several_people_prove_by_code_and_the_page_goes_on_by_itself(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        last = (await chat.say("auth notes"))[-1]
        assert "shows a code" in words(last)
        page = await browser.press(await browser.open(item(last, "notes").link or ""))
        assert page.heading == "Is it you?"
        assert page.next is None
        assert oauth.requests("/authorize") == []
        assert (await browser.open(page.url)).code == page.code

        (reply,) = await chat.say(f"confirm {page.code}")

        assert words(reply) == "notes: that is you. The page goes on by itself."
        assert reply.audience is Audience.CALLER
        page = await browser.open(await browser.authorize(await browser.open(page.url)))
        assert page.heading == "notes is connected"
        await chat.notice("notes: signed in")
        owner = f"principal:{ANN}"
        assert (await gateway.auth.status("notes", owner)).auth is AuthState.SIGNED_IN
        assert (await gateway.auth.status("notes", f"principal:{BOB}")).auth is AuthState.SIGN_IN_NEEDED


async def test_the_code_is_taken_in_any_spelling(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await link_of(chat)))

        (reply,) = await chat.say(f"confirm {page.code.lower().replace('-', ' ')}")

        assert "that is you" in words(reply)


async def test_the_chat_names_the_host_that_the_browser_goes_to(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.metadata["authorization_endpoint"] = f"http://login.localhost:{oauth.port}/authorize"
    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        last = (await Chat(gateway, ANN).say("auth notes"))[-1]
        said = item(last, "notes").text
    assert said.endswith("and sign in at login.localhost (access is issued by 127.0.0.1)")


async def test_asking_again_gives_a_new_link_and_earlier_ones_work_until_one_is_opened(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway:
        chat = Chat(gateway, ANN)
        first, second = await link_of(chat), await link_of(chat)
        assert first != second
        async with Browser() as browser, Browser() as other:
            assert (await other.open(second)).heading == "Sign in to notes"
            page = await browser.press(await browser.open(first))
            assert page.heading == "Is it you?"
            assert (await other.open(second)).status == 404
            assert (await other.open(first)).heading == "This goes on in another browser"


async def test_a_new_link_moves_the_sign_in_to_another_browser(tmp_path: Path, oauth: OAuthServer) -> None:
    """An in-app browser that an identity provider refuses must not cost ten minutes."""
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as inside, Browser() as real:
        chat = Chat(gateway, ANN)
        page = await inside.press(await inside.open(await link_of(chat)))
        abandoned = await inside.authorize(page)

        done = await real.sign_in(await link_of(chat))

        assert done.heading == "notes is connected"
        assert (await inside.open(abandoned)).status in (400, 403)


async def test_a_page_shows_a_new_code_when_the_old_one_is_over(tmp_path: Path, oauth: OAuthServer) -> None:
    clock = Clock()
    async with public_gateway(tmp_path, notes(oauth), verify="code", clock=clock) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await link_of(chat)))
        old = page.code
        clock.ahead = 301
        assert "older than five minutes" in words((await chat.say(f"confirm {old}"))[0])
        page = await browser.open(page.url)
        assert old not in page.text

        page = await browser.press(page, "code")

        assert page.code != old
        assert "that is you" in words((await chat.say(f"confirm {page.code}"))[0])


async def test_a_second_person_allowed_meanwhile_asks_for_the_proof_at_the_end(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with public_gateway(tmp_path, notes(oauth), identity="per_user") as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        redirect = await browser.authorize(await browser.press(await browser.open(await link_of(chat))))
        await allow(gateway, ANN, BOB)

        page = await browser.open(redirect)

        assert page.heading == "notes is not connected"
        assert oauth.requests("/token") == []
        await chat.notice("By now it has to be proven")


async def test_a_person_removed_meanwhile_ends_with_nothing(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), identity="per_user") as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        redirect = await browser.authorize(await browser.press(await browser.open(await link_of(chat))))
        await allow(gateway, BOB)

        page = await browser.open(redirect)

        assert page.heading == "notes is not connected"
        assert "may no longer do this" in page.text
        assert oauth.requests("/token") == []


async def test_after_a_restart_the_page_goes_on_and_the_checklist_offers_a_new_link(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    """Of a link only the hash is stored, so an edited checklist cannot repeat it: it says what is true instead."""
    lasting = Capabilities(edit_window=None, secret_input=True)
    store, port = MemoryStore(), free_port()
    options: dict[str, Any] = {"callback": CallbackOptions(port=port), "public_url": f"http://127.0.0.1:{port}"}
    options["verify"] = "none"
    config = configure(tmp_path, notes(oauth), named(oauth, "mail"), named(oauth, "wiki"), allow=(str(ANN),), **options)
    async with Browser() as browser, Browser() as other:
        async with open_gateway(config, store) as first:
            begun = (await Chat(first, ANN, capabilities=lasting).say("auth"))[-1]
            start = await browser.open(item(begun, "mail").link or "")
        async with open_gateway(config, store) as second:
            await second.auth.listen()
            chat = Chat(second, ANN, capabilities=lasting)
            await browser.sign_in(item(begun, "notes").link or "")
            edit = (await chat.edit("notes: signed in")).reply

            for server in ("mail", "wiki"):
                assert item(edit, server).state is ItemState.LINK
                assert item(edit, server).link is None
                assert (
                    item(edit, server).text == "open for 10 minutes; a page you have open goes on, or take a new link"
                )
                assert item(edit, server).command == f"auth {server}"
            shown = lay_out(edit, now=0.0)
            assert [(one.label, one.command) for one in shown.buttons] == [
                ("Sign in to mail", "auth mail"),
                ("Sign in to wiki", "auth wiki"),
            ]
            redirect = await browser.authorize(await browser.press(start))
            assert (await browser.open(redirect)).heading == "mail is connected"
            assert (await other.open(item(begun, "wiki").link or "")).heading == "Sign in to wiki"
            assert (await other.sign_in(await link_of(chat, "wiki"))).heading == "wiki is connected"


@pytest.mark.parametrize("said", ["ACDE-FGHJ", "hello", "", "1" * 5000])
async def test_a_code_without_a_page_is_answered(tmp_path: Path, oauth: OAuthServer, said: str) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        (reply,) = await Chat(gateway, ANN).say(f"confirm {said}")
        assert not reply.ok


async def test_the_terminal_keeps_its_loopback_link(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        assert (await link_of(Chat(gateway))).startswith(f"{oauth.origin}/authorize")


async def test_a_client_registered_by_hand_uses_the_public_address_in_the_terminal_too(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with public_gateway(tmp_path, notes(oauth, client_id="by-hand")) as gateway, Browser() as browser:
        link = await link_of(Chat(gateway))
        assert "/a/" in link
        assert (await browser.sign_in(link)).heading == "notes is connected"


async def test_nothing_of_the_pages_stands_in_the_log(
    tmp_path: Path, oauth: OAuthServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    for name in ("httpx2", "httpcore2"):
        # The browser of this test is a client that logs what it does.
        caplog.set_level("WARNING", name)
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        link = await link_of(chat)
        page = await browser.press(await browser.open(link))
        await chat.say(f"confirm {page.code}")
        redirect = await browser.authorize(await browser.open(page.url))
        await browser.open(redirect)
        secrets = [link.rpartition("/")[2], page.code, page.code.replace("-", ""), *query_of(redirect).values()]
        secrets += [value for value in browser.client.cookies.values() if value]
        await chat.notice("notes: signed in")
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert [secret for secret in secrets if secret in said and secret != oauth.issuer] == []


class TestAnnouncements:
    """Every new connection is news to its owner, wherever it was made."""

    async def test_in_a_group_the_owner_hears_the_account_in_private(self, tmp_path: Path, oauth: OAuthServer) -> None:
        oauth.knobs.id_token_claims = {"email": "ada@example.com"}
        async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
            group = Chat(gateway, ANN, private=False)
            page = await browser.press(await browser.open(await link_of(group)))
            await Chat(gateway, ANN).say(f"confirm {page.code}")
            await browser.open(await browser.authorize(await browser.open(page.url)))

            private = await group.notice("ada@example.com")

            assert private.reply.audience is Audience.CALLER
            public = [one for one in group.notices if one.reply.audience is Audience.CHAT and one.message is None]
            assert [words(one.reply) for one in public] == ["notes: signed in."]

    async def test_a_persons_other_accounts_hear_of_it(self, tmp_path: Path, oauth: OAuthServer) -> None:
        discord = Principal("discord", "42")
        both = {"allow": (str(ANN), str(discord)), "people": {"ann": (str(ANN), str(discord))}}
        async with public_gateway(tmp_path, notes(oauth), identity="per_user", **both) as gateway, Browser() as browser:
            elsewhere = Chat(gateway, discord)
            chat = Chat(gateway, ANN)
            await browser.open(await browser.authorize(await proven(chat, browser, await link_of(chat))))

            notice = await elsewhere.notice("notes: signed in")

            assert notice.principal == discord
            assert notice.reply.audience is Audience.CALLER
            assert "If that is wrong: /mcp logout" in words(notice.reply)

    async def test_the_operator_who_acts_for_somebody_does_not_do_so_unseen(
        self, tmp_path: Path, oauth: OAuthServer
    ) -> None:
        from tests.servers.oauth import authorize

        async with public_gateway(tmp_path, notes(oauth), **team()) as gateway:
            ann = Chat(gateway, ANN)
            operator = Chat(gateway)
            invocation = replace(operator.invocation("auth notes"), acting_for=str(ANN))
            last = [reply async for reply in gateway.handle(invocation, operator.capabilities)][-1]
            redirect = await asyncio.to_thread(authorize, item(last, "notes").link or "")
            async with Browser() as browser:
                await browser.open(redirect)

            assert "notes: signed in" in words((await ann.notice("notes: signed in")).reply)

    async def test_the_admins_hear_of_a_new_shared_connection(self, tmp_path: Path, oauth: OAuthServer) -> None:
        both = {"allow": (str(ANN), str(BOB)), "admins": (str(ANN), str(BOB))}
        async with public_gateway(tmp_path, notes(oauth), **both) as gateway, Browser() as browser:
            ann, bob = Chat(gateway, ANN), Chat(gateway, BOB)
            page = await browser.press(await browser.open(await link_of(ann)))
            await ann.say(f"confirm {page.code}")
            await browser.open(await browser.authorize(await browser.open(page.url)))

            await ann.notice("notes: signed in")
            async with asyncio.timeout(PATIENCE):
                while not any(one.principal == BOB for one in bob.notices):
                    await asyncio.sleep(0.01)


async def test_from_where_and_in_which_browser_a_link_was_continued_is_recorded(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        (line,) = [one for one in gateway.auth.audit.lines() if one.what is Event.LINK_CONTINUED]
        assert (line.whom, line.server, line.address) == (str(ANN), "notes", "127.0.0.1")
        assert line.browser and line.ticket
        assert "127.0.0.1" in happened(line) and line.browser in happened(line)


async def test_who_logs_in_to_the_application_after_all_keeps_the_newer_link(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    """Continue in a second tab: the browser is bound already, so its proof is taken and nothing else begins anew."""
    session = Session(None)
    async with (
        public_gateway(tmp_path, notes(oauth), **team(verify="browser")) as gateway,
        Browser() as browser,
        Browser() as other,
    ):
        gateway.verify_by_login("telegram", TelegramLogin("1:token"))
        gateway.verify_browser(session)
        chat = Chat(gateway, ANN)
        start = await browser.open(await link_of(chat))
        assert (await browser.press(start)).next is None
        newer = await link_of(chat)
        session.principal = ANN

        page = await browser.press(start)

        assert page.next is not None
        assert "Continue" in (await other.open(newer)).text
        assert (await browser.open(await browser.authorize(page))).heading == "notes is connected"


@pytest.mark.parametrize("first", [ANN, BOB], ids=["own", "somebody-elses"])
async def test_what_a_command_ends_is_told_by_its_reply_alone_whoever_else_is_signing_in(
    tmp_path: Path, oauth: OAuthServer, first: Principal
) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway:
        ann, bob = Chat(gateway, ANN), Chat(gateway, BOB)
        for chat in (ann, bob) if first == ANN else (bob, ann):
            await link_of(chat)

        (reply,) = await ann.say("cancel notes")
        await bob.say("cancel notes")
        assert await gateway.settled(PATIENCE)

        assert "notes" in words(reply) and reply.ok
        # Edits of the checklists, and no message
        assert [one.message for one in (*ann.notices, *bob.notices) if one.message is None] == []


async def test_the_right_code_of_one_page_is_no_guess_at_the_others(tmp_path: Path, oauth: OAuthServer) -> None:
    names = [f"notes{number}" for number in range(7)]
    servers = [named(oauth, name) for name in names]
    async with public_gateway(tmp_path, *servers, **team()) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        pages = [await browser.press(await browser.open(await link_of(chat, name))) for name in names]
        for page in pages:
            assert (await chat.say(f"confirm {page.code}"))[0].ok
