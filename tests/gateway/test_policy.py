"""Who may do what, and whose credentials are meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway import policy
from gateway.invocations import LOCAL, Principal
from mcp_auth.config.models import Config, GatewayOptions, Server
from mcp_auth.errors import NotAllowed

ANN, ANN_DISCORD, BOB = Principal("telegram", "1"), Principal("discord", "42"), Principal("telegram", "2")
SHARED_SERVER = Server(name="notes", url="https://notes.example/mcp", auth="oauth")
OWN_SERVER = Server(name="mail", url="https://mail.example/mcp", auth="oauth", identity="per_user")


def config(**gateway: Any) -> Config:
    servers = {server.name: server for server in (SHARED_SERVER, OWN_SERVER)}
    return Config(home=Path("/nowhere"), path=None, servers=servers, gateway=GatewayOptions(**gateway))


ALONE = config(allow=("telegram:1",))
ONE_WITH_TWO_ACCOUNTS = config(allow=("telegram:1", "discord:42"), people={"ann": ("telegram:1", "discord:42")})
TEAM = config(
    allow=("telegram:1", "telegram:2", "discord:42"),
    admins=("telegram:1",),
    people={"ann": ("telegram:1", "discord:42")},
)


def test_nobody_but_the_operator_is_served_by_default() -> None:
    assert policy.is_allowed(LOCAL, GatewayOptions())
    assert not policy.is_allowed(ANN, GatewayOptions())
    assert not policy.is_allowed(Principal("cli", "somebody"), config(allow=("cli:somebody",)).gateway)


def test_only_listed_principals_are_served() -> None:
    assert policy.is_allowed(ANN, ALONE.gateway)
    assert not policy.is_allowed(BOB, ALONE.gateway)
    assert not policy.is_allowed(Principal("slack", "1"), ALONE.gateway)


def test_people_join_principals_to_one_person() -> None:
    assert TEAM.gateway.person_of(str(ANN)) == TEAM.gateway.person_of(str(ANN_DISCORD)) == "person:ann"
    assert TEAM.gateway.person_of(str(BOB)) == "principal:telegram:2"
    assert len(ONE_WITH_TWO_ACCOUNTS.gateway.persons) == 1
    assert len(TEAM.gateway.persons) == 2


def test_the_operator_is_not_counted_as_a_person() -> None:
    assert len(config(allow=("telegram:1", "cli:local")).gateway.persons) == 1


def test_one_person_changes_everything() -> None:
    assert policy.may_change(ANN, SHARED_SERVER, ONE_WITH_TWO_ACCOUNTS)
    assert policy.may_change(ANN_DISCORD, SHARED_SERVER, ONE_WITH_TWO_ACCOUNTS)


def test_in_a_team_only_admins_change_shared_servers() -> None:
    assert policy.may_change(ANN, SHARED_SERVER, TEAM)
    assert policy.may_change(ANN_DISCORD, SHARED_SERVER, TEAM), "the same person as the admin"
    assert policy.may_change(LOCAL, SHARED_SERVER, TEAM)
    assert not policy.may_change(BOB, SHARED_SERVER, TEAM)
    assert policy.is_allowed(BOB, TEAM.gateway)
    assert policy.may_change(BOB, OWN_SERVER, TEAM)


def test_a_stranger_may_not_even_see() -> None:
    assert not policy.is_allowed(Principal("telegram", "666"), TEAM.gateway)


def test_sign_in_from_a_chat_is_off_for_several_people() -> None:
    assert policy.may_sign_in(ANN, ONE_WITH_TWO_ACCOUNTS.gateway)
    assert not policy.may_sign_in(ANN, TEAM.gateway)
    assert policy.may_sign_in(LOCAL, TEAM.gateway)
    assert policy.may_sign_in(ANN, config(allow=("telegram:1", "telegram:2"), allow_paste=True).gateway)


def test_paste_is_for_private_chats_of_the_only_person() -> None:
    assert policy.may_paste(ANN, True, ALONE.gateway)
    assert not policy.may_paste(ANN, False, ALONE.gateway)
    assert not policy.may_paste(ANN, True, TEAM.gateway)
    assert policy.may_paste(ANN, True, config(allow=("telegram:1", "telegram:2"), allow_paste=True).gateway)
    assert policy.may_paste(LOCAL, True, TEAM.gateway)


def test_secrets_in_chat_are_off_unless_the_platform_says_true() -> None:
    assert policy.secrets_in_chat(LOCAL, GatewayOptions())
    assert not policy.secrets_in_chat(ANN, ALONE.gateway)
    assert not policy.secrets_in_chat(ANN, config(platforms={"telegram": {"secrets_in_chat": "false"}}).gateway)
    assert policy.secrets_in_chat(ANN, config(platforms={"telegram": {"secrets_in_chat": True}}).gateway)


@pytest.mark.parametrize(
    ("principal", "server", "owner"),
    [
        (ANN, SHARED_SERVER, "shared"),
        (LOCAL, SHARED_SERVER, "shared"),
        (ANN, OWN_SERVER, "person:ann"),
        (ANN_DISCORD, OWN_SERVER, "person:ann"),
        (BOB, OWN_SERVER, "principal:telegram:2"),
        (LOCAL, OWN_SERVER, "principal:cli:local"),
    ],
)
def test_whose_credentials(principal: Principal, server: Server, owner: str) -> None:
    assert policy.owner_for(principal, server, TEAM) == owner


def test_a_server_may_override_the_identity_of_the_gateway() -> None:
    everybody_for_themselves = config(allow=("telegram:1",), identity="per_user")
    shared = Server(name="shared", url="https://s.example/mcp", identity="shared")

    assert policy.owner_for(ANN, SHARED_SERVER, everybody_for_themselves) == "principal:telegram:1"
    assert policy.owner_for(ANN, shared, everybody_for_themselves) == "shared"


def test_the_operator_acts_for_a_person() -> None:
    assert policy.owner_for(LOCAL, OWN_SERVER, TEAM, acting_for="ann") == "person:ann"
    assert policy.owner_for(LOCAL, OWN_SERVER, TEAM, acting_for="telegram:2") == "principal:telegram:2"
    assert policy.owner_for(LOCAL, SHARED_SERVER, TEAM, acting_for="ann") == "shared"


def test_nobody_else_acts_for_a_person_and_unknown_people_are_refused() -> None:
    with pytest.raises(NotAllowed):
        policy.owner_for(BOB, OWN_SERVER, TEAM, acting_for="ann")
    with pytest.raises(NotAllowed) as refused:
        policy.owner_for(LOCAL, OWN_SERVER, TEAM, acting_for="telegram:999")
    assert "999" not in str(refused.value)


def test_who_stands_with_two_people_is_the_first_of_them() -> None:
    gateway = GatewayOptions(allow=("telegram:1",), people={"ann": ("telegram:1",), "bob": ("telegram:1", "discord:2")})

    assert gateway.person_of(str(ANN)) == "person:ann"
    assert gateway.persons == {"person:ann"}
