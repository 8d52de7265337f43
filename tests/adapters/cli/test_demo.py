"""`slash-mcp demo`, in this process; as a program of its own in `tests/e2e/test_demo.py`."""

from __future__ import annotations

import re

import pytest

from gateway.demo.browser import press
from gateway.demo.run import Demo
from gateway.gateway import Gateway
from mcp_auth.status import AuthState
from tests.adapters.cli.typed import Run
from tests.homes import ME


def test_the_script_plays_the_whole_story(run: Run) -> None:
    done = run("demo", "--script")
    assert (done.code, done.err) == (0, "")
    for words in ("sign-in needed", "signed in", "works", "whoami: ada@example.com", "revoked", "connected"):
        assert words in done.out
    assert not re.search(r"demo-key-[0-9a-f]{8}", done.out.replace("********", ""))


def test_the_chat_of_the_demo_says_what_there_is(run: Run) -> None:
    done = run("demo", stdin="/mcp\n")
    assert done.code == 0
    assert "Three MCP servers are running: notes (OAuth), weather (API key), clock (open)." in done.out
    assert "MCP Servers:" in done.out


async def test_who_says_no_in_the_browser_is_not_signed_in(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with Demo(id_tokens=True) as demo:
        home = demo.write_home(tmp_path_factory.mktemp("demo") / "home")
        async with Gateway.from_config(home=home) as gateway:
            auth = gateway.auth
            started = await auth.sign_in("notes", "shared", ME)
            await press(started.link, "deny")
            assert (await auth.status("notes")).auth is AuthState.SIGN_IN_NEEDED
            again = await auth.sign_in("notes", "shared", ME)
            assert "signed in" in await press(again.link, "allow")
            assert (await auth.status("notes")).account == "ada@example.com"
