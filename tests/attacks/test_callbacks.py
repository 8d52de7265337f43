"""The redirect of the authorization server: cookie, state, path and iss must agree, once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest

from gateway.gateway import Gateway
from tests.attacks.scene import notes, stored
from tests.browser import Browser
from tests.gateway.chat import Chat
from tests.homes import Clock
from tests.public import ANN, BOB, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer


async def redirect_of(gateway: Gateway, browser: Browser, server: str = "notes") -> str:
    """Up to the redirect, not yet visited."""
    page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN), server)))
    return await browser.authorize(page)


def changed(url: str, **parameters: str | None) -> str:
    """The address with other parameters; None takes one out."""
    parts = urlsplit(url)
    query = {**dict(parse_qsl(parts.query)), **parameters}
    return urlunsplit(parts._replace(query=urlencode({k: v for k, v in query.items() if v is not None})))


async def test_replayed_callback_says_the_same_and_exchanges_nothing(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser, Browser() as thief:
        redirect = await redirect_of(gateway, browser)
        done = await browser.open(redirect)
        before = await stored(gateway)

        again = await browser.open(redirect)
        other_code = await browser.open(changed(redirect, code="another-code-entirely"))
        stolen = await thief.open(redirect)

        assert again.source == done.source
        assert other_code.heading == "notes is connected"
        assert stolen.status == 403
        assert len(oauth.requests("/token")) == 1
        assert await stored(gateway) == before


async def test_callback_on_another_connections_path(tmp_path: Path, oauth: OAuthServer) -> None:
    """Mix-up: an answer of one authorization server is brought to the address of another."""
    other = notes(oauth, "mail")
    async with public_gateway(tmp_path, notes(oauth), other) as gateway, Browser() as browser:
        redirect = await redirect_of(gateway, browser)
        right = urlsplit(redirect).path
        for path in ("/callback/" + "0" * 32, "/callback", right.upper(), right[:-1], f"{right}/", f"{right}0"):
            page = await browser.open(redirect.replace(right, path))
            assert page.status in (400, 404), path
        assert oauth.requests("/token") == []
        assert (await browser.open(redirect)).heading == "notes is connected"


@pytest.mark.parametrize("iss", ["https://evil.example.com", "", None, "right/", "RIGHT"])
async def test_mixed_up_wrong_or_missing_issuer(tmp_path: Path, oauth: OAuthServer, iss: str | None) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        redirect = await redirect_of(gateway, browser)
        wrong = iss if iss is None else iss.replace("right", oauth.issuer).replace("RIGHT", oauth.issuer.upper())

        page = await browser.open(changed(redirect, iss=wrong))

        assert page.status == 400
        assert page.heading == "Not signed in"
        assert oauth.requests("/token") == []
        assert (await browser.open(redirect)).heading == "notes is connected"


async def test_an_error_with_a_foreign_issuer_is_neither_shown_nor_acted_on(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        redirect = await redirect_of(gateway, browser)
        forged = changed(
            redirect,
            code=None,
            iss="https://evil.example.com",
            error="access_denied",
            error_description="Call +1 555 0100 to unlock your account",
            error_uri="https://evil.example.com/help",
        )

        page = await browser.open(forged)

        assert "555" not in page.source
        assert "evil" not in page.source
        assert (await browser.open(redirect)).heading == "notes is connected"


async def test_login_csrf_the_attackers_own_answer_in_the_victims_browser(tmp_path: Path, oauth: OAuthServer) -> None:
    """The victim would work with the attacker's account from then on."""
    async with (
        public_gateway(tmp_path, notes(oauth), **team()) as gateway,
        Browser() as attacker,
        Browser() as victim,
    ):
        mine = Chat(gateway, BOB)
        page = await attacker.press(await attacker.open(await link_of(mine)))
        await mine.say(f"confirm {page.code}")
        planted = await attacker.authorize(await attacker.open(page.url))

        theirs = Chat(gateway, ANN)
        page = await victim.press(await victim.open(await link_of(theirs)))
        await theirs.say(f"confirm {page.code}")
        state = dict(parse_qsl(urlsplit(await victim.authorize(await victim.open(page.url))).query))["state"]

        assert (await victim.open(planted)).status == 403
        assert (await victim.open(changed(planted, state=state))).heading == "notes is not connected"
        assert (await gateway.auth.store.grants.list(f"principal:{ANN}")) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"state": None},
        {"state": "0" * 32 + "." + "A" * 43},
        {"state": "../../etc/passwd"},
        {"state": "\x00"},
        {"code": None},
        {"code": ""},
        {"state": None, "code": None, "iss": None},
    ],
    ids=["no-state", "forged-state", "path-in-state", "nul-in-state", "no-code", "empty-code", "nothing"],
)
async def test_incomplete_and_forged_answers(
    tmp_path: Path, oauth: OAuthServer, parameters: dict[str, str | None]
) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        redirect = await redirect_of(gateway, browser)

        assert (await browser.open(changed(redirect, **parameters))).status in (400, 404)
        assert (await browser.open(f"{redirect}&code=second")).status == 400
        assert (await browser.open(f"{redirect}&x={'y' * 9000}")).status == 400
        assert oauth.requests("/token") == []
        assert (await browser.open(redirect)).heading == "notes is connected"


async def test_an_answer_after_the_time_is_over(tmp_path: Path, oauth: OAuthServer) -> None:
    clock = Clock()
    async with public_gateway(tmp_path, notes(oauth), clock=clock) as gateway, Browser() as browser:
        redirect = await redirect_of(gateway, browser)
        clock.ahead = 601

        page = await browser.open(redirect)

        assert (page.status, page.heading) == (410, "This link has expired")
        assert oauth.requests("/token") == []


async def test_the_answer_of_a_cancelled_sign_in(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        redirect = await redirect_of(gateway, browser)
        await Chat(gateway, ANN).say("cancel notes")

        assert (await browser.open(redirect)).heading == "This was cancelled"
        assert oauth.requests("/token") == []


async def test_a_public_sign_in_cannot_be_pasted(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        redirect = await redirect_of(gateway, browser)
        chat = Chat(gateway, ANN)

        for text in (redirect, f"paste {redirect}", f"paste {dict(parse_qsl(urlsplit(redirect).query))['code']}"):
            assert not (await chat.say(text))[-1].ok

        assert oauth.requests("/token") == []
        assert (await browser.open(redirect)).heading == "notes is connected"


async def test_fifty_answers_at_once_make_one_exchange(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        redirect = await redirect_of(gateway, browser)
        await asyncio.gather(*(browser.open(redirect) for _ in range(50)))
        assert len(oauth.requests("/token")) == 1
