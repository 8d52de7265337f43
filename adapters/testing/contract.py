"""The scenarios that every adapter has to pass, ours and anybody's."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from adapters.testing.harness import ANN, BOB, EVE, Harness
from adapters.testing.ports import free_port
from adapters.testing.world import World
from gateway.demo.authorization_server import ACCOUNT
from gateway.demo.browser import Browser, Page, answer_consent, press
from gateway.demo.run import KEY_VARIABLE, Demo
from gateway.gateway import Gateway
from gateway.invocations import LOCAL
from mcp_auth.records import SHARED
from mcp_auth.status import AuthState

_LET_IN = re.compile(r"slash-mcp allow ([A-Z0-9-]+)")


class AdapterContract:
    """The scenarios. Subclass it, give `make_harness`, and every `test_...` runs over your platform."""

    def make_harness(self) -> Harness:
        raise NotImplementedError("return the harness of your platform")

    @asynccontextmanager
    async def world(
        self,
        folder: Path,
        servers: Callable[[Demo], dict[str, Any]],
        *,
        allow: Sequence[str] = (ANN,),
        options: dict[str, Any] | None = None,
        public: bool = False,
        **gateway: Any,
    ) -> AsyncIterator[World]:
        """The platform with a gateway on a new home.

        Args:
            servers: the `mcp_servers`, made from the running demo.
            options: on top of the platform's own section.
            public: with `gateway.public_url`, so that links are our own and keys are typed into a form.
            gateway: on top of the `gateway:` section.
        """
        async with AsyncExitStack() as stack:
            demo = await stack.enter_async_context(Demo(id_tokens=True))
            harness = self.make_harness()
            _needs(not public or harness.platform != "cli", "links of our own, which the operator does not need")
            stack.push_async_callback(harness.close)
            port = free_port()
            section = {
                "callback": {"port": port},
                **({"public_url": f"http://127.0.0.1:{port}"} if public else {}),
                "allow": [str(harness.principal(person)) for person in allow if harness.platform != "cli"],
                harness.platform: {**harness.section(), **(options or {})},
                **gateway,
            }
            home = folder / "home"
            home.mkdir(mode=0o700)
            (home / "config.yaml").write_text(yaml.safe_dump({"mcp_servers": servers(demo), "gateway": section}))
            world = World(harness, home, demo)
            stack.push_async_callback(world.end)
            await world.begin()
            yield world

    # -- listing -----------------------------------------------------------------------------

    async def test_the_list_shows_every_server_and_what_to_do(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three) as world:
            await world.harness.say(ANN, "/mcp")

            shown = await world.sees("MCP Servers")

            assert "sign-in needed" in shown.text
            assert f"key missing: {KEY_VARIABLE}" in shown.text
            assert f"{world.harness.prefix} auth" in shown.text

    async def test_a_detail_and_help_and_a_misspelt_word_are_answered(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three) as world:
            await world.harness.say(ANN, "/mcp weather")
            await world.sees("Variables")
            await world.harness.say(ANN, "/mcp help")
            await world.sees(f"{world.harness.prefix} logout SERVER")
            await world.harness.say(ANN, "/mcp logot notes")
            await world.sees("Did you mean")

    async def test_two_hundred_servers_fit(self, tmp_path: Path) -> None:
        def many(demo: Demo) -> dict[str, Any]:
            return {f"server-{number:03}": {"url": demo.notes_url, "auth": "oauth"} for number in range(200)}

        async with self.world(tmp_path, many) as world:
            await world.harness.say(ANN, "/mcp")

            shown = await world.sees("server-000")

            assert "server-199" in world.text() or re.search(r"\d+ more", shown.text)

    async def test_names_are_shown_as_they_are_and_notify_nobody(self, tmp_path: Path) -> None:
        names = (
            "<b>bold</b>",
            "*star*_line_",
            "@everyone",
            "[a](http://b.co)",
            "a&b`c`",
            "שרת",
            "<!channel>",
        )

        def hostile(demo: Demo) -> dict[str, Any]:
            return {name: {"url": demo.notes_url, "auth": "oauth"} for name in names}

        async with self.world(tmp_path, hostile) as world:
            await world.harness.say(ANN, "/mcp")
            shown = await world.sees("MCP Servers")

            for name in names:
                assert name in shown.text
            assert not [ping for message in world.harness.seen(ANN) for ping in message.pings]

    # -- signing in --------------------------------------------------------------------------

    async def test_one_sign_in_from_the_command_to_the_tool_call(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three) as world:
            await world.harness.say(ANN, "/mcp auth notes")
            link = await world.link()

            page = await press(link, "allow")

            assert "signed in" in page
            await world.sees("notes: signed in")
            assert await world.calls_a_tool() == "ada@example.com"

    async def test_a_refusal_at_the_consent_page_is_told(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three) as world:
            await world.harness.say(ANN, "/mcp auth notes")

            await press(await world.link(), "deny")

            await world.sees("denied")

    async def test_many_sign_ins_fail_and_succeed_each_on_its_own(self, tmp_path: Path) -> None:
        def mixed(demo: Demo) -> dict[str, Any]:
            gone = f"http://127.0.0.1:{free_port()}/mcp"
            return {
                "notes": {"url": demo.notes_url, "auth": "oauth"},
                "gone": {"url": gone, "auth": "oauth"},
                "more-notes": {"url": demo.notes_url, "auth": "oauth"},
            }

        async with self.world(tmp_path, mixed) as world:
            await world.harness.say(ANN, "/mcp auth")
            await world.eventually(lambda: len(set(world.links())) == 2, "two links")
            await world.sees("gone")

            for link in list(dict.fromkeys(world.links())):
                await press(link, "allow")

            await world.sees("notes: signed in")
            await world.sees("more-notes: signed in")

    async def test_a_sign_in_is_finished_by_a_process_that_started_later(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three) as world:
            await world.harness.say(ANN, "/mcp auth notes")
            link = await world.link()
            await world.restart()

            await press(link, "allow")

            await world.sees("notes: signed in")
            assert await world.calls_a_tool() == "ada@example.com"

    async def test_an_open_sign_in_is_cancelled_and_a_finished_one_logged_out(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three) as world:
            await world.harness.say(ANN, "/mcp auth notes")
            first = await world.link()
            await world.harness.say(ANN, "/mcp cancel notes")
            await world.sees("Cancelled: notes")
            await world.harness.say(ANN, "/mcp auth notes")
            link = await world.eventually(lambda: [one for one in world.links() if one != first][-1:], "a new link")
            await press(link[0], "allow")
            await world.sees("notes: signed in")

            await world.harness.say(ANN, "/mcp logout notes")

            await world.sees("revoked")

    # -- privacy -----------------------------------------------------------------------------

    async def test_a_link_asked_for_in_a_group_reaches_one_person_only(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three) as world:
            _needs(world.harness.has_groups, "groups")
            await world.harness.say(ANN, "/mcp auth notes", group=True)
            link = await world.link()
            await world.quiet()

            assert not [one for one in world.harness.seen(ANN) if one.public and link in one.links]
            assert not world.links(BOB)
            assert not world.links(EVE)

            await press(link, "allow")
            await world.sees("notes: signed in")
            assert "ada@example.com" not in world.text(BOB)

    async def test_without_a_private_way_nobody_sees_the_link_and_the_person_learns_why(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three) as world:
            _needs(world.harness.has_groups, "groups")
            _needs(world.harness.close_private(ANN), "refused private messages")
            await world.harness.say(ANN, "/mcp auth notes", group=True)

            await world.eventually(lambda: world.harness.seen(ANN), "an answer")
            await world.quiet()

            assert not world.links(ANN)
            assert not world.links(BOB)
            assert "private" in world.text(ANN)

    async def test_a_button_works_for_the_one_it_was_made_for(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three) as world:
            _needs(world.harness.has_buttons, "buttons")
            await world.harness.say(ANN, "/mcp")
            await world.sees("MCP Servers")

            await world.harness.press(ANN, "Sign in")

            await press(await world.link(), "allow")
            await world.sees("notes: signed in")

    async def test_a_press_by_somebody_else_is_refused(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three, allow=(ANN, BOB), identity="per_user") as world:
            _needs(world.harness.has_groups and world.harness.has_buttons, "buttons in groups")
            await world.harness.say(ANN, "/mcp", group=True)
            await world.sees("MCP Servers")
            await world.quiet()
            before = list(world.harness.seen(ANN))
            if not any(one.buttons for one in world.harness.seen(BOB)):
                pytest.skip("nobody else sees the buttons here")

            await world.harness.press(BOB, "Sign in", whose=ANN)
            await world.quiet()

            assert list(world.harness.seen(ANN)) == before
            assert not world.links(BOB)
            assert not await world.gateway.auth.open_sign_ins()

    async def test_a_stranger_learns_nothing_and_is_not_answered_twice(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three) as world:
            _needs(world.harness.platform != "cli", "strangers")
            await world.harness.say(EVE, "/mcp")
            await world.eventually(lambda: world.harness.seen(EVE), "an answer")
            first = len(world.harness.seen(EVE))
            await world.harness.say(EVE, "/mcp auth notes")
            await world.quiet()

            assert len(world.harness.seen(EVE)) == first
            assert "weather" not in world.text(EVE)
            assert not world.links(EVE)
            assert not await world.gateway.auth.open_sign_ins()

    async def test_an_event_that_arrives_twice_is_answered_once(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three) as world:
            _needs(world.harness.platform != "cli", "double deliveries")
            await world.harness.say(ANN, "/mcp help", times=2)
            await world.sees(f"{world.harness.prefix} logout SERVER")
            await world.quiet()

            line = f"{world.harness.prefix} logout SERVER"
            assert sum(line in one.text for one in world.harness.seen(ANN)) == 1

    # -- pasting ---------------------------------------------------------------------------

    async def test_the_address_of_the_last_page_is_pasted_in_private_and_never_used_in_a_group(
        self, tmp_path: Path
    ) -> None:
        async with self.world(tmp_path, _three) as world:
            await world.harness.say(ANN, "/mcp auth notes")
            redirect = await answer_consent(await world.link(), "allow")
            if world.harness.has_groups and world.harness.reads_along:
                for count, typed in enumerate((redirect, f"/mcp paste {redirect}"), start=1):
                    await world.harness.say(ANN, typed, group=True)
                    await world.sees("where others read along", times=count)
                assert [one.status for one in await world.gateway.auth.open_sign_ins()] == ["started"]

            await world.harness.say(ANN, redirect)

            await world.sees("notes: signed in")
            assert await world.calls_a_tool() == ACCOUNT

    async def test_somebody_elses_address_is_refused_and_stays_good(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three, identity="per_user", allow_paste=True) as world:
            _needs(world.harness.platform != "cli", "other people")
            await world.harness.say(ANN, "/mcp auth notes")
            redirect = await answer_consent(await world.link(), "allow")
            await world.harness.say(EVE, redirect)
            await world.sees("I do not know you", EVE)
            world.operator.allow(str(world.harness.principal(BOB)), LOCAL)

            await world.harness.say(BOB, redirect)

            await world.sees("begun by somebody else", BOB)
            assert not await world.is_signed_in(BOB)
            assert not await world.is_signed_in(ANN)
            await world.harness.say(ANN, redirect)
            await world.sees("notes: signed in")
            assert await world.is_signed_in(ANN)
            assert "notes" not in world.text(EVE)

    async def test_an_address_that_cannot_be_judged_is_answered_all_the_same(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three) as world:
            await world.harness.say(ANN, await unreadable_address(world.gateway))

            await world.sees("cannot be read")

            assert "code-canary" not in world.text()

    async def test_the_end_is_told_when_nothing_can_be_edited_any_more(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three) as world:
            await world.harness.say(ANN, "/mcp auth notes")
            link = await world.link()
            await world.quiet()
            _needs(world.harness.close_edits(), "message that can no longer be edited")
            before = len(world.harness.seen(ANN))

            await press(link, "allow")

            await world.eventually(
                lambda: any("notes: signed in" in one.text for one in world.harness.seen(ANN)[before:]),
                "the end is told in a new message",
            )

    # -- the public endpoint -----------------------------------------------------------------

    async def test_a_link_of_our_own_leads_to_a_tool_call_and_the_account_is_named(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three, public=True) as world, Browser() as browser:
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
            secrets += [str(value) for value in world.harness.section().values() if _is_secret(value)]
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
        async with self.world(folder, _three, allow=(ANN, BOB), public=True, identity="per_user") as world:
            yield world

    async def _code_page(self, world: World, browser: Browser) -> Page:
        """Ann asks and presses Continue: the page that shows her the code."""
        await world.harness.say(ANN, "/mcp auth notes")
        page = await browser.press(await browser.open(await world.link()))
        assert page.has_code, page.text
        return page

    # -- pairing -----------------------------------------------------------------------------

    async def test_a_stranger_is_let_in_by_a_code_and_shut_out_again(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, _three, identity="per_user") as world:
            _needs(world.harness.platform != "cli", "strangers")
            if world.harness.has_groups and world.harness.reads_along:
                await world.harness.say(BOB, "/mcp", group=True)
                await world.sees("Write to me in private", BOB)
                assert not _LET_IN.search(world.text(BOB))
            await world.harness.say(EVE, "/mcp")
            code = await world.eventually(lambda: _LET_IN.search(world.text(EVE)), "Eve is given a code")
            await world.quiet()
            assert code.group(1) not in world.text(ANN) + world.text(BOB)

            world.operator.allow(code.group(1), LOCAL)

            await world.sees("You have been let in", EVE)
            await world.harness.say(EVE, "/mcp")
            await world.sees("MCP Servers", EVE)

            world.operator.deny(str(world.harness.principal(EVE)), LOCAL)

            await world.harness.say(EVE, "/mcp auth notes")
            await world.sees("does not serve you", EVE)
            assert not world.links(EVE)

    # -- keys --------------------------------------------------------------------------------

    async def test_a_key_is_entered_tried_and_stored_and_shown_to_nobody(self, tmp_path: Path) -> None:
        options = {"secrets_in_chat": True} if self.make_harness().platform != "cli" else None
        async with self.world(tmp_path, _three, options=options) as world:
            _needs(world.harness.capabilities.secret_input, "secret input")
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
        async with self.world(tmp_path, _three) as world:
            _needs(world.harness.platform != "cli", "history that would keep a secret")
            await world.harness.say(ANN, "/mcp key weather")

            shown = await world.sees(" ways: ")

            assert "slash-mcp key weather" in shown.text
            assert "public_url" in shown.text


def _three(demo: Demo) -> dict[str, Any]:
    """A server behind OAuth, one behind a key, and a command."""
    headers = {"Authorization": f"Bearer ${{{KEY_VARIABLE}}}"}
    return {
        "notes": {"url": demo.notes_url, "auth": "oauth"},
        "weather": {"url": demo.weather_url, "headers": headers},
        "files": {"command": "never-started"},
    }


async def unreadable_address(gateway: Gateway) -> str:
    """The address of a sign-in whose record cannot be read: its file is a name that leads to itself."""
    slot = await gateway.auth.store.sign_ins.slot(SHARED, "notes")
    folder = gateway.config.home / "sign-ins"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / f"{slot}.json").symlink_to(folder / f"{slot}.json")
    return f"http://127.0.0.1:8765/callback?code=code-canary&state={slot}.{'x' * 43}"


def _is_secret(value: object) -> bool:
    """Tokens, among the addresses and names of a platform's section."""
    return isinstance(value, str) and len(value) >= 20 and "/" not in value and "@" not in value


def _needs(there: bool, what: str) -> None:
    if not there:
        pytest.skip(f"this platform has no {what}")
