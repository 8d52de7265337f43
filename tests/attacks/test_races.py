"""Two things in the same moment: whatever comes first counts, and the other is told what is true."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway.invocations import Principal
from mcp_auth import McpAuth
from mcp_auth.errors import CodeRejected
from mcp_auth.keys import KeyTrial
from mcp_auth.links.codes import CODE_ATTEMPTS
from mcp_auth.records import Requester, SignIn
from tests.attacks.scene import KEY, api, notes
from tests.browser import Browser
from tests.gateway.chat import Chat, words
from tests.homes import Clock, write_home
from tests.public import ANN, allow, key_link_of, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer

CAROL = Principal("telegram", "300003")


async def test_a_code_that_is_sent_twice_at_once_is_right_twice(tmp_path: Path, oauth: OAuthServer) -> None:
    """The button is tapped twice: neither answer may say that something is wrong."""
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as browser:
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        together = asyncio.Barrier(2)
        counted = gateway.auth.parts.codes._count_attempt

        async def side_by_side(record: Any) -> Any:
            await together.wait()
            one = await counted(record)
            await together.wait()
            return one

        gateway.auth.parts.codes._count_attempt = side_by_side  # type: ignore[method-assign]
        answers = await asyncio.gather(*(gateway.auth.confirm(page.code, str(ANN), private=True) for _ in range(2)))

        assert [answer.status for answer in answers] == ["confirmed", "confirmed"]
        assert (await browser.open(page.url)).next is not None


async def test_a_code_that_is_sent_again_while_the_page_goes_on_is_not_called_the_fifth_wrong_one(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as browser:
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        key_forms = gateway.auth.store.key_forms
        stored = key_forms.open

        # The last look before the code is compared.
        async def overtaken(**query: Any) -> Any:
            found = await stored(**query)
            if query.get("principal") is not None:
                key_forms.open = stored  # type: ignore[method-assign]
                await gateway.auth.confirm(page.code, str(ANN), private=True)
            return found

        key_forms.open = overtaken  # type: ignore[method-assign]
        with pytest.raises(CodeRejected, match="No page of yours waits"):
            await gateway.auth.confirm(page.code, str(ANN), private=True)

        assert (await browser.open(page.url)).next is not None


async def test_the_right_codes_of_many_pages_cost_none_of_them_a_try(tmp_path: Path, oauth: OAuthServer) -> None:
    """`/mcp auth` begins a sign-in at every server, and each page shows a code of its own."""
    names = [f"notes{number}" for number in range(CODE_ATTEMPTS + 2)]
    servers = [notes(oauth, name) for name in names]
    async with public_gateway(tmp_path, *servers, **team()) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        pages = [await browser.press(await browser.open(await link_of(chat, name))) for name in names]

        for name, page in zip(names, pages, strict=True):
            assert words((await chat.say(f"confirm {page.code}"))[0]).startswith(f"{name}: that is you.")


async def test_a_right_code_gives_no_guess_back(tmp_path: Path, oauth: OAuthServer) -> None:
    """The sender's own page must not be a way to guess on at the victim's."""
    async with (
        public_gateway(tmp_path, notes(oauth), notes(oauth, "mail"), **team()) as gateway,
        Browser() as victim,
        Browser() as sender,
    ):
        chat = Chat(gateway, ANN)
        page = await victim.press(await victim.open(await link_of(chat)))
        for _ in range(CODE_ATTEMPTS - 1):
            await chat.say("confirm ACDE-FGHJ")
        # Begun after the guesses, so that they did not count there
        own = await sender.press(await sender.open(await link_of(chat, "mail")))
        assert (await chat.say(f"confirm {own.code}"))[0].ok

        assert "fifth wrong code" in words((await chat.say("confirm ACDE-FGHJ"))[0])

        assert (await victim.open(page.url)).heading == "notes is not connected"


async def test_a_link_that_expires_while_its_code_is_confirmed_leads_nowhere(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    clock = Clock()
    async with public_gateway(tmp_path, notes(oauth), verify="code", clock=clock) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        start = await browser.open(await link_of(chat))
        clock.ahead = 400
        page = await browser.press(start)
        clock.ahead = 599.5
        assert (await chat.say(f"confirm {page.code}"))[0].ok
        redirect = await browser.authorize(await browser.open(page.url))
        clock.ahead = 601

        for url in (redirect, page.url):
            assert (await browser.open(url)).heading == "This link has expired"
        assert oauth.requests("/token") == []


@pytest.mark.parametrize("typed", ["cancel notes", "cancel", "logout notes"])
async def test_what_is_being_exchanged_is_not_said_to_be_closed(tmp_path: Path, oauth: OAuthServer, typed: str) -> None:
    """Nobody may go away with the word that nothing is open, and be connected a second later."""
    exchanged = oauth.knobs.token_gate = threading.Event()
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        redirect = await browser.authorize(await browser.press(await browser.open(await link_of(chat))))
        answer = asyncio.create_task(browser.open(redirect))
        while not oauth.requests("/token"):
            await asyncio.sleep(0.005)

        reply = (await chat.say(typed))[-1]

        exchanged.set()
        assert not reply.ok
        assert "notes is being signed in right now. Next: wait a moment" in words(reply)
        assert (await answer).heading == "notes is connected"
        assert "signed out" in words((await chat.say("logout notes"))[-1])


async def test_a_person_shut_out_during_the_exchange_has_nothing_to_use(tmp_path: Path, oauth: OAuthServer) -> None:
    exchanged = oauth.knobs.token_gate = threading.Event()
    async with public_gateway(tmp_path, notes(oauth), identity="per_user") as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        redirect = await browser.authorize(await browser.press(await browser.open(await link_of(chat))))
        answer = asyncio.create_task(browser.open(redirect))
        while not oauth.requests("/token"):
            await asyncio.sleep(0.005)
        await allow(gateway, CAROL)
        exchanged.set()
        await answer

        for typed in ("", "notes", "test notes", "auth notes"):
            said = "".join(words(reply) for reply in await chat.say(typed))
            assert "notes" not in said
        mail = Chat(gateway, CAROL)
        assert "signed in" not in words((await mail.say("notes"))[-1])


async def test_a_key_that_is_sent_twice_at_once_is_stored_once_and_said_twice(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    """A browser shows the answer to its last request: a double tap must not end on a page of trouble."""
    async with public_gateway(tmp_path, api(oauth)) as gateway, Browser() as browser:
        form = await browser.press(await browser.open(await key_link_of(Chat(gateway, ANN))))
        together = asyncio.Barrier(3)
        asked = gateway.auth.parts.keys.attempt

        async def side_by_side(*arguments: Any, **options: Any) -> KeyTrial:
            trial = await asked(*arguments, **options)
            await together.wait()
            return trial

        gateway.auth.parts.keys.attempt = side_by_side  # type: ignore[method-assign]
        pages = await asyncio.gather(*(browser.press(form, "key", key0=KEY) for _ in range(3)))

        assert {page.heading for page in pages} <= {"The key for my-api is stored", "Storing the key"}
        assert (await browser.open(form.url)).heading == "The key for my-api is stored"
        changes = [line for line in gateway.auth.audit.lines() if line.what == "key_set"]
        assert len(changes) == 1


async def test_a_form_cancelled_while_its_key_is_tried_stores_nothing_and_says_so(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with public_gateway(tmp_path, api(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        form = await browser.press(await browser.open(await key_link_of(chat)))
        asked = gateway.auth.parts.keys.attempt

        async def cancelled(*arguments: Any, **options: Any) -> KeyTrial:
            trial = await asked(*arguments, **options)
            await chat.say("cancel my-api")
            return trial

        gateway.auth.parts.keys.attempt = cancelled  # type: ignore[method-assign]
        page = await browser.press(form, "key", key0=KEY)

        assert page.heading == "This was cancelled"
        assert not gateway.config.env_file.exists()


async def test_a_cancel_in_the_moment_of_continue_is_not_lost(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        start = await browser.open(await link_of(chat))
        put = gateway.auth.store.sign_ins.put_if
        raced: list[str] = []

        async def overtaken(record: SignIn) -> SignIn | None:
            if record.status == "cancelled" and not raced:
                raced.append("continue")
                await browser.press(start)
            return await put(record)

        gateway.auth.store.sign_ins.put_if = overtaken  # type: ignore[method-assign]
        reply = (await chat.say("cancel notes"))[-1]

        assert raced
        assert "Cancelled: notes" in words(reply)
        assert (await browser.open(start.url)).heading == "This was cancelled"


async def test_two_replicas_that_get_the_same_answer_code_and_continue_at_once(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    """Behind a load balancer one browser's requests go here and there; only the store is common."""
    home = write_home(
        tmp_path,
        {"notes": {"url": oauth.url, "auth": "oauth"}},
        {"public_url": "https://bot.example.com", "allow": [str(ANN)], "verify": "code"},
    )
    async with McpAuth.open(home=home) as one, McpAuth.open(home=home) as two:
        apps = [one.asgi_app(), two.asgi_app()]
        async with Browser(apps[0]) as here, Browser(apps[1]) as there:
            link = (await one.sign_in("notes", "shared", Requester(principal=str(ANN)))).link
            start = await here.open(link)
            there.client.cookies.update(here.client.cookies)
            # One browser has one storage, whichever replica answers it.
            there.storage = here.storage
            first, second = await asyncio.gather(here.press(start), there.press(start))
            assert first.code == second.code

            said = await asyncio.gather(
                *(auth.confirm(first.code, str(ANN), private=True) for auth in (one, two)), return_exceptions=True
            )
            confirmed = [one for one in said if not isinstance(one, CodeRejected)]
            assert {sign_in.status for sign_in in confirmed if isinstance(sign_in, SignIn)} == {"confirmed"}
            assert all("No page of yours waits" in str(one) for one in said if one not in confirmed)
            go, again = await here.open(link), await there.open(link)
            assert go.next == again.next
            redirect = await here.authorize(go)

            pages = await asyncio.gather(*(browser.open(redirect) for browser in (here, there) * 3))

            assert {page.heading for page in pages} <= {"notes is connected", "Finishing the sign-in"}
            assert len(oauth.requests("/token")) == 1
            assert (await there.open(redirect)).heading == "notes is connected"
