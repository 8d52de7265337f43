"""Listing, signing in, privacy and pasting: what is said in the chat alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from adapters.testing.harness import ANN, BOB, EVE
from adapters.testing.ports import free_port
from adapters.testing.scenarios import Scenarios, needs, three, unreadable_address
from gateway.demo.authorization_server import ACCOUNT
from gateway.demo.browser import answer_consent, press
from gateway.demo.run import KEY_VARIABLE, Demo
from gateway.invocations import LOCAL


class Conversations(Scenarios):
    # -- listing -----------------------------------------------------------------------------

    async def test_the_list_shows_every_server_and_what_to_do(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, three) as world:
            await world.harness.say(ANN, "/mcp")

            shown = await world.sees("MCP Servers")

            assert "sign-in needed" in shown.text
            assert f"key missing: {KEY_VARIABLE}" in shown.text
            assert f"{world.harness.prefix} auth" in shown.text

    async def test_a_detail_and_help_and_a_misspelt_word_are_answered(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, three) as world:
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
        async with self.world(tmp_path, three) as world:
            await world.harness.say(ANN, "/mcp auth notes")
            link = await world.link()

            page = await press(link, "allow")

            assert "signed in" in page
            await world.sees("notes: signed in")
            assert await world.calls_a_tool() == "ada@example.com"

    async def test_a_refusal_at_the_consent_page_is_told(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, three) as world:
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
        async with self.world(tmp_path, three) as world:
            await world.harness.say(ANN, "/mcp auth notes")
            link = await world.link()
            await world.restart()

            await press(link, "allow")

            await world.sees("notes: signed in")
            assert await world.calls_a_tool() == "ada@example.com"

    async def test_an_open_sign_in_is_cancelled_and_a_finished_one_logged_out(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, three) as world:
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
        async with self.world(tmp_path, three) as world:
            needs(world.harness.has_groups, "groups")
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
        async with self.world(tmp_path, three) as world:
            needs(world.harness.has_groups, "groups")
            needs(world.harness.close_private(ANN), "refused private messages")
            await world.harness.say(ANN, "/mcp auth notes", group=True)

            await world.eventually(lambda: world.harness.seen(ANN), "an answer")
            await world.quiet()

            assert not world.links(ANN)
            assert not world.links(BOB)
            assert "private" in world.text(ANN)

    async def test_a_button_works_for_the_one_it_was_made_for(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, three) as world:
            needs(world.harness.has_buttons, "buttons")
            await world.harness.say(ANN, "/mcp")
            await world.sees("MCP Servers")

            await world.harness.press(ANN, "Sign in")

            await press(await world.link(), "allow")
            await world.sees("notes: signed in")

    async def test_a_press_by_somebody_else_is_refused(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, three, allow=(ANN, BOB), identity="per_user") as world:
            needs(world.harness.has_groups and world.harness.has_buttons, "buttons in groups")
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
        async with self.world(tmp_path, three) as world:
            needs(world.harness.platform != "cli", "strangers")
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
        async with self.world(tmp_path, three) as world:
            needs(world.harness.platform != "cli", "double deliveries")
            await world.harness.say(ANN, "/mcp help", times=2)
            await world.sees(f"{world.harness.prefix} logout SERVER")
            await world.quiet()

            line = f"{world.harness.prefix} logout SERVER"
            assert sum(line in one.text for one in world.harness.seen(ANN)) == 1

    # -- pasting ---------------------------------------------------------------------------

    async def test_the_address_of_the_last_page_is_pasted_in_private_and_never_used_in_a_group(
        self, tmp_path: Path
    ) -> None:
        async with self.world(tmp_path, three) as world:
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
        async with self.world(tmp_path, three, identity="per_user", allow_paste=True) as world:
            needs(world.harness.platform != "cli", "other people")
            await world.harness.say(ANN, "/mcp auth notes")
            redirect = await answer_consent(await world.link(), "allow")
            await world.harness.say(EVE, redirect)
            await world.sees("I do not know you", EVE)
            await world.operator.allow(str(world.harness.principal(BOB)), LOCAL)

            await world.harness.say(BOB, redirect)

            await world.sees("begun by somebody else", BOB)
            assert not await world.is_signed_in(BOB)
            assert not await world.is_signed_in(ANN)
            await world.harness.say(ANN, redirect)
            await world.sees("notes: signed in")
            assert await world.is_signed_in(ANN)
            assert "notes" not in world.text(EVE)

    async def test_an_address_that_cannot_be_judged_is_answered_all_the_same(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, three) as world:
            await world.harness.say(ANN, await unreadable_address(world.gateway))

            await world.sees("cannot be read")

            assert "code-canary" not in world.text()

    async def test_the_end_is_told_when_nothing_can_be_edited_any_more(self, tmp_path: Path) -> None:
        async with self.world(tmp_path, three) as world:
            await world.harness.say(ANN, "/mcp auth notes")
            link = await world.link()
            await world.quiet()
            needs(world.harness.close_edits(), "message that can no longer be edited")
            before = len(world.harness.seen(ANN))

            await press(link, "allow")

            await world.eventually(
                lambda: any("notes: signed in" in one.text for one in world.harness.seen(ANN)[before:]),
                "the end is told in a new message",
            )
