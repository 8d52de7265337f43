"""Cross-user fixation: a link in somebody else's hands must not bind that person's account to the sender's chat."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mcp_auth.status import AuthState
from tests.attacks.scene import notes, stored
from tests.browser import Browser
from tests.gateway.chat import Chat, words
from tests.public import ANN, BOB, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer, authorize


async def test_forwarded_link_stops_at_a_code_that_the_sender_never_sees(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as victim:
        attacker = Chat(gateway, ANN)
        link = await link_of(attacker)

        page = await victim.press(await victim.open(link))

        assert page.heading == "Is it you?"
        assert page.next is None
        for guess in ("ACDE-FGHJ", "KMNP-QRTW", "XYXY-XYXY", "3467-9ACD", "9999-9999"):
            assert not (await attacker.say(f"confirm {guess}"))[0].ok
        assert (await victim.open(page.url)).heading == "notes is not connected"
        assert oauth.requests("/authorize") == []
        assert oauth.requests("/token") == []


async def test_forwarded_link_cannot_be_watched_by_the_sender(tmp_path: Path, oauth: OAuthServer) -> None:
    """Neither the page nor its state tells the sender's browser the code."""
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as victim, Browser() as sender:
        link = await link_of(Chat(gateway, ANN))
        code = (await victim.press(await victim.open(link))).code

        for url in (link, f"{link}/state"):
            page = await sender.open(url)
            assert page.status in (403, 404)
            assert code not in page.source


async def test_forwarded_by_one_allowed_person_to_another_who_types_the_code(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as victim:
        ann, bob = Chat(gateway, ANN), Chat(gateway, BOB)
        page = await victim.press(await victim.open(await link_of(ann)))

        (warned,) = await bob.say(f"confirm {page.code}")

        assert not warned.ok
        assert "whoever sent you that link" in words(warned)
        told = await ann.notice("Somebody else opened the link for notes")
        assert not told.reply.ok
        assert (await victim.open(page.url)).next is None
        assert oauth.requests("/authorize") == []
        assert (await gateway.auth.status("notes", f"principal:{ANN}")).auth is AuthState.SIGN_IN_NEEDED


async def test_a_code_that_the_victim_types_in_a_group_burns_it_before_the_sender_can_use_it(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as victim:
        page = await victim.press(await victim.open(await link_of(Chat(gateway, ANN))))

        (warned,) = await Chat(gateway, BOB, private=False).say(f"confirm {page.code}")
        (late,) = await Chat(gateway, ANN).say(f"confirm {page.code}")

        assert "whoever sent you that link" in words(warned)
        assert not late.ok
        assert (await victim.open(page.url)).next is None


async def test_the_authorization_servers_url_forwarded_after_the_proof(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as sender, Browser() as victim:
        attacker = Chat(gateway, ANN)
        page = await sender.press(await sender.open(await link_of(attacker)))
        await attacker.say(f"confirm {page.code}")
        page = await sender.open(page.url)
        assert page.next is not None

        approved = await asyncio.to_thread(authorize, page.next)
        page = await victim.open(approved)

        assert page.heading == "This goes on in another browser"
        assert page.status == 403
        assert oauth.requests("/token") == []
        assert (await gateway.auth.status("notes", f"principal:{ANN}")).auth is AuthState.SIGN_IN_OPEN


async def test_the_only_allowed_persons_link_is_bound_to_the_first_browser(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as mine, Browser() as stranger:
        link = await link_of(Chat(gateway, ANN))
        page = await mine.press(await mine.open(link))

        assert (await stranger.open(link)).heading == "This goes on in another browser"
        answer = await stranger.request("POST", link, data={"action": "continue"})

        assert answer.status == 403
        assert (await mine.open(await mine.authorize(page))).heading == "notes is connected"


async def test_a_link_of_another_person_does_not_hand_out_the_account_that_was_connected(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    oauth.knobs.id_token_claims = {"email": "ada@example.com"}
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as mine, Browser() as stranger:
        link = await link_of(Chat(gateway, ANN))
        done = await mine.sign_in(link)

        for url in (link, done.url):
            assert "ada" not in (await stranger.open(url)).source


async def test_somebody_elses_open_sign_in_to_a_shared_server_is_not_taken_over(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    both = {"allow": (str(ANN), str(BOB)), "admins": (str(ANN), str(BOB))}
    async with public_gateway(tmp_path, notes(oauth), **both) as gateway:
        await link_of(Chat(gateway, ANN))
        before = await stored(gateway)

        (*_, last) = await Chat(gateway, BOB).say("auth notes")

        assert "Another account is signing notes in" in words(last)
        assert await stored(gateway) == before
