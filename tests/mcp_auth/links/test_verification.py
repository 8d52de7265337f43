"""When a proof is asked for, and what `McpAuth` does alone, without a gateway that knows people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mcp_auth import McpAuth
from mcp_auth.audit import Event
from mcp_auth.config.models import GatewayOptions
from mcp_auth.errors import CodeRejected, WrongPerson
from mcp_auth.links import tickets
from mcp_auth.links.policy import ConfigPolicy, needs_page, needs_proof
from mcp_auth.links.verification import _TICKETS_KEPT
from mcp_auth.records import Requester, Visit, sha256
from tests.browser import Browser
from tests.homes import open_auth
from tests.servers.oauth import OAuthServer

ANN = Requester(principal="telegram:1", display_name="Ann")


@pytest.mark.parametrize(
    ("verify", "people", "asked"),
    [
        ("auto", 0, True),
        ("auto", 1, True),
        ("auto", 2, True),
        ("code", 1, True),
        ("browser", 1, True),
        ("none", 1, False),
        ("none", 2, True),
    ],
)
def test_behind_a_link_of_ours_a_proof_is_asked_for_as_the_configuration_says(
    verify: Any, people: int, asked: bool
) -> None:
    """However few may ask, anybody can be sent a link."""
    assert needs_proof(GatewayOptions(verify=verify), people) is asked


@pytest.mark.parametrize(
    ("verify", "people", "asked"),
    [("auto", 1, False), ("auto", 2, True), ("code", 1, True), ("browser", 1, True), ("none", 1, False)],
)
async def test_an_authorization_servers_own_link_is_for_one_person_and_for_the_operator(
    verify: Any, people: int, asked: bool
) -> None:
    gateway = GatewayOptions(verify=verify)
    assert needs_page(gateway, people) is asked
    allowed = tuple(f"telegram:{one}" for one in range(people))
    policy = ConfigPolicy(GatewayOptions(verify=verify, allow=allowed), {"cli:local"})
    assert (await policy.decide("telegram:1", "notes", "shared")).needs_page is asked
    assert not (await policy.decide("cli:local", "notes", "shared")).needs_page


async def test_without_a_gateway_the_people_of_the_configuration_count() -> None:
    people = {"ann": ("telegram:1", "discord:1")}
    alone = ConfigPolicy(GatewayOptions(allow=("telegram:1", "discord:1"), people=people))
    two = ConfigPolicy(GatewayOptions(allow=("telegram:1", "discord:1")))
    assert (await alone.decide("telegram:1", "notes", "shared")).needs_proof
    assert not (await alone.decide("telegram:1", "notes", "shared")).needs_page
    assert (await two.decide("telegram:1", "notes", "shared")).needs_page
    assert two.is_same_person("telegram:1", "telegram:1")
    assert not two.is_same_person("telegram:1", "discord:1")


def opened(folder: Path, oauth: OAuthServer) -> McpAuth:
    gateway = {"public_url": "https://bot.example.com", "verify": "code", "allow": ["telegram:1"]}
    return open_auth(folder, {"notes": {"url": oauth.url, "auth": "oauth"}}, gateway)


async def test_the_code_is_for_the_one_who_began(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth, Browser(auth.asgi_app()) as browser:
        started = await auth.sign_in("notes", "shared", ANN)
        assert started.public
        assert started.needs_proof
        page = await browser.press(await browser.open(started.link))
        with pytest.raises(CodeRejected, match="eight characters"):
            await auth.confirm("no", ANN.principal, private=True)
        with pytest.raises(CodeRejected, match="only in a private chat"):
            await auth.confirm(page.code, ANN.principal, private=False)

        confirmed = await auth.confirm(page.code, ANN.principal, private=True)

        assert confirmed.status == "confirmed"
        assert confirmed.binding is not None
        assert confirmed.binding.proof == "code"
        assert (await browser.open(page.url)).next is not None


async def test_a_code_counts_no_more_once_only_a_login_is_a_proof(tmp_path: Path, oauth: OAuthServer) -> None:
    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        await running[-1].asgi_app()(scope, receive, send)

    async with opened(tmp_path, oauth) as auth, Browser(endpoint) as browser:
        running = [auth]
        started = await auth.sign_in("notes", "shared", ANN)
        page = await browser.press(await browser.open(started.link))
        assert (await auth.review(page.code, ANN.principal, private=True)).status == "opened"
        # The operator changes the configuration, and starts it again
        again = McpAuth.open(replace(auth.config, gateway=replace(auth.config.gateway, verify="browser")))
        running.append(again)

        for take in (again.review, again.confirm):
            with pytest.raises(CodeRejected, match="no proof here"):
                await take(page.code, ANN.principal, private=True)

        assert not (await browser.open(page.url)).has_code
        kept = await again.store.sign_ins.get(started.sign_in.id)
        assert kept is not None
        assert kept.status == "opened"


async def test_somebody_elses_hands_end_it(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth, Browser(auth.asgi_app()) as browser:
        started = await auth.sign_in("notes", "shared", ANN)
        page = await browser.press(await browser.open(started.link))

        with pytest.raises(WrongPerson):
            await auth.confirm(page.code, "telegram:2", private=True)

        assert (await auth.wait(started.sign_in, 1)).status == "failed"


async def test_pages_are_served_by_one_process_for_another(tmp_path: Path, oauth: OAuthServer) -> None:
    """Two replicas over one store: one hands out the link and takes the code, the other serves the pages."""
    async with (
        opened(tmp_path, oauth) as first,
        McpAuth.open(home=first.config.home) as second,
        Browser(second.asgi_app()) as browser,
    ):
        first.asgi_app()
        started = await first.sign_in("notes", "shared", ANN)
        page = await browser.press(await browser.open(started.link))
        await first.confirm(page.code, ANN.principal, private=True)

        done = await browser.open(await browser.authorize(await browser.open(page.url)))

        assert done.heading == "notes is connected"
        ended = await first.wait(started.sign_in, 5)
        assert ended.status == "done"
        before = len(oauth.requests("/mcp"))
        connection = await first.confirm_works("notes")
        assert connection.tools == ("add", "search", "read_file")
        assert len(oauth.requests("/mcp")) == before, "the endpoint has tried it out already"


async def test_a_code_lives_five_minutes_and_not_a_second_more(tmp_path: Path, oauth: OAuthServer) -> None:
    now = [1_800_000_000.0]
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    gateway = {"public_url": "https://bot.example.com", "verify": "code", "allow": ["telegram:1"]}
    async with (
        open_auth(tmp_path, servers, gateway, clock=lambda: now[0]) as auth,
        Browser(auth.asgi_app()) as browser,
    ):
        page = await browser.press(await browser.open((await auth.sign_in("notes", "shared", ANN)).link))
        now[0] += 299
        assert (await browser.open(page.url)).code == page.code
        assert (await auth.review(page.code, ANN.principal, private=True)).status == "opened"
        now[0] += 1
        for take in (auth.review, auth.confirm):
            with pytest.raises(CodeRejected, match="older than five minutes"):
                await take(page.code, ANN.principal, private=True)
        # The page offers another one, and that one counts
        assert not (await browser.open(page.url)).has_code


async def test_no_page_waits_for_a_code_once_its_link_is_over(tmp_path: Path, oauth: OAuthServer) -> None:
    now = [1_800_000_000.0]
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    gateway = {"public_url": "https://bot.example.com", "verify": "code", "allow": ["telegram:1"]}
    async with (
        open_auth(tmp_path, servers, gateway, clock=lambda: now[0]) as auth,
        Browser(auth.asgi_app()) as browser,
    ):
        started = await auth.sign_in("notes", "shared", ANN)
        now[0] = started.sign_in.expires_at - 2
        page = await browser.press(await browser.open(started.link))
        now[0] = started.sign_in.expires_at
        with pytest.raises(CodeRejected, match="No page of yours waits"):
            await auth.confirm(page.code, ANN.principal, private=True)


async def test_a_link_that_was_continued_and_then_proven_by_a_login_was_continued_once(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with opened(tmp_path, oauth) as auth:
        auth.asgi_app()
        started = await auth.sign_in("notes", "shared", ANN)
        ticket, secret = started.link.rpartition("/")[2], tickets.new_secret()

        visit = Visit(browser="Firefox on Linux", at=1.0)
        waiting = await auth.parts.verifier.open(started.sign_in, ticket, secret, "storage", visit=visit)
        assert waiting.status == "opened" and waiting.binding is not None and waiting.binding.proof is None
        proven = await auth.parts.verifier.open(waiting, ticket, secret, "storage", identity=ANN.principal)

        assert proven.status == "confirmed" and proven.binding is not None and proven.binding.proof == "browser"
        assert proven.binding.visit == visit
        assert [line.what for line in auth.audit.lines()].count(Event.LINK_CONTINUED) == 1


async def test_earlier_tickets_stay_up_to_a_number_and_the_opened_one_whatever_comes(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with opened(tmp_path, oauth) as auth:
        auth.asgi_app()
        started = await auth.sign_in("notes", "shared", ANN)
        record, given = replace(started.sign_in, binding=None), []
        for _ in range(40):
            record, ticket = auth.parts.verifier.add_ticket(record)
            given.append(sha256(ticket))
            assert record.binding is not None
            assert record.binding.tickets == tuple(given[-_TICKETS_KEPT:])
        assert record.binding is not None
        oldest = record.binding.tickets[0]
        record = replace(record, binding=replace(record.binding, opened=oldest, browser="b", attempts=3))
        for _ in range(40):
            record, ticket = auth.parts.verifier.add_ticket(record)
            given.append(sha256(ticket))
        assert record.binding == replace(
            record.binding, tickets=(oldest, *given[-_TICKETS_KEPT:]), opened=oldest, browser="b", attempts=3
        )
