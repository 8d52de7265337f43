"""The code that proves who sits at the browser."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters import buttons
from gateway.invocations import Principal
from gateway.replies import Audience, Ignored
from mcp_auth.audit import Event
from mcp_auth.errors import CodeRejected
from mcp_auth.limits import CODES
from mcp_auth.links import tickets
from tests.attacks.scene import api, notes
from tests.browser import Browser
from tests.gateway.chat import Chat, words
from tests.homes import Clock
from tests.public import ANN, BOB, key_link_of, link_of, public_gateway, team
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
        clock.ahead = 301
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
        clock.ahead = 300

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


PHONE = "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari"


class TestLinksThatBringACode:
    """`/start` and prefilled messages: anybody can send somebody a link that brings a code of theirs."""

    async def test_it_says_what_it_is_for_and_only_its_button_confirms(
        self, tmp_path: Path, oauth: OAuthServer
    ) -> None:
        async with public_gateway(tmp_path, notes(oauth), verify="auto") as gateway, Browser() as browser:
            browser.client.headers["User-Agent"] = PHONE
            chat = Chat(gateway, ANN)
            page = await browser.press(await browser.open(await link_of(chat)))

            (reply,) = await chat.say(f"review-code {page.code}")

            said = words(reply)
            for part in ("notes", "Chrome on Android", "127.0.0.1", "just now", "only if that is you"):
                assert part in said
            assert reply.audience is Audience.CALLER
            assert (await browser.open(page.url)).heading == "Is it you?"
            (button,) = reply.buttons
            assert button.url is None
            packed = buttons.pack(button.command or "", ANN, gateway.names())
            command = buttons.unpack(packed, gateway.names())
            assert command == f"confirm {page.code.replace('-', '')}"
            assert (await chat.say(command))[0].ok
            assert (await browser.open(page.url)).next is not None

    async def test_it_says_how_old_the_request_is_and_takes_no_old_code(
        self, tmp_path: Path, oauth: OAuthServer
    ) -> None:
        clock = Clock()
        async with (
            public_gateway(tmp_path, notes(oauth), api(oauth), verify="auto", clock=clock) as gateway,
            Browser() as browser,
        ):
            chat = Chat(gateway, ANN)
            page = await browser.press(await browser.open(await key_link_of(chat)))
            clock.ahead = 181
            (reply,) = await chat.say(f"review-code {page.code}")
            assert "Enter a key for my-api" in words(reply)
            assert "3 minutes ago" in words(reply)
            assert "an unknown browser" in words(reply)
            clock.ahead = 301
            (late,) = await chat.say(f"review-code {page.code}")
            assert "older than five minutes" in words(late)
            assert late.buttons == ()

    async def test_wrong_ones_are_guesses_and_right_ones_are_none(self, tmp_path: Path, oauth: OAuthServer) -> None:
        async with public_gateway(tmp_path, notes(oauth), verify="auto") as gateway, Browser() as browser:
            chat = Chat(gateway, ANN)
            page = await browser.press(await browser.open(await link_of(chat)))
            for _ in range(3):
                assert (await chat.say(f"review-code {page.code}"))[0].ok
            assert "4 tries are left" in words((await chat.say(f"review-code {WRONG[0]}"))[0])
            for guess in WRONG[1:5]:
                await chat.say(f"review-code {guess}")
            assert (await browser.open(page.url)).heading == "notes is not connected"

    @pytest.mark.parametrize("allowed", [True, False], ids=["colleague", "stranger"])
    async def test_in_somebody_elses_hands_it_ends_the_sign_in(
        self, tmp_path: Path, oauth: OAuthServer, allowed: bool
    ) -> None:
        options = team() if allowed else {"verify": "auto"}
        async with public_gateway(tmp_path, notes(oauth), **options) as gateway, Browser() as victim:
            page = await victim.press(await victim.open(await link_of(Chat(gateway, ANN))))

            (warned,) = await Chat(gateway, BOB).say(f"review-code {page.code}")

            assert "whoever sent you that link" in words(warned)
            assert (await victim.open(page.url)).next is None

    async def test_not_in_a_group(self, tmp_path: Path, oauth: OAuthServer) -> None:
        async with public_gateway(tmp_path, notes(oauth), verify="auto") as gateway, Browser() as browser:
            page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
            (reply,) = await Chat(gateway, ANN, private=False).say(f"review-code {page.code}")
            assert "only in a private chat" in words(reply)
            assert reply.buttons == ()


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "not allowed itself"])
@pytest.mark.parametrize("verb", ["confirm", "review-code"])
async def test_another_account_of_the_same_person_is_told_which_one_asked_and_nothing_burns(
    tmp_path: Path, oauth: OAuthServer, allowed: bool, verb: str
) -> None:
    discord = Principal("discord", "42")
    options = {
        "allow": (str(ANN), str(discord)) if allowed else (str(ANN),),
        "people": {"ann": (str(ANN), str(discord))},
        "verify": "auto",
    }
    async with public_gateway(tmp_path, notes(oauth), **options) as gateway, Browser() as browser:
        chat, other = Chat(gateway, ANN), Chat(gateway, discord)
        page = await browser.press(await browser.open(await link_of(chat)))

        (reply,) = await other.say(f"{verb} {page.code}")

        assert "another account of yours (Telegram …0001)" in words(reply)
        assert not reply.ok
        assert (await browser.open(page.url)).code == page.code
        recorded = [line.what for line in gateway.auth.audit.lines()]
        assert Event.SIGN_IN_BURNED not in recorded
        assert (await chat.say(f"confirm {page.code}"))[0].ok


def test_codes_look_like_nothing_else_and_are_many() -> None:
    made = {tickets.code_for(tickets.new_secret(), "n") for _ in range(500)}
    assert len(made) == 500
    assert not set("".join(made)) & set("0O1IL2Z5S8BUV")
    assert all(len(code) == 8 for code in made)


@pytest.mark.parametrize("typed", ["acde fghj", "ACDE-FGHJ", " ac-de–fg hj ", "ACDEFGHJ"])
def test_a_code_is_read_however_it_is_typed(typed: str) -> None:
    assert tickets.typed_code(typed) == "ACDEFGHJ"
