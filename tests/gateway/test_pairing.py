"""Pairing in the chat: strangers, admins, and those who are neither. The attacks on it, too."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.invocations import LOCAL, Principal
from gateway.people import People
from gateway.replies import Audience, Ignored, Immediate, Reply
from mcp_auth.config.models import Config, Server
from mcp_auth.errors import ConfigError
from mcp_auth.stores.files import FileStore
from tests.gateway.chat import Chat, configure, open_gateway, words

ANN, ANN_DISCORD, BOB = Principal("telegram", "1"), Principal("discord", "42"), Principal("telegram", "2")
STRANGER = Principal("telegram", "666")
NOTES = Server(name="secret-server", url="http://127.0.0.1:9/mcp", auth="oauth")


@pytest.fixture
def team(tmp_path: Path) -> Config:
    return configure(
        tmp_path,
        NOTES,
        allow=("telegram:1", "telegram:2", "discord:42"),
        admins=("telegram:1",),
        people={"ann": ("telegram:1", "discord:42")},
    )


def code_in(reply: Reply) -> str:
    found = re.search(r"runs this assistant: (\w{8})\.", words(reply))
    assert found, words(reply)
    return found[1]


# -- the stranger ----------------------------------------------------------------------------


async def test_a_stranger_gets_a_code_once_a_minute_and_learns_nothing(team: Config) -> None:
    now = [1000.0]
    async with open_gateway(team, clock=lambda: now[0]) as gateway:
        stranger = Chat(gateway, STRANGER)

        assert gateway.decide(stranger.invocation("")) == Immediate(Audience.CALLER)
        first, second = await stranger.say(""), await stranger.say("auth")
        decided = gateway.decide(stranger.invocation(""))
        now[0] += 61
        third = await stranger.say("secret-server")

        assert (len(first), second, len(third)) == (1, [], 1)
        assert decided == Ignored()
        assert first[0].audience is Audience.CALLER
        assert code_in(first[0]) != code_in(third[0])
        assert "secret-server" not in repr([*first, *third])


async def test_in_a_group_a_stranger_hears_only_where_to_write(team: Config) -> None:
    async with open_gateway(team) as gateway:
        stranger = Chat(gateway, STRANGER, private=False)

        assert gateway.decide(stranger.invocation("")) == Immediate(Audience.CHAT)
        (reply,) = await stranger.say("")

        assert words(reply) == "I do not know you yet. Write to me in private: /mcp"
        assert reply.audience is Audience.CHAT
        assert not (team.home / "people.json").exists()


async def test_a_denied_person_gets_no_code_any_more(team: Config) -> None:
    now = [1000.0]
    async with open_gateway(team, clock=lambda: now[0]) as gateway:
        stranger = Chat(gateway, STRANGER)
        code = code_in((await stranger.say(""))[0])
        await gateway.people.deny(code, LOCAL)

        now[0] += 61
        (reply,) = await stranger.say("")

        assert "does not serve you" in words(reply)


async def test_more_than_three_are_asked_to_come_later(team: Config) -> None:
    async with open_gateway(team) as gateway:
        replies = [(await Chat(gateway, Principal("telegram", f"9{number}")).say(""))[0] for number in range(4)]

        assert len({code_in(reply) for reply in replies[:3]}) == 3
        assert "Try again in an hour" in words(replies[3])


async def test_a_stranger_whose_request_cannot_be_stored_learns_nothing_of_this_machine(
    team: Config, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_gateway(team, FileStore(team.home)) as gateway:
        (team.home / ".locks" / "pe").mkdir(parents=True)

        (reply,) = await Chat(gateway, STRANGER).say("")

        assert "Try again in a few minutes" in words(reply)
        assert str(team.home) not in words(reply)
        assert str(team.home) in caplog.text


async def test_attack_a_flood_of_strangers_costs_little_memory_and_few_messages(
    team: Config, advance_limits: Callable[[float], None]
) -> None:
    async with open_gateway(team, FileStore(team.home)) as gateway:
        answered = 0
        for number in range(300):
            answered += len(await Chat(gateway, Principal("telegram", f"7{number}")).say("let me in"))

        assert answered == 20
        late = Chat(gateway, Principal("telegram", "7999"))
        assert gateway.decide(late.invocation("")) == Ignored()
        assert (team.home / "people.json").stat().st_size < 2000
        assert await Chat(gateway, BOB).say("help"), "the people who are served are answered"
        assert await Chat(gateway, Principal("discord", "7")).say(""), "and so are strangers elsewhere"
        assert len(gateway._pairing._told) <= 25
        assert len(list(gateway.auth.audit.lines())) == 4, "the requests that were taken"
        advance_limits(61)
        assert await late.say("")


# -- letting in ------------------------------------------------------------------------------


@pytest.mark.parametrize("admin", [ANN, ANN_DISCORD, LOCAL], ids=str)
async def test_an_admin_lets_in_with_any_account_and_the_person_hears_of_it(team: Config, admin: Principal) -> None:
    async with open_gateway(team) as gateway:
        stranger, friend = Chat(gateway, STRANGER), Chat(gateway, admin)
        code = code_in((await stranger.say("", display_name="Dora"))[0])

        (reply,) = await friend.say(f"allow {code}")

        assert "telegram:666 (Dora) is served" in words(reply)
        assert reply.audience is Audience.CALLER
        told = await stranger.notice("let in")
        assert (told.principal, told.reply.audience) == (STRANGER, Audience.CALLER)
        assert "secret-server" in words((await stranger.say(""))[0]), "within the minute"


async def test_what_the_operator_does_in_another_process_counts_at_once(team: Config) -> None:
    async with open_gateway(team) as gateway:
        stranger, bob = Chat(gateway, STRANGER), Chat(gateway, BOB)
        code = code_in((await stranger.say(""))[0])

        command_line = People(team, backend=gateway.backend)
        await command_line.allow(code, LOCAL)
        await command_line.deny("telegram:2", LOCAL)

        assert "secret-server" in words((await stranger.say(""))[0])
        for typed in ("", "auth secret-server", "logout secret-server", "allow ACDEFGHJ"):
            assert "secret-server" not in repr(await bob.say(typed))


async def test_the_one_who_was_let_in_elsewhere_is_told_and_not_ignored(
    team: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a code from this gateway, when the operator lets its person in, nobody has to write first."""
    monkeypatch.setattr("gateway.gateway._PEOPLE_SECONDS", 0.02)
    async with open_gateway(team) as gateway:
        stranger = Chat(gateway, STRANGER)
        code = code_in((await stranger.say(""))[0])
        assert gateway.decide(stranger.invocation("")) == Ignored()

        await People(team, backend=gateway.backend).allow(code, LOCAL)

        await stranger.notice("let in")
        assert gateway.decide(stranger.invocation("")) == Immediate(Audience.CHAT)


async def test_attack_a_person_who_is_no_admin_types_a_good_code(team: Config) -> None:
    async with open_gateway(team) as gateway:
        code = code_in((await Chat(gateway, STRANGER).say(""))[0])

        (reply,) = await Chat(gateway, BOB).say(f"allow {code}")

        assert "Only an admin" in words(reply)
        assert People(team, backend=gateway.backend).is_waiting(STRANGER)


async def test_attack_a_stranger_types_the_own_code(team: Config) -> None:
    now = [1000.0]
    async with open_gateway(team, clock=lambda: now[0]) as gateway:
        stranger = Chat(gateway, STRANGER)
        code = code_in((await stranger.say(""))[0])
        now[0] += 61

        (reply,) = await stranger.say(f"allow {code}")

        assert code_in(reply) != code
        assert "telegram:666" not in People(team, backend=gateway.backend).config.gateway.allow


async def test_a_code_typed_in_a_group_is_not_used(team: Config) -> None:
    async with open_gateway(team) as gateway:
        code = code_in((await Chat(gateway, STRANGER).say(""))[0])

        for typed in (f"allow {code}", "deny telegram:2", "people"):
            (reply,) = await Chat(gateway, ANN, private=False).say(typed)
            assert "in private" in words(reply)

        assert People(team, backend=gateway.backend).is_waiting(STRANGER)


async def test_a_second_person_without_admins_is_refused_and_the_reply_names_the_key(tmp_path: Path) -> None:
    config = configure(tmp_path, NOTES, allow=("telegram:1",))
    async with open_gateway(config) as gateway:
        code = code_in((await Chat(gateway, STRANGER).say(""))[0])

        (reply,) = await Chat(gateway).say(f"allow {code}")

        assert "gateway.admins" in words(reply)
        assert not reply.ok
        assert (await Chat(gateway, ANN).say(f"allow {code}"))[0].ok is False


async def test_the_gateway_does_not_start_with_more_people_than_it_is_made_for(tmp_path: Path) -> None:
    with_admins = configure(tmp_path, NOTES, allow=("telegram:1",), admins=("telegram:1",))
    await People(with_admins).allow("telegram:2", LOCAL)

    with pytest.raises(ConfigError, match=r"gateway\.admins"):
        open_gateway(configure(tmp_path, NOTES, allow=("telegram:1",)), FileStore(tmp_path))


# -- shutting out and looking ----------------------------------------------------------------


async def test_an_admin_shuts_out_a_paired_person(team: Config) -> None:
    async with open_gateway(team) as gateway:
        await gateway.people.allow("telegram:666", LOCAL)
        assert "secret-server" in words((await Chat(gateway, STRANGER).say(""))[0])

        (reply,) = await Chat(gateway, ANN).say("deny telegram:666")

        assert "not served any more" in words(reply)
        assert "secret-server" not in repr(await Chat(gateway, STRANGER).say(""))


async def test_admins_see_who_is_served_and_others_do_not(team: Config) -> None:
    async with open_gateway(team) as gateway:
        await Chat(gateway, STRANGER).say("", display_name="Dora")

        (shown,) = await Chat(gateway, ANN).say("people")
        (refused,) = await Chat(gateway, BOB).say("people")

        assert "telegram:1 configured, person ann, admin" in words(shown)
        assert "telegram:666 pending, calls themselves Dora" in words(shown)
        assert shown.audience is Audience.CALLER
        assert "Only an admin" in words(refused)


async def test_help_names_these_commands_to_those_who_may_use_them(team: Config) -> None:
    async with open_gateway(team) as gateway:
        assert "/mcp allow CODE" in words((await Chat(gateway, ANN).say("help"))[0])
        assert "/mcp allow CODE" not in words((await Chat(gateway, BOB).say("help"))[0])


@pytest.mark.parametrize(("typed", "said"), [("allow", "/mcp allow CODE"), ("deny", "/mcp deny telegram:")])
async def test_a_command_without_its_word_says_what_is_missing(team: Config, typed: str, said: str) -> None:
    async with open_gateway(team) as gateway:
        assert said in words((await Chat(gateway, ANN).say(typed))[0])
