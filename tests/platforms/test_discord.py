"""The loopback refuses what Discord refuses, so that the adapter's tests mean something."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.platforms.discord import DiscordServer, Interaction
from tests.platforms.discord_limits import Invalid, check_choices, check_commands, check_message, check_modal


def button(**members: Any) -> dict[str, Any]:
    return {"type": 2, "style": 2, "label": "x", "custom_id": "a", **members}


def rows(*made: list[dict[str, Any]]) -> dict[str, Any]:
    return {"content": "x", "components": [{"type": 1, "components": row} for row in made]}


def link(**members: Any) -> dict[str, Any]:
    return {"type": 2, "style": 5, "label": "x", "url": "https://a.example/", **members}


def ids(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [button(custom_id=f"c{start + at}") for at in range(count)]


GOOD = {
    "text": {"content": "x" * 2000},
    "25 buttons": rows(*(ids(5, row * 5) for row in range(5))),
    "link of 512": rows([link(url="https://a.example/" + "u" * 494)]),
    "label of 80": rows([button(label="l" * 80, custom_id="c" * 100)]),
}
BAD = {
    "text of 2001": {"content": "x" * 2001},
    "empty": {"content": ""},
    "6 rows": rows(*(ids(1, row) for row in range(6))),
    "6 buttons in a row": rows(ids(6)),
    "empty row": rows([]),
    "label of 81": rows([button(label="l" * 81)]),
    "no label": rows([button(label=None)]),
    "link of 513": rows([link(url="https://a.example/" + "u" * 495)]),
    "link with custom id": rows([link(custom_id="a")]),
    "link that runs something": rows([link(url="javascript:alert(1)")]),
    "custom id of 101": rows([button(custom_id="c" * 101)]),
    "custom id twice": rows([button(), button()]),
    "url without link style": rows([button(url="https://a.example/")]),
    "style 9": rows([button(style=9)]),
    "11 embeds": {"embeds": [{"title": "t"}] * 11},
    "26 fields": {"embeds": [{"fields": [{"name": "n", "value": "v"}] * 26}]},
    "6001 characters of embeds": {"embeds": [{"description": "d" * 4000}, {"description": "d" * 2001}]},
    "ephemeral in a channel": {"content": "x", "flags": 64},
    "unknown mentions": {"content": "x", "allowed_mentions": {"parse": ["all"]}},
}


@pytest.mark.parametrize("body", GOOD.values(), ids=list(GOOD))
def test_what_fits_is_taken(body: dict[str, Any]) -> None:
    check_message(body)


@pytest.mark.parametrize("body", BAD.values(), ids=list(BAD))
def test_what_does_not_fit_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        check_message(body)


def field(**members: Any) -> dict[str, Any]:
    text_input = {"type": 4, "style": 1, "custom_id": "v", **members.pop("component", {})}
    return {"type": 18, "label": "l", "component": text_input, **members}


def modal(*fields: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"custom_id": "m", "title": "t", "components": list(fields) or [field()], **members}


def test_a_modal_of_the_documented_shape_is_taken() -> None:
    check_modal(modal(field(label="l" * 45, description="d" * 100), title="t" * 45))


@pytest.mark.parametrize(
    "body",
    [
        modal(title="t" * 46),
        modal(custom_id=""),
        modal(*[field()] * 6),
        modal(field(label="l" * 46)),
        modal(field(description="d" * 101)),
        modal(field(component={"label": "stands twice"})),
        modal(field(component={"max_length": 4001})),
        modal(field(component={"style": 3})),
        modal({"type": 1, "components": [{"type": 4, "style": 1, "custom_id": "v"}]}),
    ],
    ids=range(9),
)
def test_another_modal_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        check_modal(body)


def test_choices_are_25_at_most_and_commands_are_named_properly() -> None:
    choice = {"name": "n", "value": "v"}
    check_choices({"choices": [choice] * 25})
    check_commands([{"name": "mcp", "description": "d", "options": []}])
    for bad in ({"choices": [choice] * 26}, {"choices": [{"name": "n" * 101, "value": "v"}]}):
        with pytest.raises(Invalid):
            check_choices(bad)
    option = {"name": "o", "description": "d", "type": 3}
    for wrong in (
        {"name": "Mcp", "description": "d"},
        {"name": "mcp", "description": ""},
        {"name": "mcp", "description": "d", "options": [option, {**option, "name": "p", "required": True}]},
        {"name": "mcp", "description": "d", "options": [option, {**option, "name": "p", "type": 1}]},
        {"name": "mcp", "description": "d", "options": [option, option]},
    ):
        with pytest.raises(Invalid):
            check_commands([wrong])


class Client:
    """Requests as a bot sends them, without a library that would keep the rules for us."""

    def __init__(self, server: DiscordServer, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, int]:
        sent = {
            "Authorization": f"Bot {self.server.token}",
            "User-Agent": "DiscordBot (https://slash-mcp.example, 1)",
            **headers,
        }
        async with self.session.request(method, f"{self.server.api_base}/{path}", json=body, headers=sent) as response:
            given = await response.json() if response.status not in (204, 503) else {}
            return response.status, given.get("code", 0) if isinstance(given, dict) else 0

    async def answer(self, asked: Interaction, kind: int, data: Any = None) -> tuple[int, int]:
        return await self("POST", f"interactions/{asked.id}/{asked.token}/callback", {"type": kind, "data": data or {}})


async def test_the_protocol_is_kept() -> None:
    hello = {"content": "hello", "flags": 64}
    async with DiscordServer().running() as server, aiohttp.ClientSession() as session:
        client = Client(server, session)
        ada = server.user("ada")
        server.commands = [{"id": "1", "name": "mcp", "options": [{"name": "help"}]}]

        deferred = await server.slash(ada, "help")
        assert await client.answer(deferred, 5, {"flags": 64}) == (204, 0)
        assert await client.answer(deferred, 9, modal()) == (400, 40060)
        assert await client.answer(deferred, 4, hello) == (400, 40060)
        assert await client("PATCH", f"webhooks/1/{deferred.token}/messages/@original", hello) == (400, 50035)
        assert await client("PATCH", f"webhooks/1/{deferred.token}/messages/@original", {"content": "x"}) == (200, 0)
        server.clock.advance(901)
        assert await client("POST", f"webhooks/1/{deferred.token}", hello) == (401, 50027)

        late = await server.slash(ada, "help")
        server.clock.advance(3.1)
        assert await client.answer(late, 4, hello) == (404, 10062)
        unanswered = await server.slash(ada, "help")
        assert await client("POST", f"webhooks/1/{unanswered.token}", hello) == (404, 10015)
        assert await client.answer(unanswered, 8, {"choices": []}) == (400, 50035)
        assert await client.answer(unanswered, 7, {"content": "no component"}) == (400, 50035)
        assert await client.answer(unanswered, 9, modal()) == (204, 0)
        submitted = await server.submit(unanswered, "value")
        assert await client.answer(submitted, 9, modal()) == (400, 50035)
        assert len(server.violations) == 9

        ada.takes_dms = False
        dm = server.dm(ada)
        assert await client("POST", f"channels/{dm.id}/messages", {"content": "x"}) == (403, 50007)
        assert await client("GET", "users/@me", Authorization="Bot revoked") == (401, 0)
        assert await client("GET", "users/@me", **{"User-Agent": "curl"}) == (403, 0)


async def test_a_user_install_has_five_follow_ups() -> None:
    async with DiscordServer().running() as server, aiohttp.ClientSession() as session:
        client = Client(server, session)
        server.commands = [{"id": "1", "name": "mcp", "options": [{"name": "help"}]}]
        asked = await server.slash(server.user("ada"), "help", server.elsewhere())
        assert await client.answer(asked, 4, {"content": "x"}) == (204, 0)
        sent = [await client("POST", f"webhooks/1/{asked.token}", {"content": "x"}) for _ in range(6)]
        assert sent == [(200, 0)] * 5 + [(400, 40094)]
