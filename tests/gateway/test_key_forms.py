"""API keys typed into a page of ours instead of a chat."""

from __future__ import annotations

from pathlib import Path

from dotenv import dotenv_values
from msgspec.structs import replace

from gateway.replies import Audience
from mcp_auth.config.models import Server
from mcp_auth.status import AuthState
from tests.browser import Browser
from tests.gateway.chat import Chat, item, words
from tests.homes import Clock
from tests.public import ANN, BOB, key_link_of, public_gateway, team, url_of
from tests.servers.oauth import OAuthServer

KEY = "sk-canary-0123456789"


def api(oauth: OAuthServer) -> Server:
    oauth.knobs.api_key = KEY
    return Server(name="my-api", url=oauth.url, headers={"Authorization": "Bearer ${MY_API_KEY}"})


async def test_a_key_is_typed_into_a_page_tried_and_stored(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, api(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        (reply,) = await chat.say("key my-api")
        assert reply.audience is Audience.CALLER
        page = await browser.open(url_of(reply))
        assert page.heading == "Enter a key for my-api"
        assert "key0" not in page.fields
        page = await browser.press(page)
        assert "MY_API_KEY" in page.text
        assert page.source.count('type="password"') == 1

        page = await browser.press(page, "key", key0=KEY)

        assert page.heading == "The key for my-api is stored"
        notice = await chat.notice("my-api: The key for my-api works and is stored.")
        assert notice.reply.ok
        assert dotenv_values(gateway.config.env_file)["MY_API_KEY"] == KEY
        assert (await gateway.auth.status("my-api")).auth is AuthState.KEY_SET
        assert KEY not in repr([reply, *chat.notices])


async def test_a_refused_key_is_said_in_place_and_never_shown_again(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, api(oauth)) as gateway, Browser() as browser:
        page = await browser.press(await browser.open(await key_link_of(Chat(gateway, ANN))))

        page = await browser.press(page, "key", key0="sk-wrong")

        assert page.status == 422
        assert "refuses this key" in page.text
        assert "sk-wrong" not in page.source
        assert not gateway.config.env_file.exists()
        page = await browser.press(page, "key", key0=" ")
        assert "Nothing was entered" in page.text
        assert (await browser.press(page, "key", key0=KEY)).status == 200


async def test_the_page_says_where_a_known_vendor_hands_out_keys(tmp_path: Path, oauth: OAuthServer) -> None:
    headers = {"Authorization": "Bearer ${STRIPE_KEY}"}
    known = Server(name="stripe", url="https://mcp.stripe.com/", headers=headers)
    async with public_gateway(tmp_path, known, api(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await key_link_of(chat, "stripe")))
        assert "STRIPE_KEY goes into Authorization" in page.text
        assert "Get a key at https://dashboard.stripe.com/apikeys" in page.text
        assert 'href="https://dashboard.stripe.com/apikeys" rel="noreferrer noopener"' in page.source
        page = await browser.press(await browser.open(await key_link_of(chat)))
        assert "Get a key at" not in page.text


async def test_five_refused_keys_close_the_form(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, api(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await key_link_of(chat)))
        for _ in range(4):
            page = await browser.press(page, "key", key0="sk-wrong")
        page = await browser.press(page, "key", key0="sk-wrong")

        assert page.heading == "my-api is not connected"
        await chat.notice("No working key was entered")


async def test_a_form_works_once(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, api(oauth)) as gateway, Browser() as browser, Browser() as other:
        link = await key_link_of(Chat(gateway, ANN))
        form = await browser.press(await browser.open(link))
        await browser.press(form, "key", key0=KEY)

        again = await browser.press(form, "key", key0="sk-second")

        assert again.heading == "The key for my-api is stored"
        assert dotenv_values(gateway.config.env_file)["MY_API_KEY"] == KEY
        assert (await other.open(link)).heading == "This link was used before"


async def test_a_server_that_is_down_is_asked_about_and_the_person_decides(tmp_path: Path, oauth: OAuthServer) -> None:
    from starlette.responses import PlainTextResponse

    async with public_gateway(tmp_path, api(oauth)) as gateway, Browser() as browser:
        page = await browser.press(await browser.open(await key_link_of(Chat(gateway, ANN))))
        oauth.knobs.mcp_answers = [PlainTextResponse("", 503) for _ in range(4)]

        page = await browser.press(page, "key", key0=KEY)
        assert "could not be tried" in page.text
        assert not gateway.config.env_file.exists()

        page = await browser.press(page, "key", key0=KEY, untried="yes")
        assert page.heading == "The key for my-api is stored"
        assert "not verified" in page.text


async def test_the_form_wants_the_proof_where_several_people_are_allowed(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, api(oauth), **team()) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        (reply,) = await chat.say("key my-api")
        assert "shows a code" in words(reply)
        page = await browser.press(await browser.open(url_of(reply)))
        assert page.heading == "Is it you?"
        assert (await browser.request("POST", page.url, data={"action": "key", "key0": KEY})).status == 403

        await chat.say(f"confirm {page.code}")
        page = await browser.press(await browser.open(page.url), "key", key0=KEY)

        assert page.heading == "The key for my-api is stored"
        assert (await gateway.auth.status("my-api", f"principal:{ANN}")).auth is AuthState.KEY_SET
        assert (await gateway.auth.status("my-api", f"principal:{BOB}")).auth is AuthState.KEY_MISSING


async def test_the_checklist_of_auth_is_brought_up_to_date(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, api(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        last = (await chat.say("auth"))[-1]
        assert item(last, "my-api").command == "key my-api"
        page = await browser.press(await browser.open(await key_link_of(chat)))
        await browser.press(page, "key", key0=KEY)
        await chat.edit("key stored")


async def test_cancel_ends_an_open_form(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, api(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        link = await key_link_of(chat)
        assert "my-api" in words((await chat.say("cancel my-api"))[-1])
        assert (await browser.open(link)).heading == "This was cancelled"


async def test_a_form_whose_process_died_while_storing_can_be_asked_for_again(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    clock = Clock()
    async with public_gateway(tmp_path, api(oauth), clock=clock) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await key_link_of(chat)))
        forms = gateway.auth.store.key_forms
        (form,) = await forms.list()
        # As `kill -9` leaves it right before the key is written
        claimed = replace(form, status="exchanging", claimed_at=clock())
        assert await forms.put_if(claimed) is not None

        (busy,) = await chat.say("key my-api")
        assert "being stored right now" in words(busy)
        assert (await browser.open(page.url)).heading == "Storing the key"
        clock.ahead = 61
        link = await key_link_of(chat)
        page = await browser.press(await browser.press(await browser.open(link)), "key", key0=KEY)

        assert page.heading == "The key for my-api is stored"
        assert dotenv_values(gateway.config.env_file)["MY_API_KEY"] == KEY
