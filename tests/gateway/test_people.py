"""Who is served: the configuration, and whom the operator or an admin let in or shut out."""

from __future__ import annotations

import asyncio
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway import policy
from gateway.invocations import LOCAL, Principal
from gateway.people import CODE_SECONDS, PENDING_PER_PLATFORM, People, is_name
from mcp_auth.config.models import Config, Server
from mcp_auth.errors import ConfigError, McpAuthError, NotAllowed, StoreError
from mcp_auth.records import sha256
from tests.gateway.chat import configure

ANN, BOB, CYD = Principal("telegram", "1"), Principal("telegram", "2"), Principal("telegram", "3")
SHARED = Server(name="notes", url="https://notes.example/mcp", auth="oauth")
OWN = Server(name="mail", url="https://mail.example/mcp", auth="oauth", identity="per_user")


def served(people: People, principal: Principal) -> bool:
    return policy.is_allowed(principal, people.config.gateway)


@pytest.fixture
def alone(tmp_path: Path) -> Config:
    return configure(tmp_path, SHARED, allow=("telegram:1",))


@pytest.fixture
def team(tmp_path: Path) -> Config:
    return configure(tmp_path, SHARED, allow=("telegram:1",), admins=("telegram:1",))


# -- letting in ------------------------------------------------------------------------------


def test_opening_writes_nothing(alone: Config) -> None:
    people = People(alone)

    assert people.config == alone
    assert list(alone.home.iterdir()) == []


async def test_a_code_lets_its_person_in_once(team: Config) -> None:
    people = People(team)
    code = await people.ask(BOB, "Bob")
    assert code is not None

    paired = await people.allow(f" {code[:4]}-{code[4:].lower()} ", LOCAL)

    assert (paired.principal, paired.display_name, paired.by) == ("telegram:2", "Bob", "cli:local")
    assert served(people, BOB)
    with pytest.raises(NotAllowed, match="works once"):
        await people.allow(code, LOCAL)


async def test_the_file_is_for_its_owner_alone_and_holds_no_code(team: Config) -> None:
    people = People(team)
    code = await people.ask(BOB, "Bob")

    file = team.home / "people.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert code is not None and code not in file.read_text()
    assert sha256(code) not in repr(people._record)


async def test_a_code_lives_an_hour(team: Config) -> None:
    now = [1000.0]
    people = People(team, lambda: now[0])
    code = await people.ask(BOB, "")
    assert code is not None

    now[0] += CODE_SECONDS + 1

    assert not people.is_waiting(BOB)
    with pytest.raises(NotAllowed):
        await people.allow(code, LOCAL)
    assert not served(people, BOB)


async def test_asking_again_replaces_the_code(team: Config) -> None:
    people = People(team)
    first, second = await people.ask(BOB, ""), await people.ask(BOB, "")
    assert first is not None and second is not None

    with pytest.raises(NotAllowed):
        await people.allow(first, LOCAL)
    await people.allow(second, LOCAL)
    assert served(people, BOB)


async def test_three_may_wait_on_each_platform_and_a_place_becomes_free(team: Config) -> None:
    now = [1000.0]
    people = People(team, lambda: now[0])
    for number in range(PENDING_PER_PLATFORM):
        assert await people.ask(Principal("telegram", f"9{number}"), "")
    assert await people.ask(Principal("telegram", "99"), "") is None
    assert await people.ask(Principal("discord", "99"), "")
    assert await people.ask(Principal("telegram", "90"), ""), "who waits already may ask again"

    now[0] += CODE_SECONDS + 1

    assert await people.ask(Principal("telegram", "99"), "")


async def test_the_operator_lets_an_account_in_without_a_code_and_an_admin_does_not(team: Config) -> None:
    people = People(team)

    with pytest.raises(NotAllowed):
        await people.allow("telegram:2", ANN)
    await people.allow("telegram:2", LOCAL)

    assert served(people, BOB)


@pytest.mark.parametrize("typed", ["telegram:", "no-platform", "cli:somebody", "telegram:a b", f"telegram:{'1' * 300}"])
async def test_what_is_no_account_is_not_let_in(team: Config, typed: str) -> None:
    with pytest.raises(NotAllowed):
        await People(team).allow(typed, LOCAL)


async def test_a_name_that_somebody_gave_themselves_is_kept_without_control_characters(team: Config) -> None:
    people = People(team)
    await people.ask(BOB, f"Bob\x1b[31m\n\u202eevil\ud800{'x' * 500}")

    (_, entry) = people.listed()
    assert entry.display_name.startswith("Bob[31mevilxxx")
    assert len(entry.display_name) == 64


def test_principals_that_cannot_be_stored_get_no_code() -> None:
    assert is_name(BOB)
    assert not is_name(Principal("telegram", "1\n2"))
    assert not is_name(Principal("telegram", "\ud800"))
    assert not is_name(Principal("cli", "x"))


# -- how many --------------------------------------------------------------------------------


async def test_a_second_person_on_a_shared_server_needs_admins_and_the_refusal_names_the_key(alone: Config) -> None:
    people = People(alone)
    code = await people.ask(BOB, "")
    assert code is not None

    with pytest.raises(NotAllowed, match=r"gateway\.admins"):
        await people.allow(code, LOCAL)

    assert not served(people, BOB)
    assert people.is_waiting(BOB), "the code works once the configuration is mended"


async def test_a_second_account_of_the_same_person_needs_no_admins(tmp_path: Path) -> None:
    people = People(configure(tmp_path, SHARED, allow=("telegram:1",), people={"ann": ("telegram:1", "discord:42")}))

    await people.allow("discord:42", LOCAL)

    assert people.config.gateway.persons == {"person:ann"}


async def test_without_a_shared_server_nobody_has_to_be_in_charge(tmp_path: Path) -> None:
    people = People(configure(tmp_path, OWN, allow=("telegram:1",)))

    await people.allow("telegram:2", LOCAL)

    assert served(people, BOB)


async def test_a_second_person_is_not_let_in_where_nothing_is_verified(tmp_path: Path) -> None:
    people = People(configure(tmp_path, OWN, allow=("telegram:1",), verify="none"))

    with pytest.raises(NotAllowed, match=r"gateway\.verify"):
        await people.allow("telegram:2", LOCAL)


async def test_paired_people_count_when_the_gateway_starts(alone: Config, team: Config) -> None:
    """Given somebody was let in, when `admins` is taken out of the configuration, it does not start."""
    await People(team).allow("telegram:2", LOCAL)

    with pytest.raises(ConfigError, match=r"gateway\.admins") as refused:
        People(alone).check()
    assert refused.value.key == "gateway.admins"
    People(team).check()


# -- shutting out ----------------------------------------------------------------------------


async def test_a_paired_person_is_shut_out_and_let_in_again(team: Config) -> None:
    people = People(team)
    await people.allow("telegram:2", LOCAL)

    assert await people.deny("telegram:2", ANN) == "telegram:2"
    assert not served(people, BOB)
    assert people.is_denied(BOB)

    await people.allow("telegram:2", LOCAL)
    assert served(people, BOB)
    assert not people.is_denied(BOB)


async def test_a_request_is_refused_by_its_code_for_good(team: Config) -> None:
    people = People(team)
    code = await people.ask(BOB, "")
    assert code is not None

    assert await people.deny(code, ANN) == "telegram:2"

    assert not people.is_waiting(BOB)
    assert people.is_denied(BOB)


async def test_the_operator_shuts_out_a_configured_account_and_an_admin_does_not(tmp_path: Path) -> None:
    people = People(configure(tmp_path, SHARED, allow=("telegram:1", "telegram:2"), admins=("telegram:1",)))

    with pytest.raises(NotAllowed, match="only the operator"):
        await people.deny("telegram:2", ANN)
    await people.deny("telegram:2", LOCAL)

    assert not served(people, BOB)
    assert served(people, ANN)


async def test_a_denied_admin_is_none(team: Config) -> None:
    people = People(team)

    await people.deny("telegram:1", LOCAL)

    assert not policy.is_admin(ANN, people.config.gateway)
    assert not policy.is_allowed(ANN, people.config.gateway)


async def test_who_is_not_known_is_not_shut_out_by_a_slip_of_the_hand(team: Config) -> None:
    with pytest.raises(NotAllowed, match="Nobody is known"):
        await People(team).deny("telegram:12345", LOCAL)


async def test_everybody_is_listed_with_their_standing(tmp_path: Path) -> None:
    gateway: dict[str, Any] = {"admins": ("telegram:1",), "people": {"ann": ("telegram:1", "discord:42")}}
    people = People(configure(tmp_path, SHARED, allow=("telegram:1", "slack:T/1"), **gateway))
    await people.allow("discord:42", LOCAL)
    await people.ask(CYD, "Cyd")
    await people.deny("slack:T/1", LOCAL)

    found = {one.principal: one for one in people.listed()}

    # The words of `slash-mcp people --json`, too
    assert {name: str(one.standing) for name, one in found.items()} == {
        "telegram:1": "configured",
        "discord:42": "paired",
        "telegram:3": "pending",
        "slack:T/1": "denied",
    }
    assert (found["discord:42"].by, found["slack:T/1"].by) == ("cli:local", "cli:local")
    assert found["discord:42"].since is not None and found["slack:T/1"].since is not None
    assert (found["telegram:1"].by, found["telegram:3"].by) == (None, None)
    assert found["telegram:3"].display_name == "Cyd"
    assert found["discord:42"].admin and found["discord:42"].person == "ann", "any account of an admin"
    assert not found["telegram:3"].admin
    assert found["telegram:3"].until is not None


# -- several processes -----------------------------------------------------------------------


async def test_what_another_process_wrote_is_known_after_a_refresh(team: Config) -> None:
    running, command_line = People(team), People(team)

    assert not running.refresh()
    await command_line.allow("telegram:2", LOCAL)
    assert not served(running, BOB), "from memory"
    assert running.refresh()
    assert served(running, BOB)

    await command_line.deny("telegram:2", LOCAL)
    running.refresh()
    assert not served(running, BOB)


async def test_a_code_from_the_gateway_is_good_in_another_process(team: Config) -> None:
    code = await People(team).ask(BOB, "Bob")
    assert code is not None

    assert (await People(team).allow(code, LOCAL)).principal == "telegram:2"


async def test_of_two_that_use_a_code_at_the_same_moment_one_succeeds(team: Config) -> None:
    code = await People(team).ask(BOB, "Bob")
    assert code is not None
    assert sorted(_race([code] * 4, team)) == ["WrongCode", "WrongCode", "WrongCode", "ok"]


def test_two_first_people_at_the_same_moment_do_not_both_get_in_without_admins(tmp_path: Path) -> None:
    config = configure(tmp_path, SHARED)

    assert sorted(_race(["telegram:2", "telegram:3"], config)) == ["NotAllowed", "ok"]
    assert len(People(config).config.gateway.persons) == 1


def _race(whom: list[str], config: Config) -> list[str]:
    start = threading.Barrier(len(whom))
    ends: list[str] = []

    def allow(who: str) -> None:
        people = People(config)
        start.wait()
        try:
            asyncio.run(people.allow(who, LOCAL))
            ends.append("ok")
        except McpAuthError as error:
            ends.append(type(error).__name__)

    threads = [threading.Thread(target=allow, args=(who,)) for who in whom]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


async def test_a_damaged_file_lets_nobody_start_and_changes_nothing_for_who_runs(
    team: Config, caplog: pytest.LogCaptureFixture
) -> None:
    running = People(team)
    await running.allow("telegram:2", LOCAL)
    await running.deny("telegram:1", LOCAL)

    (team.home / "people.json").write_text('{"paired": [{"principal": 7}]}')

    assert not running.refresh()
    assert served(running, BOB) and not served(running, ANN), "a denied one does not come back"
    running.refresh()
    assert len(caplog.records) == 1, "said once, not each second"
    with pytest.raises(StoreError, match="damaged"):
        People(team)
    with pytest.raises(StoreError):
        await running.allow("telegram:3", LOCAL)
    assert "7" in (team.home / "people.json").read_text()


async def test_the_people_of_version_0_1_0_are_served_and_can_be_changed(team: Config) -> None:
    team.home.mkdir(exist_ok=True)
    (team.home / "people.json").write_bytes(
        b'{"paired":[{"principal":"telegram:2","display_name":"Bob","at":1800000000.0,"by":"cli:local"}],'
        b'"denied":[{"principal":"telegram:3","at":1800000000.0,"by":"telegram:1"}]}'
    )
    people = People(team)
    assert served(people, BOB) and people.is_denied(Principal("telegram", "3"))
    await people.deny("telegram:2", LOCAL)
    assert not served(People(team), BOB) and People(team).is_denied(Principal("telegram", "3"))
