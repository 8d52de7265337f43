"""The code that proves who sits at the browser."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.replies import Ignored
from mcp_auth import tickets
from mcp_auth.audit import Event
from mcp_auth.errors import CodeRejected
from mcp_auth.limits import CODES
from tests.attacks.scene import api, notes
from tests.browser import Browser
from tests.gateway.chat import Chat, words
from tests.public import ANN, BOB, Clock, key_link_of, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer

WRONG = ["ACDE-FGHJ", "KMNP-QRTW", "3467-9ACD", "YYYY-YYYY", "XXXX-XXXX", "WWWW-WWWW", "TTTT-TTTT"]


async def test_brute_force_ends_after_five_and_the_right_code_comes_too_late(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await link_of(chat)))

        said = [words((await chat.say(f"confirm {guess}"))[0]) for guess in WRONG[:5]]
        (late,) = await chat.say(f"confirm {page.code}")

        assert "4 tries are left" in said[0]
        assert "fifth wrong code" in said[4]
        assert not late.ok
        assert (await browser.open(page.url)).heading == "notes is not connected"


async def test_guesses_beside_each_other_are_counted_too(tmp_path: Path, oauth: OAuthServer) -> None:
    """All guesses start before any of them has been answered."""
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as browser:
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        guesses = [*WRONG, *WRONG, *WRONG, page.code]

        answers = await asyncio.gather(
            *(gateway.auth.confirm(guess, str(ANN), private=True) for guess in guesses), return_exceptions=True
        )

        assert all(isinstance(answer, CodeRejected) for answer in answers)
        assert (await browser.open(page.url)).next is None


async def test_a_new_code_gives_no_new_tries(tmp_path: Path, oauth: OAuthServer) -> None:
    clock = Clock()
    async with public_gateway(tmp_path, notes(oauth), verify="code", clock=clock) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await link_of(chat)))
        for guess in WRONG[:4]:
            await chat.say(f"confirm {guess}")
        clock.later = 301
        page = await browser.press(await browser.open(page.url), "code")

        assert "fifth wrong code" in words((await chat.say(f"confirm {WRONG[4]}"))[0])


async def test_a_new_link_gives_no_new_tries(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        await browser.press(await browser.open(await link_of(chat)))
        for guess in WRONG[:4]:
            await chat.say(f"confirm {guess}")
        await browser.press(await browser.open(await link_of(chat)))

        assert "fifth wrong code" in words((await chat.say(f"confirm {WRONG[4]}"))[0])


async def test_another_principals_wrong_codes_neither_count_nor_burn(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
        chat, other = Chat(gateway, ANN), Chat(gateway, BOB)
        page = await browser.press(await browser.open(await link_of(chat)))
        for guess in WRONG:
            assert "No page of yours waits" in words((await other.say(f"confirm {guess}"))[0])

        assert (await chat.say(f"confirm {page.code}"))[0].ok


async def test_code_typed_in_a_group_by_the_right_person_is_not_taken(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))

        (refused,) = await Chat(gateway, ANN, private=False).say(f"confirm {page.code}")

        assert "only in a private chat" in words(refused)
        assert (await browser.open(page.url)).next is None
        assert (await Chat(gateway, ANN).say(f"confirm {page.code}"))[0].ok


async def test_code_after_its_time(tmp_path: Path, oauth: OAuthServer) -> None:
    clock = Clock()
    async with public_gateway(tmp_path, notes(oauth), verify="code", clock=clock) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await link_of(chat)))
        clock.later = 300

        assert "older than five minutes" in words((await chat.say(f"confirm {page.code}"))[0])
        assert (await browser.open(page.url)).next is None


async def test_a_code_counts_once(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await link_of(chat)))
        assert (await chat.say(f"confirm {page.code}"))[0].ok
        assert not (await chat.say(f"confirm {page.code}"))[0].ok


async def test_the_code_of_one_page_does_not_release_another(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), api(oauth), verify="code") as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        oauth.knobs.api_key = None
        sign_in = await browser.press(await browser.open(await link_of(chat)))
        key = await browser.press(await browser.open(await key_link_of(chat)))
        assert sign_in.code != key.code

        await chat.say(f"confirm {key.code}")

        assert (await browser.open(sign_in.url)).heading == "Is it you?"
        assert (await browser.open(key.url)).heading == "Enter a key for my-api"


async def test_a_stranger_who_is_not_allowed_learns_nothing_about_codes(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as browser:
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        wrong = await Chat(gateway, BOB).say("confirm ACDE-FGHJ")
        assert "I do not know you" in words(wrong[0])
        assert (await browser.open(page.url)).heading == "Is it you?"


@pytest.mark.parametrize("known", [False, True], ids=["first words", "was told a moment ago"])
async def test_a_stranger_who_was_sent_the_link_and_types_the_code_stops_it_and_is_warned(
    tmp_path: Path, oauth: OAuthServer, known: bool
) -> None:
    """Most victims are nobody's colleagues: told only that they are unknown, they would read the code to the sender."""
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as victim:
        sender, stranger = Chat(gateway, ANN), Chat(gateway, BOB)
        page = await victim.press(await victim.open(await link_of(sender)))
        if known:
            await stranger.say("")
        assert not isinstance(gateway.decide(stranger.invocation(f"confirm {page.code}")), Ignored)

        (warned,) = await stranger.say(f"confirm {page.code}")

        assert "whoever sent you that link" in words(warned)
        assert "/mcp auth" not in words(warned)
        assert await sender.notice("Somebody else opened the link for notes")
        assert (await victim.open(page.url)).next is None
        assert oauth.requests("/authorize") == []


async def test_strangers_do_not_guess_codes(tmp_path: Path, oauth: OAuthServer) -> None:
    """However fast: beyond a few tries not even the right one is looked at."""
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as browser:
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        stranger = Chat(gateway, BOB)
        for _ in range(CODES.amount):
            await stranger.say("confirm ACDE-FGHJ")

        assert await stranger.say(f"confirm {page.code}") == []

        assert (await browser.open(page.url)).heading == "Is it you?"
        recorded = [line.what for line in gateway.auth.audit.lines()]
        assert Event.WRONG_CODE not in recorded


def test_codes_look_like_nothing_else_and_are_many() -> None:
    made = {tickets.code_for(tickets.new_secret(), "n") for _ in range(500)}
    assert len(made) == 500
    assert not set("".join(made)) & set("0O1IL2Z5S8BUV")
    assert all(len(code) == 8 for code in made)


@pytest.mark.parametrize("typed", ["acde fghj", "ACDE-FGHJ", " ac-de–fg hj ", "ACDEFGHJ"])
def test_a_code_is_read_however_it_is_typed(typed: str) -> None:
    assert tickets.typed_code(typed) == "ACDEFGHJ"
