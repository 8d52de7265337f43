"""Ways around the proof: the authorization server's own link, in the hands of somebody who is not the one who asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from gateway.invocations import Principal
from mcp_auth.config.models import CallbackOptions
from tests.attacks.scene import api, notes
from tests.browser import Browser
from tests.gateway.chat import Chat, configure, item, open_gateway, words
from tests.ports import free_port
from tests.public import ANN, BOB, allow, key_link_of, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer, authorize


def on_port(**more: Any) -> tuple[str, dict[str, Any]]:
    """The public address, and the options of a gateway that is reached there."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    return url, {"public_url": url, "callback": CallbackOptions(port=port), **more}


@pytest.mark.parametrize("path", ["/callback", "/oauth/done", "/callback/mine"])
@pytest.mark.parametrize("client_id", ["by-hand", None], ids=["registered by hand", "registered by us"])
async def test_a_configured_redirect_uri_is_no_way_around_the_proof(
    tmp_path: Path, oauth: OAuthServer, path: str, client_id: str | None
) -> None:
    url, options = on_port(**team())
    server = notes(oauth, client_id=client_id, redirect_uri=f"{url}{path}")
    async with public_gateway(tmp_path, server, **options) as gateway, Browser() as mine, Browser() as victim:
        chat = Chat(gateway, ANN)
        link = await link_of(chat)
        assert link.startswith(f"{url}/a/")
        page = await mine.press(await mine.open(link))
        await chat.say(f"confirm {page.code}")
        redirect = await mine.authorize(await mine.open(page.url))
        assert redirect.startswith(f"{url}{path}?")

        stolen = await victim.open(redirect)

        assert (stolen.status, stolen.heading) == (403, "This goes on in another browser")
        assert oauth.requests("/token") == []
        elsewhere = await mine.open(redirect.replace(path, "/callback/other"))
        assert elsewhere.status == 400
        assert (await mine.request("HEAD", redirect)).status == 405
        assert (await mine.open(redirect)).heading == "notes is connected"


async def test_a_redirect_uri_that_no_page_of_ours_guards_is_refused_where_a_proof_is_asked(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    _, options = on_port(**team())
    elsewhere = f"http://127.0.0.1:{free_port()}/callback"
    async with public_gateway(tmp_path, notes(oauth, redirect_uri=elsewhere), **options) as gateway:
        shown = item((await Chat(gateway, ANN).say("auth notes"))[-1], "notes")

        assert shown.link is None
        assert "has to be proven who opens the link" in shown.text
        assert "remove oauth.redirect_uri" in shown.text
        assert oauth.requests("/register") == []
        # The operator sits in front of it.
        assert (await link_of(Chat(gateway))).startswith(f"{oauth.origin}/authorize")


@pytest.mark.parametrize("change", ["removed", "second"])
async def test_a_loopback_sign_in_is_judged_again_at_its_end(tmp_path: Path, oauth: OAuthServer, change: str) -> None:
    config = configure(tmp_path, notes(oauth), allow=(str(ANN),), identity="per_user")
    async with open_gateway(config) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        redirect = await asyncio.to_thread(authorize, await link_of(chat))
        await allow(gateway, *([BOB] if change == "removed" else [ANN, BOB]))

        page = await browser.open(redirect)

        assert page.heading == "Not signed in"
        assert oauth.requests("/token") == []
        assert await gateway.auth.store.grants.list() == []
        if change == "second":
            await chat.notice("By now it has to be proven")


async def test_the_operator_may_take_the_risk_of_pasted_addresses_in_a_team(tmp_path: Path, oauth: OAuthServer) -> None:
    config = configure(tmp_path, notes(oauth), **team(allow_paste=True))
    async with open_gateway(config) as gateway:
        ann, bob = Chat(gateway, ANN), Chat(gateway, BOB)
        redirect = await asyncio.to_thread(authorize, await link_of(ann))

        assert "begun by somebody else" in words((await bob.say(redirect))[-1])
        assert "signed in" in words((await ann.say(redirect))[-1])


@pytest.mark.parametrize("options", [{}, {"people": {"ann": (str(ANN), "discord:42")}}], ids=["account", "person"])
async def test_one_allowed_person_is_asked_for_the_proof_too(
    tmp_path: Path, oauth: OAuthServer, options: dict[str, Any]
) -> None:
    """However few may ask: anybody can be sent the link, and needs no account here to approve it."""
    async with (
        public_gateway(tmp_path, notes(oauth), api(oauth), verify="auto", **options) as gateway,
        Browser() as browser,
        Browser(script=False) as plain,
    ):
        oauth.knobs.api_key = None
        chat = Chat(gateway, ANN)
        said = (await chat.say("auth notes"))[-1]
        assert "shows a code" in words(said)
        page = await browser.press(await browser.open(item(said, "notes").link or ""))
        assert page.heading == "Is it you?"
        assert page.next is None
        key = await browser.press(await browser.open(await key_link_of(chat)))
        assert key.heading == "Is it you?"
        moved = await plain.open(await plain.authorize(await plain.press(await plain.open(await link_of(chat)))))
        assert moved.has_code
        assert oauth.requests("/token") == []


async def test_the_operators_page_asks_too_and_only_their_loopback_link_does_not(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    by_hand = notes(oauth, client_id="by-hand")
    async with public_gateway(tmp_path, by_hand, notes(oauth, "mail"), verify="auto") as gateway, Browser() as browser:
        terminal = Chat(gateway)
        assert (await link_of(terminal, "mail")).startswith(f"{oauth.origin}/authorize")
        page = await browser.press(await browser.open(await link_of(terminal)))
        assert page.heading == "Is it you?"
        await terminal.say(f"confirm {page.code}")
        assert (await browser.open(page.url)).next is not None


async def test_who_says_none_is_not_asked(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="none") as gateway, Browser() as browser:
        assert (await browser.sign_in(await link_of(Chat(gateway, ANN)))).heading == "notes is connected"


async def test_without_a_page_no_code_can_be_asked_for_and_no_link_is_handed_out(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with open_gateway(configure(tmp_path, notes(oauth), allow=(str(ANN),), verify="code")) as gateway:
        shown = item((await Chat(gateway, ANN).say("auth notes"))[-1], "notes")

        assert shown.link is None
        assert "set gateway.public_url" in shown.text


async def test_where_the_code_is_wanted_a_session_in_the_browser_is_none(tmp_path: Path, oauth: OAuthServer) -> None:
    """`verify: code`: the host application's session may be the very thing that somebody else has got hold of."""

    async def always_ann(request: Request) -> Principal:
        return ANN

    async with public_gateway(tmp_path, notes(oauth), **team(verify="code")) as gateway, Browser() as browser:
        gateway.verify_browser(always_ann)

        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))

        assert page.heading == "Is it you?"
