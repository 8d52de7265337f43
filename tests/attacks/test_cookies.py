"""Cookies that somebody else put into the victim's browser, from a neighbouring host or past the `__Host-` prefix."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_auth.records import Origin
from tests.attacks.scene import notes
from tests.browser import Browser
from tests.gateway.chat import Chat
from tests.homes import open_auth
from tests.public import ANN, BOB, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer

PUBLIC = "https://bot.example.com"
NAME = "__Host-slash-mcp"


@pytest.mark.parametrize(
    "planted",
    [
        b"\xa0" + NAME.encode(),
        b"\x85" + NAME.encode(),
        NAME.encode() + b"\xa0",
        b"\x1f" + NAME.encode(),
        b"__host-slash-mcp",
        b"$Version=1; $Path=/, " + NAME.encode(),
    ],
    ids=["no-break space before", "next line before", "no-break space behind", "separator", "case", "version"],
)
async def test_a_name_that_only_looks_like_the_host_cookie_binds_no_browser(
    tmp_path: Path, oauth: OAuthServer, planted: bytes
) -> None:
    """A neighbour may set these where no browser lets it set `__Host-...`: the sender's own cookie in the victim's."""
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    auth = open_auth(tmp_path, servers, {"public_url": PUBLIC, "allow": [str(ANN)]})
    async with auth, Browser(auth.asgi_app()) as sender, Browser(auth.asgi_app()) as victim:
        link = (await auth.sign_in("notes", "shared", Origin(principal=str(ANN)))).link
        redirect = await sender.authorize(await sender.press(await sender.open(link)))
        cookie = sender.client.cookies[NAME].encode()

        page = await victim.request("GET", redirect, headers=[(b"cookie", planted + b"=" + cookie)])

        assert (page.status, page.heading) == (403, "This goes on in another browser")
        assert oauth.requests("/token") == []
        own = [(b"cookie", b"other=1; " + NAME.encode() + b"=" + cookie)]
        assert (await victim.request("GET", redirect, headers=own)).heading == "notes is connected"


async def test_two_cookies_of_the_same_name_count_as_none(tmp_path: Path, oauth: OAuthServer) -> None:
    """Which of them a browser sends first is up to whoever tossed the other."""
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as sender, Browser() as victim:
        page = await sender.press(await sender.open(await link_of(Chat(gateway, ANN))))
        redirect = await sender.authorize(page)
        mine, other = sender.client.cookies["slash-mcp"], "A" * 43
        for pair in ((mine, other), (other, mine), (mine, mine)):
            tossed = "; ".join(f"slash-mcp={value}" for value in pair)
            assert (await victim.request("GET", redirect, headers={"Cookie": tossed})).status == 403
            split = [("Cookie", f"slash-mcp={value}") for value in pair]
            assert (await victim.request("GET", redirect, headers=split)).status == 403
        assert oauth.requests("/token") == []


async def test_a_tossed_form_cookie_forges_no_form(tmp_path: Path, oauth: OAuthServer) -> None:
    """The sender knows the token to their own form cookie; beside the victim's own it counts for nothing."""
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as sender, Browser() as victim:
        link = await link_of(Chat(gateway, ANN))
        form = (await sender.open(link)).fields["form"]
        await victim.open(link)
        both = [browser.client.cookies["slash-mcp-form"] for browser in (victim, sender)]
        victim.client.cookies.clear()
        headers = {"Cookie": "; ".join(f"slash-mcp-form={value}" for value in both)}

        answer = await victim.request("POST", link, data={"form": form, "action": "continue"}, headers=headers)

        assert answer.status == 403


async def test_a_cookie_is_no_proof_for_the_next_sign_in_of_somebody_else(tmp_path: Path, oauth: OAuthServer) -> None:
    """One browser, two people's links: what was proven for one of them says nothing about the other."""
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
        ann, bob = Chat(gateway, ANN), Chat(gateway, BOB)
        first = await browser.press(await browser.open(await link_of(ann)))
        await ann.say(f"confirm {first.code}")
        assert (await browser.open(first.url)).next is not None

        second = await browser.press(await browser.open(await link_of(bob)))

        assert second.heading == "Is it you?"
        assert second.code != first.code
        assert (await browser.open(second.url)).next is None
