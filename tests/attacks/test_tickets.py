"""Links that nobody handed out, or that are over."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

import pytest

from tests.attacks.scene import api, notes, stored
from tests.browser import Browser
from tests.gateway.chat import Chat
from tests.homes import Clock
from tests.public import ANN, key_link_of, link_of, public_gateway
from tests.servers.oauth import OAuthServer


async def test_expired_ticket(tmp_path: Path, oauth: OAuthServer) -> None:
    clock = Clock()
    async with public_gateway(tmp_path, notes(oauth), clock=clock) as gateway, Browser() as browser:
        link = await link_of(Chat(gateway, ANN))
        start = await browser.open(link)
        clock.ahead = 601

        for page in (await browser.press(start), await browser.open(link)):
            assert (page.status, page.heading) == (410, "This link has expired")
        assert oauth.requests("/authorize") == []


async def test_expired_key_form(tmp_path: Path, oauth: OAuthServer) -> None:
    clock = Clock()
    async with public_gateway(tmp_path, api(oauth), clock=clock) as gateway, Browser() as browser:
        form = await browser.press(await browser.open(await key_link_of(Chat(gateway, ANN))))
        clock.ahead = 601

        page = await browser.press(form, "key", key0="sk-late")

        assert (page.status, page.heading) == (410, "This link has expired")
        assert not gateway.config.env_file.exists()


async def test_guessed_tickets_open_nothing(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        link = await link_of(Chat(gateway, ANN))
        base, _, ticket = link.rpartition("/")
        slot = base64.urlsafe_b64decode(ticket)[:16]
        before = await stored(gateway)
        guesses = [base64.urlsafe_b64encode(slot + secrets.token_bytes(32)).decode() for _ in range(20)]
        guesses += [base64.urlsafe_b64encode(secrets.token_bytes(48)).decode() for _ in range(5)]
        guesses += [ticket[:-1], ticket + "A", ticket[::-1], ticket.swapcase(), "A" * 64, "", ".", "..", "*", "%2e%2e"]
        for guess in guesses:
            assert (await browser.open(f"{base}/{guess}")).status == 404, guess
            assert (await browser.request("POST", f"{base}/{guess}", data={"action": "continue"})).status in (404, 405)
        assert await stored(gateway) == before


async def test_tickets_of_one_kind_do_not_open_the_other(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), api(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        oauth.knobs.api_key = None
        sign_in = await link_of(chat)
        key = await key_link_of(chat)

        assert (await browser.open(sign_in.replace("/a/", "/k/"))).status == 404
        assert (await browser.open(key.replace("/k/", "/a/"))).status == 404


async def test_the_ticket_of_an_older_sign_in_does_not_open_the_next(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        old = await link_of(chat)
        await chat.say("cancel notes")
        await link_of(chat)

        assert (await browser.open(old)).status == 404


async def test_the_store_does_not_hold_what_is_in_the_link_the_cookie_or_the_code(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as browser:
        link = await link_of(Chat(gateway, ANN))
        page = await browser.press(await browser.open(link))
        everything = b"".join(await stored(gateway)).decode()

        # Beside the secret the script keeps the page's path, with the ticket in it.
        kept = [value.rpartition("/")[2] for value in browser.storage.values()]
        secrets_of_the_page = [page.code.replace("-", ""), *kept, *browser.client.cookies.values()]
        assert len(secrets_of_the_page) == 4
        assert link.rpartition("/")[2] in secrets_of_the_page
        for secret in secrets_of_the_page:
            assert secret not in everything
            for record in await gateway.auth.store.sign_ins.list():
                assert secret not in repr(record)


@pytest.mark.parametrize("count", [7])
async def test_many_links_of_one_sign_in_stay_few(tmp_path: Path, oauth: OAuthServer, count: int) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        links = [await link_of(Chat(gateway, ANN)) for _ in range(count)]
        opened = [(await browser.open(link)).status for link in links]
        assert opened == [404, 404, 200, 200, 200, 200, 200]
