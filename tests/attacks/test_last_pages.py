"""Browsers without script or storage: a cookie binds them, which a neighbour can plant, so it proves nothing.

The proof is asked for on the last page, in that response alone: whoever planted the cookie does not read it.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from mcp_auth.errors import WrongPerson
from mcp_auth.links import tickets
from tests.attacks.scene import KEY, api, notes, stored
from tests.attacks.test_cookies import cookies_of
from tests.browser import Browser, Page
from tests.gateway.chat import Chat, words
from tests.homes import Clock
from tests.public import ANN, BOB, Session, key_link_of, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer


async def answered(chat: Chat, browser: Browser, name: str = "notes") -> str:
    """From the chat to the answer of the authorization server, not yet visited."""
    return await browser.authorize(await browser.press(await browser.open(await link_of(chat, name))))


@pytest.mark.parametrize("victims_script", [True, False], ids=["victim with script", "victim without"])
async def test_a_cookie_planted_from_another_port_ends_at_a_code_that_its_owner_never_sees(
    tmp_path: Path, oauth: OAuthServer, victims_script: bool
) -> None:
    """The sender begins without script and plants the cookie: the victim sees only the provider's consent, and this."""
    async with (
        public_gateway(tmp_path, notes(oauth), **team()) as gateway,
        Browser(script=False) as sender,
        Browser(script=victims_script) as victim,
    ):
        attacker, bob = Chat(gateway, ANN), Chat(gateway, BOB)
        start = await sender.press(await sender.open(await link_of(attacker)))
        assert not start.has_code
        victim.client.cookies.update(cookies_of(sender))
        approved = await victim.authorize(start)

        page = await victim.open(approved)

        assert page.heading == "Is it you?"
        assert "will get access to notes" in page.text
        assert page.code not in (await sender.open(start.url)).source
        warned = (await bob.say(f"confirm {page.code}"))[0]
        assert "whoever sent you that link" in words(warned)
        assert oauth.requests("/token") == []


async def test_confirming_ones_own_last_page_releases_nobody_elses(tmp_path: Path, oauth: OAuthServer) -> None:
    """The sender makes a last page with a code of their own and confirms it, before or after the victim comes."""
    async with (
        public_gateway(tmp_path, notes(oauth), **team()) as gateway,
        Browser(script=False) as sender,
        Browser(script=False) as victim,
    ):
        attacker = Chat(gateway, ANN)
        start = await sender.press(await sender.open(await link_of(attacker)))
        victim.client.cookies.update(cookies_of(sender))
        own = await sender.open(await sender.authorize(start))
        assert (await attacker.say(f"confirm {own.code}"))[0].ok

        theirs = await victim.open(await victim.authorize(start))

        assert theirs.heading == "Is it you?"
        assert theirs.code != own.code
        again = await victim.press(theirs, "finish")
        assert "has not been sent" in again.text
        assert again.code == theirs.code
        assert (await sender.press(own, "finish")).status == 400
        assert oauth.requests("/token") == []


async def test_the_one_time_secret_belongs_to_the_code_on_its_page(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser(script=False) as browser:
        chat = Chat(gateway, ANN)
        page = await browser.open(await answered(chat, browser))
        await chat.say(f"confirm {page.code}")

        for changed in ({"code": "of-somebody-else"}, {"last": "A" * 43}, {"last": ""}, {"state": "0"}):
            assert (await browser.press(page, "finish", **changed)).status == 400
        iss = await browser.press(page, "finish", iss="https://evil.example.com")

        assert iss.status == 400
        assert oauth.requests("/token") == []
        assert (await browser.press(page, "finish")).heading == "notes is connected"


async def test_a_last_page_is_finished_where_its_cookie_is_and_by_our_own_form(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with (
        public_gateway(tmp_path, notes(oauth), verify="code") as gateway,
        Browser(script=False) as browser,
        Browser(script=False) as other,
    ):
        chat = Chat(gateway, ANN)
        page = await browser.open(await answered(chat, browser))
        await chat.say(f"confirm {page.code}")

        assert (await other.press(page, "finish")).status == 403
        address = page.url.partition("?")[0]
        for site in ("same-site", "cross-site"):
            headers = {"Sec-Fetch-Site": site}
            assert (await browser.request("POST", address, data=page.fields, headers=headers)).status == 403
        assert oauth.requests("/token") == []
        assert (await browser.press(page, "finish")).heading == "notes is connected"


async def test_a_newer_last_page_voids_an_older_one_and_its_proof(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser(script=False) as browser:
        chat = Chat(gateway, ANN)
        redirect = await answered(chat, browser)
        old = await browser.open(redirect)
        assert (await chat.say(f"confirm {old.code}"))[0].ok

        new = await browser.open(redirect)

        assert new.code != old.code
        assert (await browser.press(old, "finish")).status == 400
        assert "has not been sent" in (await browser.press(new, "finish")).text
        assert not (await chat.say(f"confirm {old.code}"))[0].ok
        assert oauth.requests("/token") == []
        assert (await chat.say(f"confirm {new.code}"))[0].ok
        assert (await browser.press(new, "finish")).heading == "notes is connected"


@pytest.mark.parametrize("typed", ["confirm", "review"])
async def test_attack_a_victim_who_types_a_voided_code_is_warned_all_the_same(
    tmp_path: Path, oauth: OAuthServer, typed: str
) -> None:
    """The sender makes a newer last page, and confirms that, before the victim has typed the code of theirs."""
    async with (
        public_gateway(tmp_path, notes(oauth), **team()) as gateway,
        Browser(script=False) as sender,
        Browser(script=False) as victim,
    ):
        attacker, bob = Chat(gateway, ANN), Chat(gateway, BOB)
        start = await sender.press(await sender.open(await link_of(attacker)))
        victim.client.cookies.update(cookies_of(sender))
        seen = await victim.open(await victim.authorize(start))
        own = await sender.open(await sender.authorize(start))
        if typed == "confirm":
            assert (await attacker.say(f"confirm {own.code}"))[0].ok
            warned = words((await bob.say(f"confirm {seen.code}"))[0])
            assert "whoever sent you that link" in warned
            assert "/mcp auth" in warned
        else:
            with pytest.raises(WrongPerson):
                await gateway.auth.review(seen.code, str(BOB), private=True)

        # It is over, too
        assert (await sender.press(own, "finish")).heading == "notes is not connected"
        await attacker.notice("Somebody else opened the link")
        assert oauth.requests("/token") == []


async def test_ones_own_voided_code_is_called_that_and_is_no_guess(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser(script=False) as browser:
        chat = Chat(gateway, ANN)
        redirect = await answered(chat, browser)
        old = await browser.open(redirect)
        new = await browser.open(redirect)
        for _ in range(7):
            said = words((await chat.say(f"confirm {old.code}"))[0])
            assert "a newer page or code took its place" in said
            assert "newest page" in said
        assert (await chat.say(f"confirm {new.code}"))[0].ok
        assert "no longer counts" in words((await chat.say(f"confirm {old.code}"))[0])
        assert (await browser.press(new, "finish")).heading == "notes is connected"


async def test_a_last_page_that_is_sent_many_times_makes_one_exchange(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser(script=False) as browser:
        chat = Chat(gateway, ANN)
        page = await browser.open(await answered(chat, browser))
        await chat.say(f"confirm {page.code}")

        pages = await asyncio.gather(*(browser.press(page, "finish") for _ in range(20)))

        assert {one.heading for one in pages} <= {"notes is connected", "Finishing the sign-in"}
        assert len(oauth.requests("/token")) == 1


async def test_the_end_can_be_loaded_again_and_gone_back_to(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser(script=False) as browser:
        chat = Chat(gateway, ANN)
        link = await link_of(chat)
        redirect = await browser.authorize(await browser.press(await browser.open(link)))
        page = await browser.open(redirect)
        reply = (await chat.say(f"confirm {page.code}"))[0]
        assert "goes on by itself" not in words(reply)
        assert "finish" in words(reply)

        done = await browser.press(page, "finish")

        assert done.url == link
        assert done.heading == "notes is connected"
        assert (await browser.open(link)).heading == "notes is connected"
        assert (await browser.open(redirect)).heading == "notes is connected"
        assert (await browser.press(page, "finish")).heading == "notes is connected"
        assert len(oauth.requests("/token")) == 1


async def test_the_code_of_a_last_page_lives_five_minutes_and_the_page_shows_a_new_one(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    clock = Clock()
    async with (
        public_gateway(tmp_path, notes(oauth), verify="code", clock=clock) as gateway,
        Browser(script=False) as browser,
    ):
        chat = Chat(gateway, ANN)
        page = await browser.open(await answered(chat, browser))
        clock.ahead = 301
        assert "older than five minutes" in words((await chat.say(f"confirm {page.code}"))[0])

        renewed = await browser.press(page, "finish")

        assert renewed.code != page.code
        assert (await chat.say(f"confirm {renewed.code}"))[0].ok
        assert (await browser.press(renewed, "finish")).heading == "notes is connected"


async def test_guesses_at_a_last_pages_code_are_counted(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser(script=False) as browser:
        chat = Chat(gateway, ANN)
        page = await browser.open(await answered(chat, browser))
        for guess in ("ACDE-FGHJ", "KMNP-QRTW", "3467-9ACD", "YYYY-YYYY", "XXXX-XXXX"):
            assert not (await chat.say(f"confirm {guess}"))[0].ok

        assert not (await chat.say(f"confirm {page.code}"))[0].ok
        assert (await browser.press(page, "finish")).heading == "notes is not connected"
        assert oauth.requests("/token") == []


async def test_where_no_proof_is_asked_the_last_page_asks_whether_it_is_meant(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="none") as gateway, Browser(script=False) as browser:
        chat = Chat(gateway, ANN)
        chat.display_name = "Ann Example"
        page = await browser.open(await answered(chat, browser))

        assert page.heading == "Finish the sign-in?"
        assert "Ann Example (Telegram …0001) will get access to notes" in page.text
        assert not page.has_code
        assert oauth.requests("/token") == []
        assert (await browser.press(page, "finish")).heading == "notes is connected"


async def test_a_denial_needs_no_proof(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.authorize_error = {"error": "access_denied"}
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser(script=False) as browser:
        chat = Chat(gateway, ANN)

        page = await browser.open(await answered(chat, browser))

        assert page.heading == "notes is not connected"
        assert "Access was denied" in page.text
        await chat.notice("Access was denied")


async def test_proven_with_script_and_moved_to_a_browser_without_nothing_goes_along(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with (
        public_gateway(tmp_path, notes(oauth), **team()) as gateway,
        Browser() as scripted,
        Browser(script=False) as plain,
        Browser() as victim,
    ):
        attacker = Chat(gateway, ANN)
        page = await scripted.press(await scripted.open(await link_of(attacker)))
        await attacker.say(f"confirm {page.code}")
        first = await scripted.open(page.url)
        moved = await plain.press(await plain.open(await link_of(attacker)))
        victim.client.cookies.update(cookies_of(plain))

        last = await victim.open(await victim.authorize(moved))

        assert last.heading == "Is it you?"
        assert (await scripted.open(await scripted.authorize(first))).status in (400, 403)
        assert "has not been sent" in (await victim.press(last, "finish")).text
        assert oauth.requests("/token") == []


@pytest.mark.parametrize("verify", ["code", "none"])
async def test_the_last_page_links_to_the_chat_with_the_code_that_it_shows(
    tmp_path: Path, oauth: OAuthServer, verify: str
) -> None:
    options = {"allow": (str(ANN),), "verify": verify}
    async with public_gateway(tmp_path, notes(oauth), **options) as gateway, Browser(script=False) as browser:
        gateway.carry_codes("telegram", lambda code: f"https://chat.example/{code}")
        page = await browser.open(await answered(Chat(gateway, ANN), browser))
        codes = re.findall(r"https://chat\.example/([^\"]+)", page.source)
        assert page.heading == ("Is it you?" if verify == "code" else "Finish the sign-in?")
        assert [tickets.typed_code(code) for code in codes] == (
            [tickets.typed_code(page.code)] if page.has_code else []
        )
        assert page.has_code is (verify == "code")


async def test_under_verify_browser_no_code_is_shown_without_script(tmp_path: Path, oauth: OAuthServer) -> None:
    """The application's own session is asked for at Continue, on the last page, and when that is sent."""
    session = Session(ANN)
    async with (
        public_gateway(tmp_path, notes(oauth), **team(verify="browser")) as gateway,
        Browser(script=False) as browser,
    ):
        gateway.verify_browser(session)
        chat = Chat(gateway, ANN)
        redirect = await answered(chat, browser)
        session.principal = None
        nobody = await browser.open(redirect)
        assert "Sign in to the application itself first" in nobody.text
        assert not nobody.has_code
        session.principal = ANN
        page = await browser.open(redirect)
        assert page.heading == "Finish the sign-in?"
        session.principal = BOB

        stolen = await browser.press(page, "finish")

        assert stolen.heading == "Not signed in"
        assert (await browser.open(redirect)).heading == "notes is not connected"
        assert oauth.requests("/token") == []
        session.principal = ANN
        last = await browser.open(await answered(chat, browser))
        assert (await browser.press(last, "finish")).heading == "notes is connected"


async def test_under_verify_browser_a_last_page_that_is_shown_again_makes_no_code(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    session = Session(ANN)
    async with (
        public_gateway(tmp_path, notes(oauth), **team(verify="browser")) as gateway,
        Browser(script=False) as browser,
    ):
        gateway.verify_browser(session)
        page = await browser.open(await answered(Chat(gateway, ANN), browser))
        session.principal = None

        again = await browser.press(page, "finish")

        assert "Sign in to the application itself first" in again.text
        assert not again.has_code
        (sign_in,) = await gateway.auth.store.sign_ins.list()
        assert sign_in.binding is not None
        assert sign_in.binding.code is None
        assert oauth.requests("/token") == []


async def test_a_login_that_needs_script_is_not_offered_without(tmp_path: Path, oauth: OAuthServer) -> None:
    from adapters.telegram.login import TelegramLogin

    async with (
        public_gateway(tmp_path, notes(oauth), api(oauth), verify="browser") as gateway,
        Browser(script=False) as browser,
    ):
        oauth.knobs.api_key = None
        gateway.verify_by_login("telegram", TelegramLogin("1:token"))
        chat = Chat(gateway, ANN)
        for link in (await link_of(chat), await key_link_of(chat)):
            before = await stored(gateway)

            page = await browser.press(await browser.open(link))

            assert "needs JavaScript" in page.text
            assert await stored(gateway) == before


class TestKeyForms:
    """No cookie at all: the secret goes from form to form, in pages that only this browser was sent."""

    async def form(self, chat: Chat, browser: Browser) -> Page:
        return await browser.press(await browser.open(await key_link_of(chat)))

    async def test_from_the_link_to_the_stored_key(self, tmp_path: Path, oauth: OAuthServer) -> None:
        async with public_gateway(tmp_path, api(oauth), verify="code") as gateway, Browser(script=False) as browser:
            chat = Chat(gateway, ANN)
            page = await self.form(chat, browser)
            assert page.heading == "Is it you?"
            early = await browser.press(page, "look")
            assert early.code == page.code
            await chat.say(f"confirm {page.code}")

            form = await browser.press(page, "look")
            refused = await browser.press(form, "key", key0="sk-wrong")

            assert refused.status == 422
            done = await browser.press(refused, "key", key0=KEY)
            assert done.heading == "The key for my-api is stored"
            assert set(cookies_of(browser)) == {name for name in cookies_of(browser) if name.endswith("-form")}

    async def test_planted_cookies_show_no_code_and_open_no_form(self, tmp_path: Path, oauth: OAuthServer) -> None:
        """The sender plants every cookie of theirs before the victim comes: the victim's page is not theirs."""
        async with (
            public_gateway(tmp_path, api(oauth), **team()) as gateway,
            Browser(script=False) as sender,
            Browser(script=False) as victim,
        ):
            attacker = Chat(gateway, ANN)
            link = await key_link_of(attacker)
            await sender.open(link)
            victim.client.cookies.update(cookies_of(sender))

            page = await victim.press(await victim.open(link))

            assert page.heading == "Is it you?"
            assert (await sender.open(link)).heading == "This goes on in another browser"
            assert (await sender.press(await sender.open(link))).status == 403
            assert page.code not in (await sender.open(link)).source
            wrong = page.fields | {"secret": "A" * 43}
            assert (await sender.request("POST", link, data={**wrong, "action": "look"})).status == 403

    async def test_another_site_sends_no_form_of_ours_however_much_its_owner_knows(
        self, tmp_path: Path, oauth: OAuthServer
    ) -> None:
        """The sender has proven their own form, and has the victim's browser, an old one, send it from their site: it
        would ask the victim for a key without a word of who asked.
        """
        async with (
            public_gateway(tmp_path, api(oauth), **team()) as gateway,
            Browser(script=False) as sender,
            Browser(script=False) as victim,
            Browser(script=False) as other,
        ):
            attacker = Chat(gateway, ANN)
            link = await key_link_of(attacker)
            await victim.open(link)
            page = await sender.press(await sender.open(link))
            await attacker.say(f"confirm {page.code}")
            form = await sender.press(page, "look")
            own = (await victim.open(link)).fields.get("form", "")
            before = await stored(gateway)

            for browser in (victim, other):
                for fields in (form.fields, page.fields, form.fields | {"ours": own}, form.fields | {"ours": ""}):
                    for action in ({"action": "look"}, {"action": "key", "key0": KEY}, {"action": "code"}):
                        forged = await browser.request("POST", link, data={**fields, **action})
                        assert forged.status == 403
                        assert "key0" not in forged.fields

            assert await stored(gateway) == before
            assert (await sender.press(form, "key", key0=KEY)).heading == "The key for my-api is stored"

    async def test_a_code_that_is_over_is_renewed(self, tmp_path: Path, oauth: OAuthServer) -> None:
        clock = Clock()
        async with (
            public_gateway(tmp_path, api(oauth), verify="code", clock=clock) as gateway,
            Browser(script=False) as browser,
        ):
            chat = Chat(gateway, ANN)
            page = await self.form(chat, browser)
            clock.ahead = 301
            over = await browser.press(page, "look")
            assert not over.has_code

            renewed = await browser.press(over, "code")

            assert renewed.code != page.code
            await chat.say(f"confirm {renewed.code}")
            form = await browser.press(renewed, "look")
            assert (await browser.press(form, "key", key0=KEY)).heading == "The key for my-api is stored"
