"""Cookies that somebody else put into the victim's browser: from another port, a neighbouring host, or past `__Host-`.

With script the browser is known by what its script keeps, and no cookie stands for it. Without, the cookie of its
sign-in is looked at, and is no proof: see `test_last_pages.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_auth.records import Requester
from tests.attacks.scene import notes
from tests.browser import Browser
from tests.gateway.chat import Chat
from tests.homes import open_auth
from tests.public import ANN, BOB, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer

PUBLIC = "https://bot.example.com"


def cookies_of(browser: Browser) -> dict[str, str]:
    return {cookie.name: cookie.value or "" for cookie in browser.client.cookies.jar}


def bound_cookie(browser: Browser) -> str:
    """The name of the cookie by which a browser without script is bound."""
    (name,) = [name for name in cookies_of(browser) if not name.endswith("-form")]
    return name


async def test_no_planted_cookie_stands_for_what_the_script_keeps(tmp_path: Path, oauth: OAuthServer) -> None:
    """The attack from another port of the host: every cookie of the sender, and one with the very secret in it."""
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as sender, Browser() as victim:
        chat = Chat(gateway, ANN)
        page = await sender.press(await sender.open(await link_of(chat)))
        await chat.say(f"confirm {page.code}")
        redirect = await sender.authorize(await sender.open(page.url))
        planted = cookies_of(sender)
        kept = page.kept or ""
        secret = sender.kept(page.url, kept) or ""
        planted |= dict.fromkeys((f"slash-mcp-{kept}", f"slash-mcp-{kept}-form", kept, "slash-mcp"), secret)
        victim.client.cookies.update(planted)

        answer = await victim.open(redirect)

        assert (answer.status, answer.heading) == (403, "This goes on in another browser")
        assert (await victim.open(page.url)).heading == "This goes on in another browser"
        assert oauth.requests("/token") == []


@pytest.mark.parametrize(
    "planted",
    [
        (b"\xa0", b""),
        (b"\x85", b""),
        (b"", b"\xa0"),
        (b"\x1f", b""),
        (b"$Version=1; $Path=/, ", b""),
    ],
    ids=["no-break space before", "next line before", "no-break space behind", "separator", "version"],
)
async def test_a_name_that_only_looks_like_the_host_cookie_binds_no_browser(
    tmp_path: Path, oauth: OAuthServer, planted: tuple[bytes, bytes]
) -> None:
    """A neighbour may set these where no browser lets it set `__Host-...`: the sender's own cookie in the victim's."""
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    auth = open_auth(tmp_path, servers, {"public_url": PUBLIC, "allow": [str(ANN)], "verify": "none"})
    app = auth.asgi_app()
    async with auth, Browser(app, script=False) as sender, Browser(app, script=False) as victim:
        link = (await auth.sign_in("notes", "shared", Requester(principal=str(ANN)))).link
        redirect = await sender.authorize(await sender.press(await sender.open(link)))
        name = bound_cookie(sender)
        value, own = cookies_of(sender)[name].encode(), name.encode()
        assert name.startswith("__Host-slash-mcp-a-")

        for looks_like in (planted[0] + own + planted[1], own.lower()):
            page = await victim.request("GET", redirect, headers=[(b"cookie", looks_like + b"=" + value)])
            assert (page.status, page.heading) == (403, "This goes on in another browser")

        assert oauth.requests("/token") == []
        headers = [(b"cookie", b"other=1; " + own + b"=" + value)]
        assert "last" in (await victim.request("GET", redirect, headers=headers)).fields


async def test_two_cookies_of_the_same_name_count_as_none(tmp_path: Path, oauth: OAuthServer) -> None:
    """Which of them a browser sends first is up to whoever tossed the other."""
    async with (
        public_gateway(tmp_path, notes(oauth)) as gateway,
        Browser(script=False) as sender,
        Browser(script=False) as victim,
    ):
        page = await sender.press(await sender.open(await link_of(Chat(gateway, ANN))))
        redirect = await sender.authorize(page)
        name = bound_cookie(sender)
        mine, other = cookies_of(sender)[name], "A" * 43
        for pair in ((mine, other), (other, mine), (mine, mine)):
            tossed = "; ".join(f"{name}={value}" for value in pair)
            assert (await victim.request("GET", redirect, headers={"Cookie": tossed})).status == 403
            split = [("Cookie", f"{name}={value}") for value in pair]
            assert (await victim.request("GET", redirect, headers=split)).status == 403
        assert oauth.requests("/token") == []


async def test_a_tossed_form_cookie_forges_no_form(tmp_path: Path, oauth: OAuthServer) -> None:
    """The sender knows the token to their own form cookie; beside the victim's own it counts for nothing."""
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as sender, Browser() as victim:
        link = await link_of(Chat(gateway, ANN))
        form = (await sender.open(link)).fields
        await victim.open(link)
        (name,) = cookies_of(victim)
        both = [cookies_of(browser)[name] for browser in (victim, sender)]
        victim.client.cookies.clear()
        headers = {"Cookie": "; ".join(f"{name}={value}" for value in both)}

        answer = await victim.request("POST", link, data={**form, "action": "continue"}, headers=headers)

        assert answer.status == 403


async def test_a_planted_form_cookie_lets_no_neighbour_press_continue(tmp_path: Path, oauth: OAuthServer) -> None:
    """With the sender's form cookie in it, the victim's browser sends a form that fits: browsers say who made it."""
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as sender, Browser() as victim:
        link = await link_of(Chat(gateway, ANN))
        form = (await sender.open(link)).fields
        victim.client.cookies.update(cookies_of(sender))
        for site in ("same-site", "cross-site"):
            answer = await victim.request(
                "POST", link, data={**form, "action": "continue"}, headers={"Sec-Fetch-Site": site}
            )
            assert answer.status == 403
        (record,) = await gateway.auth.store.sign_ins.list()
        assert record.status == "started"


async def test_what_one_browser_keeps_is_no_proof_for_the_next_sign_in_of_somebody_else(
    tmp_path: Path, oauth: OAuthServer
) -> None:
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
