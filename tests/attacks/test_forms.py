"""Cross-site request forgery on every form: only our own page, in this very browser, can send one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.scene import KEY, api, notes, stored
from tests.browser import Browser, Page
from tests.gateway.chat import Chat
from tests.homes import Clock
from tests.public import ANN, key_link_of, link_of, public_gateway
from tests.servers.oauth import OAuthServer


async def forge_everything(victim: Browser, attacker: Browser, url: str, values: dict[str, str]) -> list[Page]:
    """All that a page of another site can make the victim's browser send, knowing the link."""
    own = (await attacker.open(url)).fields.get("form", "")
    pages = [
        await victim.request("POST", url, data=values),
        await victim.request("POST", url, data={**values, "form": own}),
        await victim.request("POST", url, data={**values, "form": "0" * 64}),
        await victim.request("POST", url, data={**values, "form": ""}),
    ]
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/json", ""):
        body = "&".join(f"{name}={value}" for name, value in values.items())
        pages.append(await victim.request("POST", url, content=body, headers={"Content-Type": kind}))
    return pages


async def test_csrf_on_continue_of_a_sign_in(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as victim, Browser() as attacker:
        link = await link_of(Chat(gateway, ANN))
        before = await stored(gateway)

        pages = await forge_everything(victim, attacker, link, {"action": "continue"})

        assert {page.status for page in pages} == {403, 415}
        assert await stored(gateway) == before
        assert "Check it once more" in pages[0].text
        assert (await victim.press(pages[0])).next is not None


async def test_csrf_on_continue_with_the_victims_cookies_but_from_another_site(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    """A token that leaked would not be enough: browsers say where a form comes from."""
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as victim:
        link = await link_of(Chat(gateway, ANN))
        form = (await victim.open(link)).fields
        before = await stored(gateway)
        for site in ("cross-site", "same-site"):
            headers = {"Sec-Fetch-Site": site}
            page = await victim.request("POST", link, data={**form, "action": "continue"}, headers=headers)
            assert page.status == 403
        assert await stored(gateway) == before


async def test_a_token_belongs_to_one_link(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), notes(oauth, "mail")) as gateway, Browser() as victim:
        chat = Chat(gateway, ANN)
        form = (await victim.open(await link_of(chat, "notes"))).fields
        other = await link_of(chat, "mail")

        assert (await victim.request("POST", other, data={**form, "action": "continue"})).status == 403


async def test_csrf_on_a_new_code(tmp_path: Path, oauth: OAuthServer) -> None:
    clock = Clock()
    async with (
        public_gateway(tmp_path, notes(oauth), verify="code", clock=clock) as gateway,
        Browser() as victim,
        Browser() as attacker,
    ):
        page = await victim.press(await victim.open(await link_of(Chat(gateway, ANN))))
        clock.ahead = 301
        before = await stored(gateway)

        pages = await forge_everything(victim, attacker, page.url, {"action": "code"})

        assert {one.status for one in pages} == {403, 415}
        assert await stored(gateway) == before


async def test_csrf_on_a_key(tmp_path: Path, oauth: OAuthServer) -> None:
    """Somebody else's key in my server's entry would send my data to their account."""
    async with public_gateway(tmp_path, api(oauth)) as gateway, Browser() as victim, Browser() as attacker:
        form = await victim.press(await victim.open(await key_link_of(Chat(gateway, ANN))))

        pages = await forge_everything(victim, attacker, form.url, {"action": "key", "key0": KEY})

        assert {one.status for one in pages} == {403, 415}
        assert not gateway.config.env_file.exists()
        assert oauth.requests("/mcp") == []


@pytest.mark.parametrize("action", ["", "delete", "continue&action=key", "key", "\x00"])
async def test_actions_that_no_page_has_change_nothing(tmp_path: Path, oauth: OAuthServer, action: str) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        page = await browser.open(await link_of(Chat(gateway, ANN)))
        before = await stored(gateway)
        answer = await browser.request("POST", page.url, data={**page.fields, "action": action})
        assert answer.status == 303
        assert await stored(gateway) == before


async def test_a_field_that_comes_twice_counts_as_missing(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        page = await browser.open(await link_of(Chat(gateway, ANN)))
        body = f"form={page.fields['form']}&form={page.fields['form']}&action=continue"
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await browser.request("POST", page.url, content=body, headers=headers)).status == 403
