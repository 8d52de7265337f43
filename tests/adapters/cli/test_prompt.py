"""What is typed: lines of a stream, and keys at a prompt whose terminal is a pipe and a sheet of paper."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session, get_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from adapters.cli.chat import chat, read_lines
from gateway.gateway import Gateway
from tests.homes import write_home
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer, authorize, visit

KEY = "right-key-of-weather"
CTRL_C, CTRL_D, ENTER, TAB = "\x03", "\x04", "\r", "\t"


async def test_input_without_end_or_that_cannot_be_read_ends_the_lines() -> None:
    class Broken(io.StringIO):
        def readline(self, *_: object) -> str:
            raise IsADirectoryError(21, "Is a directory")

    assert [line async for line in read_lines(Broken())] == []
    assert [line async for line in read_lines(io.StringIO("a\n" + "x" * 2_000_000))] == ["a\n"]


class Paper(DummyOutput):
    """Keeps what a terminal would show, and says when something is there."""

    def __init__(self) -> None:
        self.shown = ""
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def write(self, data: str) -> None:
        self.shown += data
        self._loop.call_soon_threadsafe(self._news.set)

    def write_raw(self, data: str) -> None:
        self.write(data)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Look whenever something was drawn."""
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self._news.clear()
                await self._news.wait()


class Terminal(io.StringIO):
    """Standard input or output of somebody who sits there."""

    def isatty(self) -> bool:
        return True


def line() -> str:
    """What stands at the prompt."""
    app = get_app_session().app
    return app.current_buffer.text if app is not None else ""


@contextmanager
def at_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[PipeInput, Paper]]:
    paper = Paper()
    with create_pipe_input() as keys, create_app_session(input=keys, output=paper), monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", Terminal())
        patch.setattr(sys, "stdout", Terminal())
        yield keys, paper


@pytest.fixture
def home(tmp_path: Path, oauth: OAuthServer) -> Path:
    oauth.knobs.api_key = KEY
    weather = {
        "url": oauth.url.replace("127.0.0.1", "localhost"),
        "headers": {"Authorization": "Bearer ${WEATHER_KEY}"},
    }
    return write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}, "weather": weather})


async def typed(home: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> tuple[bool, str]:
    """All of `text` at once, as from fast hands. Returns whether every line was answered well, and what was shown."""
    with at_terminal(monkeypatch) as (keys, paper):
        keys.send_text(text)
        async with Gateway.from_config(home=home) as gateway, asyncio.timeout(PATIENCE):
            ok = await chat(gateway)
        return ok, paper.shown


@pytest.mark.parametrize(
    ("text", "ok", "answer", "kept"),
    [
        (f"help{ENTER}", True, "/mcp logout SERVER", ["help"]),
        (f"/mcp list{ENTER}", True, "MCP Servers", ["/mcp list"]),
        # Ctrl-C clears the line, and nothing of it was said.
        (f"logout no{CTRL_C}help{ENTER}", True, "/mcp logout SERVER", ["help"]),
        (f"   {ENTER}help{ENTER}", True, "/mcp logout SERVER", ["help"]),
        # What is not understood makes the exit code, and is not kept: it could be anything.
        (f"stats{ENTER}", False, "Did you mean /mcp status?", []),
        (f"key weather {KEY}{ENTER}", False, "history now", []),
        # Words that leave.
        (f"help{ENTER}Quit{ENTER}list{ENTER}", True, "/mcp logout SERVER", ["help"]),
    ],
)
async def test_lines_are_answered_and_kept_as_far_as_they_are_known_words(
    home: Path, monkeypatch: pytest.MonkeyPatch, text: str, ok: bool, answer: str, kept: list[str]
) -> None:
    assert (home / "chat-history").exists() is False
    done, shown = await typed(home, monkeypatch, text + CTRL_D)
    assert answer in shown
    assert done is ok
    history = home / "chat-history"
    assert [line[1:] for line in history.read_text().splitlines() if line.startswith("+")] == kept
    assert history.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "steps",
    [
        [("sta", "status"), (" no", "status notes")],
        [("/mcp sta", "/mcp status"), (" we", "/mcp status weather")],
        [("/mcp we", "/mcp weather")],
        [("peo", "people")],
    ],
    ids=lambda steps: steps[-1][1],
)
async def test_words_and_servers_complete(
    home: Path, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, str]]
) -> None:
    with at_terminal(monkeypatch) as (keys, paper):
        async with Gateway.from_config(home=home) as gateway, asyncio.timeout(PATIENCE):
            chatting = asyncio.create_task(chat(gateway))
            for part, completed in steps:
                keys.send_text(f"{part}{TAB}")
                # Completers run beside the keys: who presses Enter at once sends what was typed.
                await paper.until(lambda completed=completed: line() == completed)  # type: ignore[misc]
            keys.send_text(f"{ENTER}{CTRL_D}")
            assert await chatting is True
    assert f"+{completed}\n" in (home / "chat-history").read_text()


# A dumb one is that of an editor, a serial line or a service manager.
@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (f"{KEY}{ENTER}", "the key works and is stored"),
        (f"wrong-{KEY}{ENTER}", "the server refuses this key; nothing was stored"),
        (CTRL_C, "Nothing was entered."),
        (CTRL_D, "Nothing was entered."),
    ],
    ids=["right", "wrong", "ctrl-c", "ctrl-d"],
)
async def test_a_key_is_asked_for_without_showing_or_keeping_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, answer: str, said: str, terminal: str
) -> None:
    monkeypatch.setenv("TERM", terminal)
    # Ctrl-C and Ctrl-D end the question, and not the chat.
    _, shown = await typed(home, monkeypatch, f"key weather{ENTER}{answer}{CTRL_C}help{ENTER}{CTRL_D}")
    assert "weather needs WEATHER_KEY" in shown
    assert said in shown
    assert "/mcp logout SERVER" in shown
    assert KEY not in shown
    assert KEY not in (home / "chat-history").read_text()


async def test_a_notice_appears_while_the_prompt_waits(
    home: Path, monkeypatch: pytest.MonkeyPatch, oauth: OAuthServer
) -> None:
    oauth.knobs.api_key = None
    with at_terminal(monkeypatch) as (keys, paper):
        async with Gateway.from_config(home=home) as gateway, asyncio.timeout(PATIENCE):
            chatting = asyncio.create_task(chat(gateway))
            keys.send_text(f"auth notes{ENTER}")
            await paper.until(lambda: "Open a link in a browser" in paper.shown)
            link = next(word for word in paper.shown.split() if "/authorize?" in word)
            await asyncio.to_thread(lambda: visit(authorize(link)))
            await paper.until(lambda: "notes: signed in" in paper.shown)
            keys.send_text(CTRL_D)
            assert await chatting is True
