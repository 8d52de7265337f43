"""`slash-mcp chat` on a pipe and at a terminal, in a process of its own. The servers are real, on loopback."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from tests.adapters.cli.typed import Done, Run
from tests.homes import write_home
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.servers.oauth import OAuthServer, authorize, visit

ROOT = Path(__file__).parents[3]
COMMAND = ["-m", "adapters.cli"]
KEY = "right-key-of-weather"
# The prompt shows the cursor last.
READY = "\x1b[?25h"


@pytest.fixture
def home(tmp_path: Path, oauth: OAuthServer) -> Path:
    weather = {"url": f"http://127.0.0.1:{free_port()}/mcp", "headers": {"Authorization": "Bearer ${WEATHER_KEY}"}}
    return write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}, "weather": weather})


class TestOnAPipe:
    def test_every_line_is_answered_with_or_without_the_command_and_ends_with_an_empty_line(
        self, run: Run, home: Path
    ) -> None:
        done = chat(run, home, "/mcp help\nhelp\n\n  /mcp  \n")
        helped, again, listed, rest = re.split(r"\n\n(?=  /mcp  |MCP Servers|$)", done.out)
        assert helped == again
        assert helped.startswith("  /mcp ")
        assert listed.startswith("MCP Servers:")
        assert "! sign-in needed" in listed
        assert rest == ""
        assert (done.code, done.err) == (0, "")

    def test_a_line_that_is_not_understood_gets_the_nearest_command_and_the_exit_code_tells(
        self, run: Run, home: Path
    ) -> None:
        done = chat(run, home, "atuh\nhelp\n")
        assert "Did you mean /mcp auth?" in done.out
        assert done.code == 1

    def test_a_key_is_not_read_from_a_pipe(self, run: Run, home: Path) -> None:
        done = chat(run, home, "key weather\nsome-secret-key\n")
        assert "slash-mcp key weather --stdin" in done.out
        assert "some-secret-key" not in done.out
        assert not (home / ".env").exists()

    @pytest.mark.service
    def test_the_link_stands_alone_and_the_notice_comes_when_it_happens(self, home: Path) -> None:
        with open_chat(home) as piped:
            # Given a link that was asked for
            link = say(piped, "auth notes", until="://")
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/authorize\?\S+", link)

            # When the browser finishes while nobody types
            visit(authorize(link))

            # Then the chat says so, and goes on
            assert "notes: signed in" in read_until(piped, "signed in")
            assert "3 tools" in say(piped, "test notes", until="connected")

    @pytest.mark.service
    def test_the_address_of_the_last_page_can_be_pasted_bare(self, home: Path) -> None:
        with open_chat(home) as piped:
            link = say(piped, "/mcp auth notes", until="://")
            assert "signed in" in say(piped, authorize(link), until="notes")

    def test_the_end_of_input_leaves_at_once(self, run: Run, home: Path) -> None:
        done = chat(run, home, "auth notes\n")
        assert done.code == 0
        assert "signed in" not in done.out

    @pytest.mark.service
    def test_with_wait_the_end_of_input_waits_for_the_sign_in(self, home: Path) -> None:
        with open_chat(home, "--wait", "30") as piped:
            link = say(piped, "auth notes", until="://")
            assert piped.stdin is not None
            assert piped.stdout is not None
            piped.stdin.close()
            visit(authorize(link))
            assert "notes: signed in" in piped.stdout.read()
            assert piped.wait(PATIENCE) == 0

    def test_wait_is_bounded(self, run: Run, home: Path) -> None:
        done = chat(run, home, "auth notes\n", "--wait", "0.2")
        assert "signed in" not in done.out


@pytest.mark.service
class TestAtATerminal:
    @pytest.fixture
    def terminal(self, home: Path) -> Iterator[pexpect.spawn[bytes]]:
        started = pexpect.spawn(
            sys.executable,
            [*COMMAND, "--home", str(home), "chat"],
            cwd=str(ROOT),
            # Wide enough that no link is broken; nobody answers here when the program asks where the cursor is.
            dimensions=(40, 2000),
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            timeout=PATIENCE,
        )
        started.expect_exact(READY)
        yield started
        started.close(force=True)

    def test_words_and_servers_complete(self, terminal: pexpect.spawn[bytes]) -> None:
        terminal.send("/mcp te\t")
        terminal.expect_exact("st")
        terminal.send(" no\t")
        terminal.expect_exact("tes")
        terminal.send("\r")
        terminal.expect_exact("Next: /mcp auth notes")

    def test_a_notice_appears_while_the_prompt_waits(self, terminal: pexpect.spawn[bytes]) -> None:
        terminal.sendline("auth notes")
        terminal.expect(rb"(http://127\.0\.0\.1:\d+/authorize\?[^\s\x1b]+)")
        assert isinstance(terminal.match, re.Match)
        visit(authorize(terminal.match.group(1).decode()))
        terminal.expect_exact("notes: signed in")
        leave(terminal)

    def test_a_key_is_neither_shown_nor_remembered(self, terminal: pexpect.spawn[bytes], home: Path) -> None:
        shown = io.BytesIO()
        terminal.logfile_read = shown

        # Given a key that is asked for, and one that is typed after its command by mistake
        terminal.sendline("key weather")
        terminal.expect_exact("weather needs WEATHER_KEY")
        terminal.sendline(KEY)
        terminal.expect_exact("Store it anyway")
        assert KEY.encode() not in shown.getvalue()
        terminal.sendline(f"key weather {KEY}-2")
        terminal.expect_exact("history now")

        # Then what is kept for the arrow keys has neither
        terminal.sendline("list")
        terminal.expect_exact("MCP Servers")
        leave(terminal)
        history = home / "chat-history"
        kept = history.read_text()
        assert "+key weather\n" in kept
        assert "+list\n" in kept
        assert KEY not in kept
        assert history.stat().st_mode & 0o777 == 0o600

    def test_ctrl_c_clears_the_line_and_ctrl_d_leaves(self, terminal: pexpect.spawn[bytes]) -> None:
        terminal.send("half a line")
        terminal.sendintr()
        terminal.expect_exact(READY)
        terminal.sendline("help")
        terminal.expect_exact("/mcp logout SERVER")
        leave(terminal)
        assert terminal.exitstatus == 0

    def test_ctrl_c_at_a_secret_question_goes_back_to_the_prompt(self, terminal: pexpect.spawn[bytes]) -> None:
        terminal.sendline("key weather")
        terminal.expect_exact("weather needs WEATHER_KEY")
        terminal.expect_exact(READY)
        terminal.sendintr()
        terminal.expect_exact("Nothing was entered.")
        terminal.sendline("help")
        terminal.expect_exact("/mcp logout SERVER")


def leave(terminal: pexpect.spawn[bytes]) -> None:
    terminal.expect_exact(READY)
    terminal.sendeof()
    terminal.expect(pexpect.EOF)
    terminal.close()


def chat(run: Run, home: Path, lines: str, *options: str) -> Done:
    return run("--home", home, "chat", *options, stdin=lines)


@contextmanager
def open_chat(home: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, *COMMAND, "--home", str(home), "chat", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True) as chat:
        try:
            yield chat
        finally:
            chat.kill()


def say(piped: subprocess.Popen[str], line: str, until: str) -> str:
    assert piped.stdin is not None
    piped.stdin.write(f"{line}\n")
    piped.stdin.flush()
    return read_until(piped, until)


def read_until(piped: subprocess.Popen[str], words: str) -> str:
    """The first line with `words`. The test's own time limit bounds the wait."""
    assert piped.stdout is not None
    return next(line for line in piped.stdout if words in line).strip()
