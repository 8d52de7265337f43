"""Who may do what, command by command, as people meet it in a chat; and what is recorded of a refusal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.gateway import Gateway
from gateway.invocations import LOCAL, Principal
from gateway.people import People
from mcp_auth.audit import AuditLine, Event
from mcp_auth.config.models import Config, Server
from mcp_auth.limits import CODES, COMMANDS, KEY_TRIES, SERVER_SIGN_INS, SERVER_SIGN_INS_EACH, SIGN_INS
from mcp_auth.records import Requester
from tests.gateway.chat import Chat, configure, open_gateway, prompt_of, words
from tests.servers.oauth import OAuthServer, authorize

ANN, ANN_DISCORD, BOB = Principal("telegram", "1"), Principal("discord", "42"), Principal("telegram", "2")
ONLY_ADMINS = "only an admin"
DEAD = "http://127.0.0.1:9/mcp"
KEY = {"Authorization": "Bearer ${NOTES_KEY}"}
CHANGES = ("auth notes", "key notes", "logout notes", "cancel notes")


def keyed(identity: str | None) -> Server:
    return Server(name="notes", url=DEAD, headers=KEY, identity=identity)  # type: ignore[arg-type]


def team(home: Path, *servers: Server, identity: str = "shared") -> Config:
    return configure(
        home,
        *servers,
        allow=("telegram:1", "discord:42", "telegram:2"),
        people={"ann": ("telegram:1", "discord:42")},
        admins=("telegram:1",),
        identity=identity,
    )


async def refused(gateway: Gateway, principal: Principal) -> set[str]:
    """The commands that this principal may not use."""
    chat = Chat(gateway, principal)
    return {typed for typed in CHANGES if ONLY_ADMINS in words((await chat.say(typed))[-1])}


@pytest.mark.parametrize(
    ("gateway_identity", "server_identity", "is_shared"),
    [
        ("shared", None, True),
        ("per_user", None, False),
        ("shared", "per_user", False),
        ("per_user", "shared", True),
    ],
)
async def test_only_admins_change_what_is_shared_and_everyone_manages_their_own(
    tmp_path: Path, gateway_identity: str, server_identity: str | None, is_shared: bool
) -> None:
    config = team(tmp_path, keyed(server_identity), identity=gateway_identity)
    async with open_gateway(config) as gateway:
        assert await refused(gateway, BOB) == (set(CHANGES) if is_shared else set())
        assert await refused(gateway, ANN) == set()
        assert await refused(gateway, ANN_DISCORD) == set(), "the same person as the admin"
        assert await refused(gateway, LOCAL) == set()


async def test_whoever_is_alone_needs_no_admin(tmp_path: Path) -> None:
    joined = {"ann": ("telegram:1", "discord:42")}
    config = configure(tmp_path, keyed(None), allow=("telegram:1", "discord:42"), people=joined)
    async with open_gateway(config) as gateway:
        assert await refused(gateway, ANN) == await refused(gateway, ANN_DISCORD) == set()


async def test_an_admin_who_is_not_allowed_is_a_stranger(tmp_path: Path) -> None:
    config = configure(tmp_path, keyed(None), allow=("telegram:1",), admins=("telegram:9",))
    async with open_gateway(config) as gateway:
        (reply,) = await Chat(gateway, Principal("telegram", "9")).say("logout notes")

        assert "I do not know you" in words(reply)


async def test_with_a_second_person_let_in_the_first_needs_to_be_an_admin(tmp_path: Path) -> None:
    """Given Ann alone, not an admin, when Bob is let in, shared servers are the admins' at once."""
    config = configure(tmp_path, keyed(None), allow=("telegram:1",), admins=("telegram:9",))
    async with open_gateway(config) as gateway:
        assert await refused(gateway, ANN) == set()

        await People(config, backend=gateway.backend).allow("telegram:2", LOCAL)

        assert await refused(gateway, ANN) == set(CHANGES)


async def test_a_removed_person_can_do_nothing_from_the_next_command_on(tmp_path: Path) -> None:
    config = team(tmp_path, keyed("per_user"))
    async with open_gateway(config) as gateway:
        bob = Chat(gateway, BOB)
        assert "notes" in words((await bob.say(""))[0])

        await People(config, backend=gateway.backend).deny("telegram:2", LOCAL)

        (reply,) = await bob.say("logout notes")
        assert "does not serve you" in words(reply)
        for typed in (*CHANGES, "", "notes", "help", "allow ACDEFGHJ"):
            assert await bob.say(typed) == []


async def test_a_removed_person_cannot_answer_a_question_that_is_open(tmp_path: Path) -> None:
    config = configure(
        tmp_path,
        keyed("per_user"),
        allow=("telegram:1", "telegram:2"),
        platforms={"telegram": {"secrets_in_chat": True}},
    )
    async with open_gateway(config) as gateway:
        prompt = prompt_of((await Chat(gateway, BOB).say("key notes"))[0])

        await People(config, backend=gateway.backend).deny("telegram:2", LOCAL)
        reply = await gateway.submit_secret(BOB, prompt.id, "sk-canary-0123456789")

        assert "does not serve you" in words(reply)
        grant = await gateway.auth.store.grants.get("principal:telegram:2", "notes", DEAD)
        assert grant is None or not grant.keys


@pytest.mark.parametrize("shut_out", [False, True])
async def test_a_removed_person_hears_nothing_of_what_they_began(
    tmp_path: Path, oauth: OAuthServer, shut_out: bool
) -> None:
    config = configure(tmp_path, Server(name="notes", url=oauth.url, auth="oauth"), allow=("telegram:1",))
    async with open_gateway(config) as gateway:
        ann = Chat(gateway, ANN)
        await ann.say("auth notes")
        if shut_out:
            await People(config, backend=gateway.backend).deny("telegram:1", LOCAL)
            gateway.people.refresh()

        await gateway.auth.cancel("notes")

        assert await gateway.settled(5)
        assert bool(ann.notices) is not shut_out


# -- what is recorded ------------------------------------------------------------------------


def recorded(gateway: Gateway, what: Event) -> list[AuditLine]:
    return [line for line in gateway.auth.audit.lines() if line.what is what]


async def test_every_refused_command_is_recorded_with_its_verb(tmp_path: Path) -> None:
    async with open_gateway(team(tmp_path, keyed(None))) as gateway:
        bob = Chat(gateway, BOB)
        for typed in (
            *CHANGES,
            "allow ACDEFGHJ",
            "deny telegram:1",
            "people",
            "http://127.0.0.1/callback?code=C&state=s",
        ):
            await bob.say(typed)

        found = recorded(gateway, Event.COMMAND_REFUSED)
        assert [(line.who, line.outcome, line.server) for line in found] == [
            ("telegram:2", "auth", "notes"),
            ("telegram:2", "key", "notes"),
            ("telegram:2", "logout", "notes"),
            ("telegram:2", "cancel", "notes"),
            ("telegram:2", "allow", None),
            ("telegram:2", "deny", None),
            ("telegram:2", "people", None),
            ("telegram:2", "paste", None),
        ]
        assert "ACDEFGHJ" not in (tmp_path / "audit.jsonl").read_text()


async def test_somebody_elses_address_is_not_used_and_recorded(tmp_path: Path, oauth: OAuthServer) -> None:
    server = Server(name="notes", url=oauth.url, auth="oauth")
    config = configure(tmp_path, server, allow=("telegram:1", "telegram:2"), admins=("telegram:1",), allow_paste=True)
    async with open_gateway(config) as gateway:
        started = await gateway.auth.sign_in("notes", "shared", Requester(principal=str(ANN)), listen=False)
        redirect = await asyncio.to_thread(authorize, started.link)

        (reply,) = await Chat(gateway, BOB).say(redirect)

        assert not reply.ok
        assert [(line.who, line.outcome) for line in recorded(gateway, Event.COMMAND_REFUSED)] == [
            ("telegram:2", "paste")
        ]
        assert (await gateway.auth.store.grants.get("shared", "notes", oauth.url)) is None
        assert "code=" not in (tmp_path / "audit.jsonl").read_text()


async def test_pairing_is_recorded_from_the_question_to_the_end(tmp_path: Path) -> None:
    async with open_gateway(team(tmp_path, keyed(None))) as gateway:
        stranger = Principal("telegram", "666")
        await Chat(gateway, stranger).say("", display_name='Eve\n{"what":"allowed"}')
        code = await gateway.people.ask(stranger, "Eve")
        admin = Chat(gateway, ANN)
        await admin.say("allow ACDEFGHJ")
        await admin.say(f"allow {code}")
        await admin.say("deny telegram:666")

        found = [(line.what, line.who, line.whom) for line in gateway.auth.audit.lines()]
        assert found == [
            (Event.PAIRING_ASKED, "telegram:666", None),
            (Event.PAIRING_ASKED, "telegram:666", None),
            (Event.WRONG_CODE, "telegram:1", None),
            (Event.ALLOWED, "telegram:1", "telegram:666"),
            (Event.DENIED, "telegram:1", "telegram:666"),
        ]
        assert [line.outcome for line in recorded(gateway, Event.WRONG_CODE)] == ["allow"]
        text = (tmp_path / "audit.jsonl").read_text()
        assert code is not None and code not in text and "Eve" not in text


# -- how often -------------------------------------------------------------------------------


async def test_a_person_who_asks_too_often_is_told_how_long_to_wait(
    tmp_path: Path, advance_limits: Callable[[float], None]
) -> None:
    async with open_gateway(team(tmp_path, keyed(None))) as gateway:
        bob = Chat(gateway, BOB)
        for _ in range(COMMANDS.amount):
            assert "too often" not in words((await bob.say("help"))[-1])

        (reply,) = await bob.say("help")
        assert "too often" in words(reply) and " seconds" in words(reply)
        assert not reply.ok
        assert "too often" not in words((await Chat(gateway, ANN).say("help"))[-1])
        advance_limits(61)
        assert "too often" not in words((await bob.say("help"))[-1])


async def test_the_operator_at_the_terminal_is_never_limited(tmp_path: Path) -> None:
    async with open_gateway(team(tmp_path, keyed(None))) as gateway:
        operator = Chat(gateway)
        for _ in range(COMMANDS.amount + CODES.amount):
            assert "too often" not in words((await operator.say("allow ACDEFGHJ"))[-1])


async def test_attack_pairing_codes_are_not_guessed(tmp_path: Path, advance_limits: Callable[[float], None]) -> None:
    """Given the account of an admin in wrong hands, there are a few guesses, each is recorded."""
    async with open_gateway(team(tmp_path, keyed(None))) as gateway:
        code = await gateway.people.ask(Principal("telegram", "666"), "")
        admin = Chat(gateway, ANN)

        said = [words((await admin.say(f"allow ACDEFGH{last}"))[-1]) for last in "34679ACDEFGHJKMN"]

        assert sum("No request has this code" in text for text in said) == CODES.amount
        assert all("minutes" in text for text in said[CODES.amount :])
        assert len(recorded(gateway, Event.WRONG_CODE)) == CODES.amount
        assert "too often" in words((await admin.say(f"allow {code}"))[-1]), "not even the right one now"
        advance_limits(601)
        assert "is served" in words((await admin.say(f"allow {code}"))[-1])


async def test_sign_ins_are_bounded_for_each_person_and_each_server(
    tmp_path: Path, advance_limits: Callable[[float], None]
) -> None:
    server = Server(name="notes", url=DEAD, auth="oauth")
    alone = configure(tmp_path, server, allow=("telegram:1",))
    async with open_gateway(alone) as gateway:
        ann, limits = Chat(gateway, ANN), gateway.auth.limits
        for _ in range(SIGN_INS.amount):
            limits.take(SIGN_INS, "telegram:1")
        assert "too often" in words((await ann.say("auth notes"))[-1])

        advance_limits(601)
        for _ in range(SERVER_SIGN_INS.amount):
            limits.take(SERVER_SIGN_INS, "notes")
        assert "too often" in words((await ann.say("auth notes"))[-1])
        assert "cannot be reached" in words((await Chat(gateway).say("auth notes"))[-1]), "the operator is not limited"


async def test_key_tries_are_bounded_and_nothing_is_asked_of_the_server(
    tmp_path: Path, advance_limits: Callable[[float], None]
) -> None:
    config = configure(tmp_path, keyed(None), allow=("telegram:1",), platforms={"telegram": {"secrets_in_chat": True}})
    async with open_gateway(config) as gateway:
        ann = Chat(gateway, ANN)
        for _ in range(KEY_TRIES.amount):
            gateway.auth.limits.take(KEY_TRIES, "telegram:1")
        prompt = prompt_of((await ann.say("key notes"))[0])

        reply = await gateway.submit_secret(ANN, prompt.id, "sk-canary-0123456789")
        assert "too often" in words(reply) and "minutes" in words(reply)
        assert not (tmp_path / ".env").exists()

        advance_limits(601)
        reply = await gateway.submit_secret(ANN, prompt.id, "sk-canary-0123456789")
        assert "could not be tried" in words(reply)


async def test_the_link_of_an_open_sign_in_is_said_again_however_often_the_server_was_asked(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    server = Server(name="notes", url=oauth.url, auth="oauth")
    async with open_gateway(configure(tmp_path, server, allow=("telegram:1",))) as gateway:
        ann, limits = Chat(gateway, ANN), gateway.auth.limits
        links = [(await ann.say("auth notes"))[-1].ok for _ in range(SIGN_INS.amount // 2)]
        assert links == [True] * len(links)
        assert limits._tables[SERVER_SIGN_INS.name].window("notes", time.monotonic())[1] == 1
        while not limits.take(SERVER_SIGN_INS, "notes"):
            continue
        assert "too often" not in words((await ann.say("auth notes"))[-1])


async def test_attack_one_person_with_three_accounts_leaves_the_server_to_the_others(tmp_path: Path) -> None:
    accounts = ("telegram:1", "discord:1", "slack:T1/U1")
    config = configure(
        tmp_path,
        Server(name="notes", url=DEAD, auth="oauth", identity="per_user"),
        allow=(*accounts, "telegram:2"),
        people={"ann": accounts},
        allow_paste=True,
    )
    async with open_gateway(config) as gateway:
        for account in accounts:
            chat = Chat(gateway, Principal.parse(account))
            for _ in range(SIGN_INS.amount):
                await chat.say("auth notes")
        assert "too often" in words((await Chat(gateway, Principal.parse(accounts[0])).say("auth notes"))[-1])
        assert "cannot be reached" in words((await Chat(gateway, BOB).say("auth notes"))[-1])


async def test_attack_one_member_takes_a_server_no_more_sign_ins_than_their_own_share(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    entries = [Server(name=name, url=oauth.url, auth="oauth", identity="per_user") for name in ("notes", "mail")]
    async with open_gateway(
        configure(tmp_path, *entries, allow=("telegram:1", "telegram:2"), allow_paste=True)
    ) as gateway:
        ann, limits = Chat(gateway, ANN), gateway.auth.limits
        # One that was begun counts as one
        assert (await ann.say("auth notes"))[-1].ok
        for _ in range(SERVER_SIGN_INS_EACH.amount - 1):
            assert limits.take(SERVER_SIGN_INS_EACH, "notes telegram:1") == 0.0
        assert limits.wait(SERVER_SIGN_INS_EACH, "notes telegram:1") > 0.0
        await ann.say("cancel notes")
        assert "too often" in words((await ann.say("auth notes"))[-1])
        assert (await ann.say("auth mail"))[-1].ok
        assert (await Chat(gateway, BOB).say("auth notes"))[-1].ok


async def test_a_key_that_is_typed_into_the_chat_is_not_used_and_that_is_no_success(tmp_path: Path) -> None:
    async with open_gateway(configure(tmp_path, keyed(None), allow=("telegram:1",))) as gateway:
        (reply,) = await Chat(gateway, ANN).say("key notes sk-canary-0123456789")
        assert "it was not used and not stored" in words(reply)
        assert not reply.ok
        assert not (tmp_path / ".env").exists()
