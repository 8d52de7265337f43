"""Links and forms of our own, letting people in, and keys."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from adapters.testing.harness import ANN, BOB, EVE
from adapters.testing.scenarios import Scenarios, is_secret, needs, three
from adapters.testing.world import World
from gateway.demo.authorization_server import ACCOUNT
from gateway.demo.browser import Browser, Page
from gateway.invocations import LOCAL
from mcp_auth.status import AuthState

_LET_IN = re.compile(r"slash-mcp allow ([A-Z0-9-]+)")


class Pages(Scenarios):
    # -- the public endpoint -----------------------------------------------------------------

    async def test_a_link_of_our_own_leads_to_a_tool_call_and_the_account_is_named(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, three, public=True) as world, Browser() as browser:
            await world.harness.say(ANN, "/mcp auth notes", group=world.harness.has_groups)
            link = await world.link()
            await world.quiet()
            assert link.startswith(f"{world.gateway.config.gateway.public_url}/a/")
            assert not world.links(BOB)
            assert not [one for one in world.harness.seen(ANN) if one.public and one.links]

            # With one allowed person, too: anybody can be sent the link.
            page = await browser.press(await browser.open(link))
            await world.harness.say(ANN, f"/mcp confirm {page.code}")
            last = await browser.finish(await browser.released(page))

            assert last.heading == "notes is connected"
            await world.sees(f"signed in as {ACCOUNT}")
            assert await world.calls_a_tool() == ACCOUNT
            await world.quiet()
            assert ACCOUNT not in world.text(BOB)
            assert not [one for one in world.harness.seen(ANN) if one.public and ACCOUNT in one.text]

    async def test_a_code_sent_in_private_by_the_one_who_asked_lets_the_page_go_on(self, tmp_path: Path) -> None:
        async with self.team(tmp_path) as world, Browser() as browser:
            page = await self._code_page(world, browser)
            if world.harness.has_groups and world.harness.reads_along:
                await world.harness.say(ANN, f"/mcp confirm {page.code}", group=True)
                await world.sees("only in a private chat")
                assert (await browser.open(page.url)).has_code

            await world.harness.say(ANN, f"/mcp confirm {page.code}")
            last = await browser.finish(await browser.released(page))

            assert last.heading == "notes is connected"
            await world.sees(f"notes: signed in as {ACCOUNT}")
            assert await world.calls_a_tool(world.owner(ANN)) == ACCOUNT
            assert not await world.is_signed_in(BOB)
            assert not world.links(BOB)

    async def test_a_code_sent_by_somebody_else_ends_the_sign_in_and_warns_both(self, tmp_path: Path) -> None:
        async with self.team(tmp_path) as world, Browser() as browser:
            page = await self._code_page(world, browser)

            await world.harness.say(BOB, f"/mcp confirm {page.code}")

            await world.sees("do not open such links", BOB)
            await world.sees("Somebody else opened the link for notes")
            assert (await browser.open(page.url)).heading == "notes is not connected"
            assert not await world.gateway.auth.open_sign_ins()

    async def test_a_code_sent_by_a_stranger_ends_the_sign_in_and_warns_both(self, tmp_path: Path) -> None:
        async with self.team(tmp_path) as world, Browser() as browser:
            page = await self._code_page(world, browser)

            await world.harness.say(EVE, f"/mcp confirm {page.code}")

            await world.sees("whoever sent you that link", EVE)
            await world.sees("Somebody else opened the link for notes")
            assert not await world.gateway.auth.open_sign_ins()

    async def test_no_log_holds_what_a_sign_in_is_made_of(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As somebody sees it who turned DEBUG on for everything: before the start, and again for each logger."""
        caplog.set_level(logging.DEBUG)
        async with self.team(tmp_path) as world, Browser() as browser:
            await world.harness.say(ANN, "/mcp")
            await world.sees("MCP Servers")
            for name in list(logging.root.manager.loggerDict):
                caplog.set_level(logging.DEBUG, name)
            page = await self._code_page(world, browser)
            secrets = [page.url.rpartition("/")[2], page.code, page.code.replace("-", "")]
            await world.harness.say(ANN, f"/mcp confirm {page.code}")
            redirect = await browser.consent((await browser.released(page)).next or "", "allow")
            await browser.open(redirect)
            secrets += [value for name, value in parse_qsl(urlsplit(redirect).query) if name in ("code", "state")]
            secrets += browser.storage.values()
            await world.sees("notes: signed in")
            await world.harness.say(EVE, "/mcp")
            pairing = await world.eventually(lambda: _LET_IN.search(world.text(EVE)), "Eve is given a code")
            secrets.append(pairing.group(1))
            secrets += [
                await world.gateway.auth.access_token("notes", world.owner(ANN)),
                *browser.client.cookies.values(),
            ]
            secrets += [str(value) for value in world.harness.section().values() if is_secret(value)]
            assert len(secrets) >= 8
        # What httpx2 says here is of this scenario's own browser.
        watched = [record for record in caplog.records if not record.name.startswith(("httpx2", "httpcore2"))]
        leaks = {
            f"{one.name} {one.levelname}"
            for one in watched
            for secret in secrets
            if secret in caplog.handler.format(one)
        }
        assert not leaks, sorted(leaks)
        assert any(one.levelno == logging.DEBUG for one in watched)

    async def test_a_page_goes_on_with_a_process_that_started_later(self, tmp_path: Path) -> None:
        async with self.team(tmp_path) as world, Browser() as browser:
            page = await self._code_page(world, browser)
            await world.restart()

            await world.harness.say(ANN, f"/mcp confirm {page.code}")
            last = await browser.finish(await browser.released(page))

            assert last.heading == "notes is connected"
            await world.sees("notes: signed in")
            assert await world.is_signed_in(ANN)

    async def test_a_key_is_typed_into_a_form_that_one_person_gets(self, tmp_path: Path) -> None:
        async with self.team(tmp_path) as world, Browser() as browser:
            await world.harness.say(ANN, "/mcp key weather", group=world.harness.has_groups)
            link = await world.link()
            await world.quiet()
            assert not world.links(BOB)
            page = await browser.press(await browser.open(link))
            await world.harness.say(ANN, f"/mcp confirm {page.code}")

            page = await browser.press(await browser.released(page), "key", key0="wrong-key-canary")
            assert "refuses this key" in page.text
            page = await browser.press(page, "key", key0=world.demo.weather_key)

            assert page.heading == "The key for weather is stored"
            await world.sees("stored")
            status = await world.gateway.auth.status("weather", world.owner(ANN))
            assert status.auth is AuthState.KEY_SET
            for person in (ANN, BOB, EVE):
                assert world.demo.weather_key not in world.text(person)
                assert "wrong-key-canary" not in world.text(person)

    @asynccontextmanager
    async def team(self, folder: Path) -> AsyncIterator[World]:
        """Two allowed people with a public endpoint, each with their own credentials: proof is asked for."""
        async with self.world(folder, three, allow=(ANN, BOB), public=True, identity="per_user") as world:
            yield world

    async def _code_page(self, world: World, browser: Browser) -> Page:
        """Ann asks and presses Continue: the page that shows her the code."""
        await world.harness.say(ANN, "/mcp auth notes")
        page = await browser.press(await browser.open(await world.link()))
        assert page.has_code, page.text
        return page

    # -- pairing -----------------------------------------------------------------------------

    async def test_a_stranger_is_let_in_by_a_code_and_shut_out_again(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, three, identity="per_user") as world:
            needs(world.harness.platform != "cli", "strangers")
            if world.harness.has_groups and world.harness.reads_along:
                await world.harness.say(BOB, "/mcp", group=True)
                await world.sees("Write to me in private", BOB)
                assert not _LET_IN.search(world.text(BOB))
            await world.harness.say(EVE, "/mcp")
            code = await world.eventually(lambda: _LET_IN.search(world.text(EVE)), "Eve is given a code")
            await world.quiet()
            assert code.group(1) not in world.text(ANN) + world.text(BOB)

            await world.operator.allow(code.group(1), LOCAL)

            await world.sees("You have been let in", EVE)
            await world.harness.say(EVE, "/mcp")
            await world.sees("MCP Servers", EVE)

            await world.operator.deny(str(world.harness.principal(EVE)), LOCAL)

            await world.harness.say(EVE, "/mcp auth notes")
            await world.sees("does not serve you", EVE)
            assert not world.links(EVE)

    # -- keys --------------------------------------------------------------------------------

    async def test_a_key_is_entered_tried_and_stored_and_shown_to_nobody(self, tmp_path: Path) -> None:
        options = {"secrets_in_chat": True} if self.make_harness().platform != "cli" else None
        async with self.world(tmp_path, three, options=options) as world:
            needs(world.harness.capabilities.secret_input, "secret input")
            await world.harness.say(ANN, "/mcp key weather")
            await world.harness.enter_secret(ANN, "wrong-key-canary")
            await world.sees("refuses this key")
            await world.harness.enter_secret(ANN, world.demo.weather_key)

            await world.sees("the key works and is stored")

            assert world.demo.weather_key in (world.home / ".env").read_text()
            for person in (ANN, BOB, EVE):
                assert world.demo.weather_key not in world.text(person)
                assert "wrong-key-canary" not in world.text(person)

    async def test_without_the_operators_word_no_secret_goes_through_the_chat(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, three) as world:
            needs(world.harness.platform != "cli", "history that would keep a secret")
            await world.harness.say(ANN, "/mcp key weather")

            shown = await world.sees(" ways: ")

            assert "slash-mcp key weather" in shown.text
            assert "public_url" in shown.text
