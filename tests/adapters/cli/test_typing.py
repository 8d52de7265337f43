"""`auth`, `key` and `paste` at a terminal, in this process: it is a real one, and the test sits at its other end."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import re
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pexpect.fdpexpect import fdspawn
from starlette.responses import PlainTextResponse

from adapters.cli.cli import main
from mcp_auth import McpAuth
from mcp_auth.records import Requester, Untold
from tests.adapters.cli.typed import Run
from tests.browser import Browser
from tests.homes import ME, write_home
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.servers.oauth import OAuthServer, authorize, visit

KEY = "right-key-of-weather"
CTRL_D = "\x04"
Hands = Callable[[fdspawn], object]


class Desk:
    """Somebody at a terminal. `shown`: all that was to be seen on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._shown = io.BytesIO()

    @property
    def shown(self) -> str:
        return self._shown.getvalue().decode()

    def run(self, *arguments: str | Path, hands: Hands) -> int:
        """One command, while `hands` look and type. Returns its exit code."""
        with self._terminal() as terminal, ThreadPoolExecutor(1) as people:
            typing = people.submit(_typed, terminal, hands)
            code = main([str(argument) for argument in arguments])
            typing.result()
            return code

    @contextmanager
    def _terminal(self) -> Iterator[fdspawn]:
        ours, theirs = os.openpty()
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", os.fdopen(os.dup(theirs), encoding="utf-8"))
            for name in ("stdout", "stderr"):
                patch.setattr(sys, name, os.fdopen(os.dup(theirs), "w", encoding="utf-8"))
            terminal = fdspawn(ours, timeout=PATIENCE)
            terminal.logfile_read = self._shown
            try:
                yield terminal
            finally:
                os.close(theirs)
                terminal.close()


def _typed(terminal: fdspawn, hands: Hands) -> None:
    try:
        hands(terminal)
    except BaseException:
        # Nobody sits there any more, and the command would wait for them.
        terminal.close()
        raise


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    # As wide as that no link is broken, and nobody's own browser comes up.
    for name, value in {"COLUMNS": "2000", "LINES": "60", "TERM": "xterm", "SSH_TTY": "/dev/pts/0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    real = os.open

    def without_the_testers_own(path: Any, *more: Any, **options: Any) -> int:
        if path == "/dev/tty":
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return real(path, *more, **options)

    monkeypatch.setattr(os, "open", without_the_testers_own)
    return Desk(monkeypatch)


@pytest.fixture
def home(tmp_path: Path, oauth: OAuthServer) -> Path:
    return write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}})


@pytest.fixture
def key_home(tmp_path: Path, oauth: OAuthServer) -> Path:
    oauth.knobs.api_key = KEY
    headers = {"Authorization": "Bearer ${WEATHER_KEY}"}
    return write_home(tmp_path, {"weather": {"url": oauth.url, "headers": headers}})


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """A home whose server cannot be reached."""
    url = f"http://127.0.0.1:{free_port()}/mcp"
    return write_home(tmp_path, {"gone": {"url": url, "headers": {"X-Key": "${GONE_KEY}"}}})


def stored(home: Path) -> str:
    env = home / ".env"
    return env.read_text() if env.exists() else ""


def enter(*steps: tuple[str, str], then: str) -> Hands:
    """Wait for words and type after them, step by step; in the end wait for `then`."""

    def hands(terminal: fdspawn) -> None:
        for words, typed in steps:
            terminal.expect_exact(words)
            terminal.send(typed)
        terminal.expect_exact(then)

    return hands


def link_on(terminal: fdspawn) -> str:
    terminal.expect(rb"\n(http://127\.0\.0\.1:\d+/\S+)\r")
    assert isinstance(terminal.match, re.Match)
    return str(terminal.match.group(1).decode())


# -- keys ----------------------------------------------------------------------------------------

QUESTION = "WEATHER_KEY for weather ("


@pytest.mark.parametrize(
    ("typed", "said", "code", "kept"),
    [
        (f"{KEY}\n", "weather accepted the key. Stored: WEATHER_KEY.", 0, f"WEATHER_KEY={KEY}\n"),
        (f"  Bearer {KEY} \n", "weather accepted the key. Stored: WEATHER_KEY.", 0, f"WEATHER_KEY={KEY}\n"),
        (f"wrong-{KEY}\n", "Nothing was stored. Next: slash-mcp key weather", 1, ""),
        ("\n", "Nothing was entered, and nothing was stored. Next: slash-mcp key weather", 1, ""),
        (CTRL_D, "Nothing was entered, and nothing was stored. Next: slash-mcp key weather", 1, ""),
    ],
    ids=["right", "with Bearer", "wrong", "empty", "ctrl-d"],
)
def test_a_key_is_asked_for_and_never_shown(
    desk: Desk, key_home: Path, typed: str, said: str, code: int, kept: str
) -> None:
    assert desk.run("--home", key_home, "key", "weather", hands=enter((QUESTION, typed), then=said)) == code
    assert KEY not in desk.shown
    assert stored(key_home) == kept


@pytest.mark.parametrize(
    ("answer", "code"),
    [("y\n", 0), ("Yes\n", 0), ("\n", 1), ("n\n", 1), (CTRL_D, 1)],
    ids=["y", "yes", "enter", "n", "ctrl-d"],
)
def test_a_key_that_cannot_be_tried_is_stored_when_its_owner_says_so(
    desk: Desk, away: Path, answer: str, code: int
) -> None:
    said = "Stored, not verified: GONE_KEY." if code == 0 else "Nothing was stored. Next: slash-mcp key gone"
    steps = enter(("GONE_KEY for gone", f"{KEY}\n"), ("Store it anyway? [y/N] ", answer), then=said)
    assert desk.run("--home", away, "key", "gone", hands=steps) == code
    assert "So the key could not be tried." in desk.shown
    assert stored(away) == (f"GONE_KEY={KEY}\n" if code == 0 else "")


@pytest.mark.parametrize("option", ["--store-anyway", "--stdin"])
def test_who_said_it_before_is_not_asked(desk: Desk, away: Path, option: str) -> None:
    def hands(terminal: fdspawn) -> None:
        if option == "--stdin":
            terminal.send(f"{KEY}\n")
        else:
            terminal.expect_exact("GONE_KEY for gone")
            terminal.send(f"{KEY}\n")
        terminal.expect_exact("tored")

    assert desk.run("--home", away, "key", "gone", option, hands=hands) == (0 if option == "--store-anyway" else 1)
    assert "anyway?" not in desk.shown


# -- sign-ins ------------------------------------------------------------------------------------


def test_auth_shows_link_code_and_minutes_and_takes_the_address(desk: Desk, home: Path) -> None:
    def hands(terminal: fdspawn) -> None:
        redirect = authorize(link_on(terminal))
        terminal.expect_exact("\x1b[97;40m██".encode())
        terminal.expect_exact("10 minutes left > ")
        terminal.send("\n")
        terminal.send("that is no address\n")
        terminal.expect_exact("slash-mcp: ")
        terminal.expect_exact("10 minutes left > ")
        terminal.send(f"{redirect}\n")
        terminal.expect_exact("notes: signed in, 3 tools")

    assert desk.run("--home", home, "auth", "notes", hands=hands) == 0


@pytest.mark.parametrize(("name", "value", "drawn"), [("NO_COLOR", "1", True), ("LINES", "24", False)])
def test_a_code_without_colours_is_drawn_and_one_that_does_not_fit_is_not(
    desk: Desk, home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, drawn: bool
) -> None:
    monkeypatch.setenv(name, value)

    def hands(terminal: fdspawn) -> None:
        link = link_on(terminal)
        terminal.expect_exact("10 minutes left > ")
        assert ("█".encode() in terminal.before) is drawn
        visit(authorize(link))
        terminal.expect_exact("notes: signed in")

    assert desk.run("--home", home, "auth", "notes", hands=hands) == 0
    assert not re.search(r"\x1b\[[\d;]+m", desk.shown)


class RealBrowser(webbrowser.BaseBrowser):
    """What this machine opens links with, at an authorization server that asks nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def open(self, url: str, new: int = 0, autoraise: bool = True) -> bool:
        self.opened.append(url)
        return visit(authorize(url)).status_code == 200


@pytest.mark.parametrize(
    ("env", "options", "opens"),
    [
        ({"DISPLAY": ":0"}, [], True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, [], True),
        ({}, [], False),
        ({"DISPLAY": ":0"}, ["--no-browser"], False),
        ({"DISPLAY": ":0", "SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"}, [], False),
    ],
    ids=["X", "Wayland", "no display", "not wanted", "SSH"],
)
def test_a_browser_is_opened_where_the_person_sits(
    desk: Desk, home: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], options: list[str], opens: bool
) -> None:
    browser = RealBrowser()
    monkeypatch.setattr(webbrowser, "_browsers", {})
    monkeypatch.setattr(webbrowser, "_tryorder", [])
    webbrowser.register("ours", None, browser, preferred=True)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_TTY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    link: list[str] = []

    def hands(terminal: fdspawn) -> None:
        link.append(link_on(terminal))
        if not opens:
            terminal.expect_exact("left > ")
            visit(authorize(link[0]))
        terminal.expect_exact("notes: signed in, 3 tools")

    assert desk.run("--home", home, "auth", "notes", *options, hands=hands) == 0
    assert browser.opened == (link if opens else [])


def test_news_for_another_terminal_are_left_to_it(desk: Desk, home: Path) -> None:
    """A chat at a terminal may have ended before its news came; the next one says them."""
    news = Untold(id="text-1", about="text", origin=Requester(principal="cli:local"), at=0.0, text="hello")

    async def kept(*, write: bool) -> list[str]:
        async with McpAuth.open(home=home) as auth:
            if write:
                await auth.store.outbox.add(news)
            return [row.id for row in await auth.store.outbox.due(time.time())]

    def hands(terminal: fdspawn) -> None:
        link = link_on(terminal)
        terminal.expect_exact("left > ")
        visit(authorize(link))
        terminal.expect_exact("notes: signed in, 3 tools")

    assert news.id in asyncio.run(kept(write=True))
    assert desk.run("--home", home, "auth", "notes", hands=hands) == 0
    assert news.id in asyncio.run(kept(write=False))


def test_what_was_denied_is_a_failure(desk: Desk, home: Path, oauth: OAuthServer) -> None:
    oauth.knobs.authorize_error = {"error": "access_denied"}

    def hands(terminal: fdspawn) -> None:
        visit(authorize(link_on(terminal)))
        terminal.expect_exact("slash-mcp: ")

    assert desk.run("--home", home, "auth", "notes", hands=hands) == 1
    assert "Next: slash-mcp auth notes" in desk.shown


def test_an_access_that_nothing_renews_says_when_it_ends(desk: Desk, home: Path, oauth: OAuthServer) -> None:
    oauth.knobs.give_refresh_token = False

    def hands(terminal: fdspawn) -> None:
        visit(authorize(link_on(terminal)))
        terminal.expect(rb"notes: signed in, 3 tools\. [^\r\n]+\r")

    assert desk.run("--home", home, "auth", "notes", hands=hands) == 0


def test_a_token_that_its_own_server_refuses_is_a_failure(desk: Desk, home: Path, oauth: OAuthServer) -> None:
    def hands(terminal: fdspawn) -> None:
        redirect = authorize(link_on(terminal))
        oauth.knobs.mcp_answers = [PlainTextResponse("", 401) for _ in range(20)]
        terminal.send(f"{redirect}\n")
        terminal.expect_exact("slash-mcp: notes")
        terminal.expect_exact("Next: ")

    assert desk.run("--home", home, "auth", "notes", hands=hands) == 1
    assert "signed in, " not in desk.shown


def test_a_timeout_bounds_the_trial_of_the_new_access_too(
    desk: Desk, home: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = [0.0]
    clock = SimpleNamespace(time=time.time, monotonic=lambda: time.monotonic() + ahead[0])
    monkeypatch.setattr("gateway.sign_ins.time", clock)
    exchanged, tried = threading.Event(), threading.Event()
    oauth.knobs.token_gate = exchanged

    def hands(terminal: fdspawn) -> None:
        try:
            redirect = authorize(link_on(terminal))
            terminal.expect_exact(" left > ")
            terminal.send(f"{redirect}\n")
            deadline = time.monotonic() + PATIENCE
            while not oauth.requests("/token"):
                assert time.monotonic() < deadline
                time.sleep(0.005)
            # The hour is over by the time the code is exchanged, and then the server says nothing.
            ahead[0] = 3600.0
            oauth.knobs.mcp_gate = tried
            exchanged.set()
            terminal.expect_exact("notes: signed in, but no answer within 1 seconds")
        finally:
            exchanged.set()
            tried.set()

    assert desk.run("--home", home, "auth", "notes", "--timeout", "3600", hands=hands) == 0


def test_without_a_timeout_the_end_of_the_last_link_is_the_end(
    desk: Desk, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever keeps the end from being told: here the link's ten minutes are over at once
    monkeypatch.setattr("adapters.cli.auth._GRACE_SECONDS", -600.0)
    hands = enter(then="notes: nobody finished the sign-in in time; its link still works. Next: slash-mcp paste URL")
    assert desk.run("--home", home, "auth", "notes", hands=hands) == 1


def test_what_needs_a_key_is_said_beside_the_links(desk: Desk, key_home: Path) -> None:
    words = "weather: needs a key: WEATHER_KEY. Next: slash-mcp key weather"
    assert desk.run("--home", key_home, "auth", hands=enter(then=words)) == 0


def test_paste_asks_for_the_address(desk: Desk, run: Run, home: Path) -> None:
    (event,) = run("--home", home, "auth", "notes", "--no-wait", "--json").events
    redirect = authorize(event["url"])
    hands = enter(("Address of the browser's last page: ", f"{redirect}\n"), then="Signed in to notes. 3 tools.")
    assert desk.run("--home", home, "paste", hands=hands) == 0


def test_paste_of_a_sign_in_whose_server_refuses_the_token_is_a_failure(
    run: Run, home: Path, oauth: OAuthServer
) -> None:
    (event,) = run("--home", home, "auth", "notes", "--no-wait", "--json").events
    redirect = authorize(event["url"])
    oauth.knobs.mcp_answers = [PlainTextResponse("", 401) for _ in range(20)]
    done = run("--home", home, "paste", redirect)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("slash-mcp: notes: the sign-in was finished, but the server refuses it (")
    assert done.err.endswith("Next: slash-mcp auth notes\n")


@pytest.fixture
def public_home(tmp_path: Path, oauth: OAuthServer) -> Path:
    """A client registered by hand has the public redirect URI only, and its page asks the operator, too."""
    port = free_port()
    servers = {"notes": {"url": oauth.url, "auth": "oauth", "oauth": {"client_id": "by-hand"}}}
    return write_home(tmp_path, servers, {"public_url": f"http://127.0.0.1:{port}", "callback": {"port": port}})


def test_the_code_of_our_own_page_is_typed_where_auth_waits(desk: Desk, public_home: Path) -> None:
    async def signs_in(terminal: fdspawn) -> None:
        async with Browser() as browser:
            page = await browser.press(await browser.open(link_on(terminal)))
            terminal.send(f"{page.code.lower()}\n")
            page = await browser.released(page)
            assert (await browser.open(await browser.authorize(page))).heading == "notes is connected"

    def hands(terminal: fdspawn) -> None:
        terminal.expect_exact("notes: ")
        asyncio.run(signs_in(terminal))
        terminal.expect_exact("notes: signed in, 3 tools")

    assert desk.run("--home", public_home, "auth", "notes", hands=hands) == 0
    assert "When a page shows a code, type it here" in desk.shown


def test_the_code_of_our_own_page_is_taken_by_paste(run: Run, public_home: Path) -> None:
    async def shown() -> str:
        async with McpAuth.open(home=public_home) as auth:
            started = await auth.sign_in("notes", "shared", ME)
            async with Browser() as browser:
                return (await browser.press(await browser.open(started.link))).code

    begun = run("--home", public_home, "auth", "notes", "--no-wait")
    assert "the page shows a code. Next: slash-mcp paste CODE" in begun.err
    done = run("--home", public_home, "paste", asyncio.run(shown()))
    assert (done.code, done.err) == (0, "")
    assert "notes" in done.out
