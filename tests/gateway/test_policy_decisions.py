"""What the core asks of the policy, at the moment it asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.invocations import LOCAL
from gateway.people import People
from gateway.policy import GatewayPolicy
from mcp_auth.config.models import Config, Server
from tests.gateway.chat import configure

ANN, ANN_DISCORD, BOB = "telegram:1", "discord:42", "telegram:2"
ANNS, BOBS, OPERATORS = "person:ann", "principal:telegram:2", "principal:cli:local"


def team(home: Path) -> Config:
    return configure(
        home,
        Server(name="notes", url="https://notes.example/mcp", auth="oauth"),
        Server(name="mail", url="https://mail.example/mcp", auth="oauth", identity="per_user"),
        allow=(ANN, ANN_DISCORD, BOB),
        people={"ann": (ANN, ANN_DISCORD)},
        admins=(ANN,),
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (ANN, ANN, True),
        (ANN, ANN_DISCORD, True),
        (ANN_DISCORD, ANN, True),
        (ANN, BOB, False),
        (BOB, ANN_DISCORD, False),
        (BOB, BOB, True),
        (BOB, "discord:2", False),
        (ANN, str(LOCAL), False),
    ],
)
def test_two_accounts_are_one_person_where_the_operator_says_so(
    tmp_path: Path, one: str, other: str, same: bool
) -> None:
    assert GatewayPolicy(People(team(tmp_path))).is_same_person(one, other) is same


@pytest.mark.parametrize(
    ("who", "server", "owner", "allowed"),
    [
        (ANN, "notes", "shared", True),
        (ANN_DISCORD, "notes", "shared", True),
        (BOB, "notes", "shared", False),
        (BOB, "mail", BOBS, True),
        (BOB, "mail", ANNS, False),
        (ANN, "mail", ANNS, True),
        (ANN, "mail", BOBS, False),
        (ANN, "mail", "shared", False),
        (str(LOCAL), "notes", "shared", True),
        (str(LOCAL), "mail", BOBS, True),
        (str(LOCAL), "mail", OPERATORS, True),
        ("telegram:666", "mail", "principal:telegram:666", False),
        (ANN, "gone", "shared", False),
        (str(LOCAL), "gone", "shared", False),
    ],
)
async def test_a_sign_in_is_finished_by_whoever_may_begin_it_for_that_owner(
    tmp_path: Path, who: str, server: str, owner: str, allowed: bool
) -> None:
    decision = await GatewayPolicy(People(team(tmp_path))).decide(who, server, owner)
    assert decision.allowed is allowed
    assert decision.needs_proof
    # Nobody else sits at the operator's own loopback link.
    assert decision.needs_page is (who != str(LOCAL))


async def test_people_are_judged_as_they_are_at_this_moment(tmp_path: Path) -> None:
    server = Server(name="notes", url="https://notes.example/mcp", auth="oauth")
    config = configure(tmp_path, server, allow=(ANN,), admins=("telegram:9",))
    policy = GatewayPolicy(People(config))
    assert (await policy.decide(ANN, "notes", "shared")).needs_page is False
    # Another process lets Bob in, and then shuts Ann out
    await People(config).allow(BOB, LOCAL)
    asked = await policy.decide(ANN, "notes", "shared")
    assert (asked.needs_page, asked.allowed) == (True, False), "shared servers are the admins' by now"
    await People(config).deny(ANN, LOCAL)
    assert (await policy.decide(ANN, "notes", "shared")).allowed is False
