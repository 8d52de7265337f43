"""The command line is one more chat of the gateway: what it asks, what it gets, and what it leaves alone."""

from __future__ import annotations

import ast
import asyncio
import json
import socket
from pathlib import Path

import pytest

from adapters.cli.ask import answer_once, tell
from gateway.gateway import Gateway
from gateway.grammar import Auth, Test
from gateway.invocations import LOCAL, Capabilities, ChatRef, Invocation
from gateway.replies import Reply, Table
from mcp_auth.config.load import load
from mcp_auth.errors import NotAllowed
from mcp_auth.status import ServerStatus
from tests.adapters.cli.typed import Run
from tests.homes import open_auth, signed_in, write_home
from tests.servers.oauth import OAuthServer

ROOT = Path(__file__).parents[3]
PER_USER = {"identity": "per_user", "allow": ["telegram:1"]}


@pytest.fixture
def home(tmp_path: Path, oauth: OAuthServer) -> Path:
    return write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}})


@pytest.mark.parametrize("module", ["ask", "auth", "commands", "chat", "listing"])
def test_the_commands_reach_servers_through_the_gateway_alone(module: str) -> None:
    tree = ast.parse((ROOT / "adapters" / "cli" / f"{module}.py").read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in imported if name and name.startswith("mcp_auth.core")}


def test_nobody_is_told_later_of_what_the_command_line_began(run: Run, home: Path) -> None:
    """The program is gone by then, and another process of this home has no terminal."""

    async def chats() -> list[object]:
        async with Gateway(load(None, home), alone=True) as gateway:
            return [one.origin.chat for one in await gateway.auth.open_sign_ins()]

    assert run("--home", home, "auth", "notes", "--no-wait").code == 0
    assert asyncio.run(chats()) == [None]


def test_a_command_takes_no_redirects_of_what_others_began(run: Run, home: Path) -> None:
    assert run("--home", home, "auth", "notes", "--no-wait").code == 0
    config = load(None, home)

    async def bound() -> None:
        async with Gateway(config, alone=True) as gateway:
            await gateway.start()
            with socket.create_server((config.gateway.callback.host, config.gateway.callback.port)):
                """Nothing of ours listens there."""

    asyncio.run(bound())


def test_a_reply_says_for_the_program_what_its_text_says(home: Path) -> None:
    class Options:
        acting_for = None

    reply = answer_once(load(None, home), Options(), Test("notes"))  # type: ignore[arg-type]
    assert isinstance(reply.data, ServerStatus)
    assert (reply.ok, reply.data.name, reply.data.connection.detail) == (False, "notes", "notes is not signed in.")


async def test_what_cannot_be_asked_is_on_the_checklist_of_a_program_only(tmp_path: Path, oauth: OAuthServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/mcp"
    home = write_home(tmp_path, {"open": {"url": url}})

    async def said(**invocation: object) -> Reply:
        async with Gateway(load(None, home), alone=True) as gateway:
            asked = Invocation(LOCAL, ChatRef("cli"), "auth", True, "1", **invocation)  # type: ignore[arg-type]
            return [reply async for reply in gateway.handle(asked, Capabilities())][-1]

    assert "could not be asked" in repr(await said(command=Auth()))
    assert "could not be asked" not in repr(await said())


async def test_the_operator_signs_out_for_somebody_who_was_shut_out(
    run: Run, tmp_path: Path, oauth: OAuthServer
) -> None:
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    async with open_auth(tmp_path, servers, PER_USER) as auth:
        await signed_in(auth, owner="principal:telegram:2")
    logout = ("--home", tmp_path / "home", "logout", "notes", "--as", "telegram:2")
    assert (await asyncio.to_thread(run, *logout)).code == 1
    for command in ("allow", "deny"):
        assert (await asyncio.to_thread(run, "--home", tmp_path / "home", command, "telegram:2")).code == 0
    assert (await asyncio.to_thread(run, *logout)).code == 0
    assert oauth.access == {}


def test_a_command_runs_where_more_people_are_let_in_than_the_configuration_is_made_for(
    run: Run, tmp_path: Path, oauth: OAuthServer
) -> None:
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    home = write_home(tmp_path, servers, {"identity": "per_user"})
    for who in ("telegram:1", "telegram:2"):
        assert run("--home", home, "allow", who).code == 0
    write_home(tmp_path, servers)
    # A gateway that would serve them does not start; the operator's own command does.
    assert run("--home", home, "chat").code == 2
    assert run("--home", home, "cancel").code == 0


def test_an_error_is_raised_as_what_it_is(home: Path) -> None:
    class Options:
        acting_for = "nobody"

    home = write_home(home.parent, json.loads('{"mine": {"command": "true", "identity": "per_user"}}'))
    with pytest.raises(NotAllowed, match="nobody of this name"):
        answer_once(load(None, home), Options(), Test("mine"))  # type: ignore[arg-type]


def test_only_sentences_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(Reply((Table((("a", "b"),)),), ok=False)) == 1
    assert capsys.readouterr().out == ""
