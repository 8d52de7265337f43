"""The public endpoint and the people: by whom a sign-in is judged, what is recorded of it, and how often."""

from __future__ import annotations

from pathlib import Path

from gateway.gateway import Gateway
from gateway.invocations import LOCAL
from gateway.people import People
from mcp_auth.audit import AuditLine, Event
from mcp_auth.config.models import Server
from mcp_auth.limits import CONFIRMS, KEY_TRIES
from mcp_auth.records import sha256
from tests.browser import Browser
from tests.gateway.chat import Chat, words
from tests.public import ANN, BOB, another_process, key_link_of, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer


def notes(oauth: OAuthServer) -> Server:
    return Server(name="notes", url=oauth.url, auth="oauth")


def recorded(gateway: Gateway, *what: Event) -> list[AuditLine]:
    return [line for line in gateway.auth.audit.lines() if line.what in what]


async def test_a_sign_in_is_recorded_with_the_hash_of_its_ticket(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        link = await link_of(Chat(gateway, ANN))
        ticket = link.rpartition("/")[2]

        await browser.sign_in(link)

        found = recorded(gateway, Event.SIGN_IN_BEGUN, Event.SIGN_IN_ENDED)
        assert [(line.what, line.who, line.outcome, line.ticket) for line in found] == [
            (Event.SIGN_IN_BEGUN, str(ANN), None, sha256(ticket)),
            (Event.SIGN_IN_ENDED, str(ANN), "done", sha256(ticket)),
        ]
        text = (tmp_path / "audit.jsonl").read_text()
        assert ticket not in text and "http" not in text


async def test_wrong_codes_and_a_burned_sign_in_are_recorded(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
        ann, bob = Chat(gateway, ANN), Chat(gateway, BOB)
        page = await browser.press(await browser.open(await link_of(ann)))

        await ann.say("confirm ACDE-FGHJ")
        await bob.say(f"confirm {page.code}")

        (wrong,) = recorded(gateway, Event.WRONG_CODE)
        assert (wrong.who, wrong.outcome) == (str(ANN), "confirm")
        (burned,) = recorded(gateway, Event.SIGN_IN_BURNED)
        assert (burned.who, burned.whom, burned.server, burned.owner) == (
            str(BOB),
            str(ANN),
            "notes",
            f"principal:{ANN}",
        )
        assert burned.ticket is not None
        (ended,) = recorded(gateway, Event.SIGN_IN_ENDED)
        assert (ended.who, ended.outcome) == (str(ANN), "failed")
        assert page.code not in (tmp_path / "audit.jsonl").read_text()


async def test_a_second_person_let_in_by_another_process_asks_for_the_proof_at_once(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with public_gateway(tmp_path, notes(oauth), identity="per_user") as gateway, Browser() as browser:
        ann = Chat(gateway, ANN)
        link = await link_of(ann)

        await another_process(gateway).allow(str(BOB), LOCAL)

        page = await browser.press(await browser.open(link))
        assert page.heading == "Is it you?"
        assert page.next is None


async def test_a_person_shut_out_by_another_process_finishes_nothing(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
        bob = Chat(gateway, BOB)
        page = await browser.press(await browser.open(await link_of(bob)))
        await bob.say(f"confirm {page.code}")
        redirect = await browser.authorize(await browser.open(page.url))

        await People(gateway.auth.config, backend=gateway.backend).deny(str(BOB), LOCAL)

        assert (await browser.open(redirect)).heading == "notes is not connected"
        assert oauth.requests("/token") == []
        assert "does not serve you" in words((await bob.say("auth notes"))[0])


async def test_attack_confirmation_codes_are_not_guessed_over_many_sign_ins(tmp_path: Path, oauth: OAuthServer) -> None:
    """Five tries end a sign-in; who begins again and again is bounded by the person's own rate."""
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
        ann = Chat(gateway, ANN)
        said = []
        for _ in range(CONFIRMS.amount - 10):
            gateway.auth.limits.take(CONFIRMS, str(ANN))
        for _ in range(3):
            await browser.press(await browser.open(await link_of(ann)))
            said += [words((await ann.say(f"confirm ACDE-FGH{last}"))[-1]) for last in "34679"]

        assert sum("too often" in text for text in said) == 5
        assert len(recorded(gateway, Event.WRONG_CODE)) == 10


async def test_keys_on_the_page_are_bounded_with_those_of_the_chat(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.api_key = "sk-canary-0123456789"
    server = Server(name="my-api", url=oauth.url, headers={"Authorization": "Bearer ${MY_API_KEY}"})
    async with public_gateway(tmp_path, server) as gateway, Browser() as browser:
        page = await browser.press(await browser.open(await key_link_of(Chat(gateway, ANN))))
        page = await browser.press(page, "key", key0="sk-wrong")
        assert [line.who for line in recorded(gateway, Event.KEY_REFUSED)] == [str(ANN)]
        for _ in range(KEY_TRIES.amount - 1):
            gateway.auth.limits.take(KEY_TRIES, str(ANN))

        page = await browser.press(page, "key", key0="sk-canary-0123456789")

        assert "too often" in page.text
        assert recorded(gateway, Event.KEY_SET) == []
        assert not gateway.config.env_file.exists()
