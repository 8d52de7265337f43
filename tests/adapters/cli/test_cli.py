"""`slash-mcp` as it is typed: what it prints where, and how it exits. The servers are real, on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar

import pexpect
import pytest
import yaml

from adapters.cli.cli import complain
from mcp_auth import McpAuth
from mcp_auth.config.models import GatewayOptions
from mcp_auth.errors import McpAuthError
from mcp_auth.links.policy import ConfigPolicy
from mcp_auth.outcome import Next
from tests.adapters.cli.typed import Run
from tests.browser import Browser
from tests.e2e.processes import heed_interrupts
from tests.homes import signed_in, write_home
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.servers.oauth import OAuthServer, authorize, visit
from tests.servers.threads import loopback_socket, serving

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "adapters.cli"]


@pytest.fixture
def home(tmp_path: Path, oauth: OAuthServer) -> Path:
    return write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}})


@pytest.fixture
def key_home(tmp_path: Path, oauth: OAuthServer) -> Path:
    oauth.knobs.api_key = "right-key-of-weather"
    headers = {"Authorization": "Bearer ${WEATHER_KEY}"}
    return write_home(tmp_path, {"weather": {"url": oauth.url, "headers": headers}})


@contextmanager
def process(*arguments: str | Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, whose standard input stays open; killed when the test leaves."""
    pipe = subprocess.PIPE
    command = [*COMMAND, *(str(argument) for argument in arguments)]
    options |= {"stdin": pipe, "stdout": pipe, "stderr": pipe, "text": True, "preexec_fn": heed_interrupts}
    with subprocess.Popen(command, cwd=ROOT, **options) as started:
        try:
            yield started
        finally:
            started.kill()


class TestList:
    SERVERS: ClassVar[dict[str, Any]] = {
        "supabase": {"url": "https://mcp.supabase.com/mcp", "auth": "oauth"},
        "my-api": {
            "url": "https://api.example.com/mcp",
            "headers": {"Authorization": "Bearer ${MY_KEY}"},
            "tools": {"include": ["read_*", "search"]},
        },
        "local": {"command": "npx", "args": ["-y", "thing"]},
        "off": {"url": "https://off.example.com/mcp", "enabled": False},
        "broken": {"url": 7},
    }

    def test_the_bare_command_lists(self, run: Run, tmp_path: Path) -> None:
        home = write_home(tmp_path, self.SERVERS)
        bare, listed = run("--home", home), run("--home", home, "list")
        assert bare.out == listed.out
        assert bare.code == 0
        assert bare.out.startswith("MCP Servers:\n\n  Name  ")
        assert "! sign-in needed" in bare.out
        assert "✗ key missing: MY_KEY" in bare.out
        assert bare.out.endswith("\n  Use slash-mcp auth to authenticate servers\n")
        assert "\x1b" not in bare.out

    def test_json_has_the_documented_shape(self, run: Run, tmp_path: Path) -> None:
        (document,) = run("--home", write_home(tmp_path, self.SERVERS), "list", "--json").events
        servers = {one["name"]: one for one in document["servers"]}
        assert servers["my-api"] == {
            "name": "my-api",
            "transport": "http",
            "url": "https://api.example.com/mcp",
            "tools": "2 selected",
            "auth": {
                "state": "key_missing",
                "detail": "MY_KEY",
                "account": None,
                "expires_at": None,
                "next": "slash-mcp key my-api",
            },
            "connection": {"state": "not_checked", "tools": None, "ms": None, "detail": None},
        }
        assert servers["local"]["command"] == "npx -y thing"
        assert "url" not in servers["local"]
        assert {name: one["auth"]["state"] for name, one in servers.items()} == {
            "supabase": "sign_in_needed",
            "my-api": "key_missing",
            "local": "none_needed",
            "off": "disabled",
            "broken": "misconfigured",
        }

    def test_one_server_is_shown_in_detail_by_the_beginning_of_its_name(self, run: Run, tmp_path: Path) -> None:
        done = run("--home", write_home(tmp_path, self.SERVERS), "list", "SUPA")
        assert "Address     https://mcp.supabase.com/mcp\n" in done.out
        assert "Next        slash-mcp auth supabase" in done.out

    def test_an_unknown_server_is_named_with_what_there_is(self, run: Run, tmp_path: Path) -> None:
        done = run("--home", write_home(tmp_path, self.SERVERS), "list", "nothing")
        assert (done.code, done.out) == (1, "")
        assert "There are: broken, local, my-api, off, supabase. Next: slash-mcp list" in done.err

    def test_probing_shows_the_connection_and_fails_for_what_does_not_answer(
        self, run: Run, tmp_path: Path, oauth: OAuthServer
    ) -> None:
        oauth.knobs.protected = False
        oauth.knobs.prm_path = None
        dead = f"http://127.0.0.1:{free_port()}/mcp"
        home = write_home(tmp_path, {"open": {"url": oauth.url}, "dead": {"url": dead}})
        done = run("--home", home, "list", "--probe", "--json")
        servers = {one["name"]: one["connection"] for one in done.events[0]["servers"]}
        assert done.code == 1
        assert (servers["open"]["state"], servers["open"]["tools"]) == ("ready", 3)
        assert servers["dead"]["state"] == "unreachable"

    def test_a_server_that_takes_only_a_key_is_said_to_lack_one(
        self, run: Run, tmp_path: Path, oauth: OAuthServer
    ) -> None:
        oauth.knobs.prm_path, oauth.knobs.well_known, oauth.knobs.api_key = None, "none", "sk-1"
        home = write_home(tmp_path, {"notes": {"url": oauth.url}})
        probed = run("--home", home, "list", "--probe", "--json")
        (server,) = probed.events[0]["servers"]
        assert (probed.code, server["connection"]["state"]) == (1, "refused")
        assert server["auth"]["state"] == "misconfigured"
        assert "headers" in server["auth"]["detail"]
        # And so says every later list, from local state
        (later,) = run("--home", home, "list", "--json").events[0]["servers"]
        assert later["auth"] == server["auth"]

    def test_probing_needs_no_home_that_can_be_written(self, run: Run, tmp_path: Path, oauth: OAuthServer) -> None:
        home = write_home(tmp_path, {name: {"url": oauth.url, "headers": {"X": "y"}} for name in ("a", "b")})
        oauth.knobs.protected = False
        (home / "sign-ins").write_text("no folder")
        done = run("--home", home, "list", "--probe", "--json")
        assert (done.code, done.err) == (0, "")
        assert [one["connection"]["state"] for one in done.events[0]["servers"]] == ["ready", "ready"]

    def test_without_servers_the_next_step_is_said(self, run: Run, tmp_path: Path) -> None:
        done = run("--home", tmp_path / "empty", "list")
        assert (done.code, "slash-mcp add NAME URL" in done.out) == (0, True)
        assert not (tmp_path / "empty").exists()

    @pytest.mark.service
    def test_a_reader_that_leaves_early_is_no_error(self, tmp_path: Path) -> None:
        home = write_home(tmp_path, {f"server-{n}": {"command": "x" * 60} for n in range(600)})
        with process("--home", home, "list") as listing:
            assert listing.stdout is not None
            assert listing.stderr is not None
            listing.stdout.close()
            assert listing.wait(PATIENCE) == 0
            assert listing.stderr.read() == ""


class TestColdStart:
    HEAVY: ClassVar[set[str]] = {
        *("anyio", "asyncio", "filelock", "httpcore2", "httpx2", "jinja2", "limits", "mcp", "prompt_toolkit"),
        *("pydantic", "qrcode", "ruamel", "socket", "ssl", "starlette", "tomllib", "urllib.request", "uvicorn"),
    }

    @pytest.fixture
    def home(self, run: Run, home: Path) -> Path:
        """One of each kind: signed in, lacking a key, a command."""
        config = yaml.safe_load((home / "config.yaml").read_text())
        config["mcp_servers"] |= {
            "my-api": {"url": "https://api.example.com/mcp", "headers": {"Authorization": "Bearer ${MY_KEY}"}},
            "local": {"command": "npx", "args": ["-y", "thing"]},
        }
        (home / "config.yaml").write_text(yaml.safe_dump(config))
        (home / ".env").write_text("OTHER=value\n")
        (event,) = run("--home", home, "auth", "notes", "--no-wait", "--json").events
        assert run("--home", home, "paste", authorize(event["url"])).code == 0
        return home

    @pytest.mark.parametrize("arguments", [[], ["list"], ["list", "notes"], ["list", "--json"]], ids=" ".join)
    def test_listing_imports_nothing_heavy(self, home: Path, arguments: list[str]) -> None:
        loaded = self.loaded(home, arguments)
        assert not loaded & self.HEAVY

    def test_the_table_needs_nothing_that_takes_its_time(self, home: Path) -> None:
        # Reading a `.env` is python-dotenv's work, which loads some of it.
        (home / ".env").unlink()
        assert not self.loaded(home, ["list"]) & {"dataclasses", "inspect", "logging", "shutil"}

    def loaded(self, home: Path, arguments: list[str]) -> set[str]:
        """The modules that the program loads for one command, as Python itself counts them."""
        program = "from mcp_auth.start import main; main()"
        command = [sys.executable, "-X", "importtime", "-c", program, "--home", home, *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert "signed" in done.stdout
        names = {
            line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")
        }
        assert "adapters.terminal.screen" in names
        return names

    @pytest.mark.service
    def test_listing_takes_less_than_180_ms_of_the_processor(self, home: Path) -> None:
        bare, listing = [], []
        for _ in range(15):
            bare.append(processor_seconds(sys.executable, "-c", "import yaml"))
            listing.append(processor_seconds(*COMMAND, "--home", home, "list"))
        # Where Python itself takes longer to start than on a usual machine (25 ms), so may the listing.
        allowed = 0.18 * max(1.0, statistics.median(bare) / 0.025)
        assert statistics.median(listing) < allowed, (bare, listing)


class TestAuth:
    def test_no_wait_prints_the_link_and_the_sign_in_stays_open(self, run: Run, home: Path) -> None:
        # When a link is asked for without waiting
        done = run("--home", home, "auth", "notes", "--no-wait", "--json")

        # Then it is the only output, and says how to finish
        (event,) = done.events
        assert done.code == 0
        assert set(event) == {"event", "server", "url", "expires_at"}
        assert (event["event"], event["server"]) == ("authorization_url", "notes")
        assert event["expires_at"] > time.time()
        assert "slash-mcp paste" in done.err
        assert state(run, home, "notes") == "sign_in_open"

        # And another process finishes it, with the address from standard input
        redirect = authorize(event["url"])
        pasted = run("--home", home, "paste", "-", stdin=f"{redirect}\n")
        assert (pasted.code, pasted.err) == (0, "")
        assert pasted.out.endswith(" 3 tools.\n")
        assert state(run, home, "notes") == "signed_in"

        # And it is finished once
        again = run("--home", home, "paste", redirect)
        assert (again.code, again.out) == (1, "")
        assert "Next: slash-mcp" in again.err
        assert not secrets_of(redirect) & set(again.err.split())

    def test_the_link_stands_alone_on_its_line(self, run: Run, home: Path) -> None:
        done = run("--home", home, "auth", "notes", "--no-wait")
        (link,) = (line for line in done.out.splitlines() if "://" in line)
        assert authorize(link).startswith("http://127.0.0.1:")

    @pytest.mark.service
    def test_waiting_ends_when_the_browser_comes_back(self, home: Path) -> None:
        with process("--home", home, "auth", "--json", "--no-browser") as waiting:
            assert waiting.stdout is not None
            begun = json.loads(waiting.stdout.readline())
            assert "signed in" in visit(authorize(begun["url"])).text
            ended = json.loads(waiting.stdout.readline())
            assert set(ended) == {"event", "server", "account", "expires_at"}
            assert (ended["event"], ended["server"]) == ("signed_in", "notes")
            # Its standard input is still open.
            assert waiting.wait(PATIENCE) == 0

    @pytest.mark.service
    def test_an_address_can_be_pasted_while_it_waits(self, home: Path) -> None:
        with process("--home", home, "auth", "notes", "--no-browser") as waiting:
            assert waiting.stdin is not None
            assert waiting.stdout is not None
            assert waiting.stderr is not None
            link = next(line for line in waiting.stdout if "://" in line).strip()
            waiting.stdin.write("that is no address\n")
            waiting.stdin.flush()
            assert waiting.stderr.readline().startswith("slash-mcp: ")
            waiting.stdin.write(f"{authorize(link)}\n")
            waiting.stdin.flush()
            assert waiting.wait(PATIENCE) == 0
            assert "notes: signed in, 3 tools" in waiting.stdout.read()

    @pytest.mark.service
    async def test_the_code_of_our_own_page_can_be_typed_while_it_waits(
        self, tmp_path: Path, oauth: OAuthServer
    ) -> None:
        """A client registered by hand has the public redirect URI only, and its page asks the operator, too."""
        port = free_port()
        servers = {"notes": {"url": oauth.url, "auth": "oauth", "oauth": {"client_id": "by-hand"}}}
        public = {"public_url": f"http://127.0.0.1:{port}", "callback": {"port": port}}
        home = write_home(tmp_path, servers, public)
        with process("--home", home, "auth", "notes", "--no-browser") as waiting:
            assert waiting.stdin is not None
            assert waiting.stdout is not None
            link = (await asyncio.to_thread(_next_link, waiting.stdout)).strip()
            assert "/a/" in link
            async with Browser() as browser:
                page = await browser.press(await browser.open(link))
                waiting.stdin.write(f"{page.code.lower()}\n")
                waiting.stdin.flush()
                page = await browser.released(page)
                done = await browser.open(await browser.authorize(page))
            assert done.heading == "notes is connected"
            assert await asyncio.to_thread(waiting.wait, PATIENCE) == 0
            assert "notes: signed in, 3 tools" in waiting.stdout.read()

    @pytest.mark.service
    def test_ctrl_c_leaves_quietly_and_the_sign_in_stays_open(self, run: Run, home: Path) -> None:
        with process("--home", home, "auth", "notes", "--json", "--no-browser") as waiting:
            assert waiting.stdout is not None
            assert waiting.stderr is not None
            waiting.stdout.readline()
            waiting.send_signal(signal.SIGINT)
            assert waiting.wait(PATIENCE) == 130
            assert waiting.stderr.read().strip() == "interrupted"
        assert state(run, home, "notes") == "sign_in_open"

    def test_a_failure_says_of_which_server_it_is(self, run: Run, tmp_path: Path) -> None:
        url = f"http://127.0.0.1:{free_port()}/mcp"
        home = write_home(tmp_path / "away", {name: {"url": url, "auth": "oauth"} for name in ("notes", "mail")})
        why = "127.0.0.1 cannot be reached (connection refused)."
        lines = run("--home", home, "auth", "--no-wait").err.splitlines()
        assert sorted(line.partition(" Next: ")[0] for line in lines) == [
            f"slash-mcp: mail: {why}",
            f"slash-mcp: notes: {why}",
        ]
        (failed,) = run("--home", home, "auth", "notes", "--no-wait", "--json").events
        assert (failed["server"], failed["reason"]) == ("notes", why)

    def test_a_timeout_is_a_failure_that_says_how_to_go_on(self, run: Run, home: Path) -> None:
        done = run("--home", home, "auth", "notes", "--json", "--timeout", "0")
        begun, failed = done.events
        assert done.code == 1
        assert begun["event"] == "authorization_url"
        assert set(failed) == {"event", "server", "reason", "next"}
        assert (failed["event"], failed["next"]) == ("failed", "slash-mcp paste URL")

    @pytest.mark.service
    def test_what_was_denied_is_a_failure(self, home: Path, oauth: OAuthServer) -> None:
        oauth.knobs.authorize_error = {"error": "access_denied"}
        with process("--home", home, "auth", "notes", "--json", "--no-browser") as waiting:
            assert waiting.stdout is not None
            visit(authorize(json.loads(waiting.stdout.readline())["url"]))
            failed = json.loads(waiting.stdout.readline())
            assert (failed["event"], failed["next"]) == ("failed", "slash-mcp auth notes")
            assert waiting.wait(PATIENCE) == 1

    def test_one_failure_leaves_the_others_alone(self, run: Run, tmp_path: Path, oauth: OAuthServer) -> None:
        servers = {
            "notes": {"url": oauth.url, "auth": "oauth"},
            "dead": {"url": f"http://127.0.0.1:{free_port()}/mcp", "auth": "oauth"},
            "weather": {"url": oauth.url, "headers": {"Authorization": "Bearer ${WEATHER_KEY}"}},
        }
        done = run("--home", write_home(tmp_path, servers), "auth", "--no-wait", "--json")
        events = {event["server"]: event for event in done.events}
        assert done.code == 1
        assert events["notes"]["event"] == "authorization_url"
        assert events["weather"] == {"event": "key_needed", "server": "weather", "variables": ["WEATHER_KEY"]}
        assert (events["dead"]["event"], set(events["dead"])) == ("failed", {"event", "server", "reason", "next"})

    def test_what_cannot_be_asked_is_not_called_signed_in(self, run: Run, tmp_path: Path) -> None:
        # Given a server of which nobody knows yet whether it wants a sign-in, and which does not answer
        home = write_home(tmp_path, {"open": {"url": f"http://127.0.0.1:{free_port()}/mcp"}})
        done = run("--home", home, "auth")
        assert (done.code, done.out) == (1, "")
        assert "open could not be asked" in done.err and "Next: slash-mcp test open" in done.err

    def test_what_was_not_asked_is_a_failure_too(
        self, run: Run, tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mcp_auth.probes.PROBES", 1)
        oauth.knobs.mcp_gate = threading.Event()
        home = write_home(tmp_path, {name: {"url": f"{oauth.url}?{name}"} for name in ("slow", "late")})
        done = run("--home", home, "auth", "--timeout", "0.1")
        oauth.knobs.mcp_gate.set()
        assert done.code == 1
        for name in ("slow", "late"):
            assert f"{name} could not be asked" in done.err

    def test_without_servers_there_is_nobody_to_sign_in_to(self, run: Run, tmp_path: Path) -> None:
        done = run("--home", tmp_path / "empty", "auth")
        assert (done.code, done.out) == (0, "No MCP servers are configured. Next: slash-mcp add NAME URL\n")

    def test_nothing_to_do_is_said_and_is_no_failure(self, run: Run, tmp_path: Path) -> None:
        home = write_home(tmp_path, {"local": {"command": "true"}})
        done = run("--home", home, "auth")
        assert done.code == 0
        assert "No server is known to lack" in done.out
        assert run("--home", home, "auth", "--json").out == ""

    def test_cancel_ends_what_is_open(self, run: Run, home: Path) -> None:
        run("--home", home, "auth", "notes", "--no-wait")
        assert run("--home", home, "cancel").out == "Cancelled: notes.\n"
        assert run("--home", home, "cancel", "notes").out == "No sign-in is open.\n"
        assert state(run, home, "notes") == "sign_in_needed"


class TestSignedIn:
    @pytest.fixture(autouse=True)
    def signed_in(self, run: Run, home: Path) -> None:
        (event,) = run("--home", home, "auth", "notes", "--no-wait", "--json").events
        assert run("--home", home, "paste", authorize(event["url"])).code == 0

    def test_test_lists_the_tools(self, run: Run, home: Path) -> None:
        done = run("--home", home, "test", "notes", "--json")
        (answer,) = done.events
        assert done.code == 0
        assert set(answer) == {"server", "state", "tools", "ms", "detail"}
        assert (answer["state"], answer["tools"]) == ("ready", ["add", "search", "read_file"])
        assert run("--home", home, "test", "notes").out.splitlines()[1:] == ["  add", "  search", "  read_file"]

    def test_a_tool_cannot_write_commands_to_the_terminal(self, run: Run, home: Path, oauth: OAuthServer) -> None:
        oauth.knobs.tools = ("evil\x1b]0;owned\x07\ntool",)
        done = run("--home", home, "test", "notes")
        assert done.out.splitlines()[1:] == ["  evil]0;owned tool"]

    def test_what_does_not_work_fails_and_says_why(self, run: Run, home: Path, oauth: OAuthServer) -> None:
        oauth.access.clear()
        oauth.refresh.clear()
        done = run("--home", home, "test", "notes", "--json")
        assert done.code == 1
        assert done.events[0]["state"] == "refused"
        assert run("--home", home, "test", "notes").err.startswith("slash-mcp: notes: refused (")

    def test_logout_revokes_and_deletes(self, run: Run, home: Path, oauth: OAuthServer) -> None:
        done = run("--home", home, "logout", "NOTES")
        assert done.code == 0
        assert "revoked at the authorization server" in done.out
        assert oauth.access == {}
        assert state(run, home, "notes") == "sign_in_needed"

    def test_logout_wants_the_whole_name(self, run: Run, home: Path, oauth: OAuthServer) -> None:
        done = run("--home", home, "logout", "not")
        assert done.code == 1
        assert "Did you mean notes?" in done.err
        assert oauth.access


class TestKey:
    def test_one_that_works_is_stored(self, run: Run, key_home: Path) -> None:
        done = run("--home", key_home, "key", "weather", "--stdin", stdin="  right-key-of-weather\n")
        assert (done.code, done.err) == (0, "")
        assert done.out.endswith("Stored: WEATHER_KEY.\n")
        assert "right-key" not in done.out
        assert "right-key-of-weather" in (key_home / ".env").read_text()
        assert state(run, key_home, "weather") == "key_set"

    def test_one_that_is_refused_is_not_stored(self, run: Run, key_home: Path) -> None:
        done = run("--home", key_home, "key", "weather", "--stdin", stdin="wrong-key-of-weather\n")
        assert (done.code, done.out) == (1, "")
        assert "Nothing was stored. Next: slash-mcp key weather" in done.err
        assert "wrong-key" not in done.err
        assert not (key_home / ".env").exists()

    def test_one_that_makes_no_difference_is_stored_and_said_to_be_unverified(
        self, run: Run, key_home: Path, oauth: OAuthServer
    ) -> None:
        oauth.knobs.api_key = None
        oauth.knobs.protected = False
        done = run("--home", key_home, "key", "weather", "--stdin", stdin="whatever-it-may-be\n")
        assert done.code == 0
        assert "not verified: WEATHER_KEY" in done.out

    def test_one_that_cannot_be_tried_is_stored_on_the_persons_word_only(self, run: Run, tmp_path: Path) -> None:
        url = f"http://127.0.0.1:{free_port()}/mcp"
        home = write_home(tmp_path, {"gone": {"url": url, "headers": {"X-Key": "${GONE_KEY}"}}})
        done = run("--home", home, "key", "gone", "--stdin", stdin="some-secret-key\n")
        assert done.code == 1
        assert "--store-anyway" in done.err
        assert not (home / ".env").exists()

        done = run("--home", home, "key", "gone", "--stdin", "--store-anyway", stdin="some-secret-key\n")
        assert done.code == 0
        assert state(run, home, "gone") == "key_set"

    def test_nothing_entered_stores_nothing(self, run: Run, key_home: Path) -> None:
        assert run("--home", key_home, "key", "weather", "--stdin", stdin="\n").code == 1
        assert not (key_home / ".env").exists()

    def test_a_variable_that_the_server_has_not_is_a_wrong_usage(self, run: Run, key_home: Path) -> None:
        done = run("--home", key_home, "key", "weather", "--variable", "OTHER", "--stdin", stdin="x\n")
        assert (done.code, "only WEATHER_KEY" in done.err) == (2, True)


class TestConfiguration:
    def test_init_writes_a_configuration_that_loads_and_is_left_alone_then(self, run: Run, tmp_path: Path) -> None:
        home = tmp_path / "new"
        assert run("--home", home, "init").code == 0
        written = (home / "config.yaml").read_text()
        assert written.count("#") > 5
        assert (home.stat().st_mode & 0o777, (home / "config.yaml").stat().st_mode & 0o777) == (0o700, 0o600)
        assert run("--home", home, "list").code == 0
        again = run("--home", home, "init")
        assert again.code == 1
        assert (home / "config.yaml").read_text() == written

    def test_add_looks_first_and_keeps_the_comments(self, run: Run, tmp_path: Path, oauth: OAuthServer) -> None:
        home = tmp_path / "new"
        run("--home", home, "init")
        before = (home / "config.yaml").read_text()
        done = run("--home", home, "add", "notes", oauth.url)
        assert done.code == 0
        assert "Next: slash-mcp auth notes" in done.out
        after = (home / "config.yaml").read_text()
        assert yaml.safe_load(after)["mcp_servers"] == {"notes": {"url": oauth.url, "auth": "oauth"}}
        assert comments(after) == comments(before)

    def test_add_sees_a_server_that_asks_for_nothing(self, run: Run, tmp_path: Path, oauth: OAuthServer) -> None:
        oauth.knobs.protected = False
        oauth.knobs.prm_path = None
        home = write_home(tmp_path, {"old": {"command": "true"}})
        assert "Next: slash-mcp test open" in run("--home", home, "add", "open", oauth.url).out
        servers = yaml.safe_load((home / "config.yaml").read_text())["mcp_servers"]
        assert servers == {"old": {"command": "true"}, "open": {"url": oauth.url}}

    def test_add_sees_a_server_that_wants_a_key(self, run: Run, key_home: Path, oauth: OAuthServer) -> None:
        oauth.knobs.prm_path = None
        oauth.knobs.well_known = "none"
        done = run("--home", key_home, "add", "My Weather", oauth.url)
        assert (done.code, done.err) == (0, "")
        assert 'headers: {Authorization: "Bearer ${MCP_MY_WEATHER_API_KEY}"}' in done.out
        assert done.out.endswith("slash-mcp key 'My Weather'\n")

    def test_a_name_with_a_space_is_quoted_for_the_shell(self, run: Run, tmp_path: Path) -> None:
        home = write_home(tmp_path, {"My Notes": {"url": "https://notes.example.com/mcp", "auth": "oauth"}})
        (document,) = run("--home", home, "list", "--json").events
        assert document["servers"][0]["auth"]["next"] == "slash-mcp auth 'My Notes'"
        assert "Next        slash-mcp auth 'My Notes'\n" in run("--home", home, "list", "my notes").out

    @pytest.mark.parametrize(
        ("name", "url", "code", "word"),
        [
            ("NOTES", "https://other.example.com/mcp", 1, "already"),
            ("plain", "http://example.com/mcp", 2, "https"),
            ("gone", "http://127.0.0.1:{free_port}/mcp", 1, "reached"),
            ("my notes", "http://127.0.0.1:{free_port}/mcp", 1, "slash-mcp add 'my notes' URL"),
            ("", "https://other.example.com/mcp", 2, "name"),
            ("a\x1b[31m", "https://other.example.com/mcp", 2, "name"),
            ("plain", "notes", 2, "https://"),
            ("plain", "other.example.com:443/mcp", 2, "https://"),
        ],
    )
    def test_add_refuses_and_changes_nothing(
        self, run: Run, home: Path, name: str, url: str, code: int, word: str
    ) -> None:
        before = (home / "config.yaml").read_bytes()
        done = run("--home", home, "add", name, url.format(free_port=free_port()))
        assert (done.code, done.out) == (code, "")
        assert word in done.err
        assert (home / "config.yaml").read_bytes() == before

    def test_doctor_passes_a_good_home(self, run: Run, home: Path) -> None:
        done = run("--home", home, "doctor")
        assert done.code == 0
        assert "✓ notes answers" in done.out
        assert "✗" not in done.out

    def test_doctor_names_the_places_of_literal_secrets_and_never_the_secrets(self, run: Run, tmp_path: Path) -> None:
        secret = "sk-live-4f9d2a7b8c1e6035"
        servers = {
            "headers": {
                "url": f"http://127.0.0.1:{free_port()}/mcp",
                "headers": {"Authorization": f"Bearer {secret}1"},
            },
            "query": {"url": f"http://127.0.0.1:{free_port()}/mcp?api_key={secret}2"},
            "oauth": {
                "url": f"http://127.0.0.1:{free_port()}/mcp",
                "auth": "oauth",
                "oauth": {"client_id": "ours", "client_secret": f"{secret}3"},
            },
            "stdio": {"command": "true", "args": ["--api-key", f"{secret}4"], "env": {"API_TOKEN": f"{secret}5"}},
        }
        home = write_home(tmp_path, servers, {"telegram": {"token": f"123456:{secret}6"}})
        for arguments in (["doctor"], ["list"], ["list", "headers"], ["list", "stdio"], ["list", "--json"]):
            done = run("--home", home, *arguments)
            assert secret not in done.out + done.err, arguments
        said = run("--home", home, "doctor").out
        places = re.findall(r"! the configuration holds a secret: (\S+)(?: of (\S+))?\. Next: write \$\{NAME\}", said)
        assert places == [
            ("headers.Authorization", "headers"),
            ("oauth.client_secret", "oauth"),
            ("url", "query"),
            ("args[1]", "stdio"),
            ("env.API_TOKEN", "stdio"),
            ("gateway.telegram.token", ""),
        ]

    def test_json_of_test_holds_nothing_that_a_terminal_acts_on(
        self, run: Run, tmp_path: Path, oauth: OAuthServer
    ) -> None:
        """C1 controls begin sequences as ESC does, and bidirectional characters turn what is read around."""
        oauth.knobs.protected, oauth.knobs.prm_path = False, None
        oauth.knobs.tools = ("a\x9b31mred", "b\x1b]0;title\x07", "c\u202etxt.exe", "d\u2066x\u2069", "e\x85", "f\u2028")
        home = write_home(tmp_path, {"notes": {"url": oauth.url}})

        for arguments in (["test", "notes", "--json"], ["list", "--probe", "--json"], ["test", "notes"]):
            done = run("--home", home, *arguments)
            assert done.code == 0
            assert all(c.isprintable() or c == "\n" for c in done.out), arguments

        # And for programs they are what they were
        (told,) = run("--home", home, "test", "notes", "--json").events
        assert tuple(told["tools"]) == oauth.knobs.tools

    def test_doctor_fails_and_says_what_to_do(self, run: Run, tmp_path: Path) -> None:
        servers = {"gone": {"url": f"http://127.0.0.1:{free_port()}/mcp"}, "broken": {"url": 7}}
        home = write_home(tmp_path, servers)
        (home / ".env").write_text("A=b\n")
        (home / ".env").chmod(0o644)
        home.chmod(0o777)
        done = run("--home", home, "doctor")
        assert done.code == 1
        assert f"! {home}/.env can be read by others. Next: chmod 600" in done.out
        assert f"✗ {home} can be written by others. Next: chmod 700" in done.out
        assert "✗ gone: " in done.out
        assert "✗ broken: " in done.out

    def test_doctor_and_serve_say_that_a_home_cannot_be_written(
        self, run: Run, tmp_path: Path, oauth: OAuthServer
    ) -> None:
        # Given a busy port, whose lock file cannot be had
        home = write_home(tmp_path, {}, {"callback": {"port": oauth.port}})
        (home / f"callback-{oauth.port}.lock").mkdir()
        assert "Next: set gateway.callback.port" in run("--home", home, "doctor").out
        served = run("--home", home, "serve")
        assert (served.code, served.err.count("\n")) == (1, 1)
        assert f"callback-{oauth.port}.lock cannot be locked" in served.err

    def test_doctor_sees_a_full_disk(self, run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # A disk of its own cannot be had here, so what the system says of one is replaced.
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
        done = run("--home", home, "doctor")
        assert (done.code, f"✗ the disk of {home} is full. Next: make room" in done.out) == (1, True)

    def test_doctor_sees_a_busy_callback_port(self, run: Run, tmp_path: Path, oauth: OAuthServer) -> None:
        home = write_home(tmp_path, {}, {"callback": {"port": oauth.port}})
        assert "Next: set gateway.callback.port" in run("--home", home, "doctor").out

    def test_doctor_sees_whether_the_public_address_leads_to_the_pages(
        self, run: Run, tmp_path: Path, oauth: OAuthServer
    ) -> None:
        bound = loopback_socket()
        served = f"http://127.0.0.1:{bound.getsockname()[1]}/mcp"
        home = write_home(tmp_path, {}, {"public_url": served})
        with serving(McpAuth.open(home=home).asgi_app(), bound):
            said = run("--home", home, "doctor").out
            assert f"✓ {served} leads to the pages of slash-mcp" in said
            # Below a path it shares its origin with whatever else answers there.
            assert f"! {served} shares 127.0.0.1:{bound.getsockname()[1]} with other pages" in said
            assert "give the endpoint a host name of its own" in said

        gone = run("--home", home, "doctor").out
        assert f"! {served} does not lead to slash-mcp: 127.0.0.1 cannot be reached" in gone
        assert "Next: run slash-mcp serve" in gone
        foreign = write_home(tmp_path / "foreign", {}, {"public_url": oauth.origin})
        said = run("--home", foreign, "doctor").out
        assert "it answers HTTP 404, and not with our pages" in said
        assert "a host name of its own" not in said

    async def test_doctor_says_that_a_name_of_people_was_given_to_somebody_else(
        self, run: Run, tmp_path: Path, oauth: OAuthServer
    ) -> None:
        servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
        options = {"identity": "per_user", "allow": ["telegram:1", "telegram:2"], "people": {"ann": ["telegram:1"]}}
        home = write_home(tmp_path, servers, options)
        operator = ConfigPolicy(GatewayOptions(), operators={"cli:local"})
        async with McpAuth.open(home=home, policy=operator) as auth:
            await signed_in(auth, owner="person:ann")
        assert "was made by" not in (await asyncio.to_thread(run, "--home", home, "doctor")).out
        write_home(tmp_path, servers, {**options, "people": {"ann": ["telegram:2"]}})

        said = (await asyncio.to_thread(run, "--home", home, "--as", "ann", "doctor")).out

        assert "! notes: what is stored for ann was made by telegram:1, and none of these is ann" in said
        assert "reauthorization needed" in said


class TestExitCodes:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["nonsense"],
            ["auth", "--timeout", "soon"],
            ["auth", "--timeout", "-1"],
            ["key"],
            ["add", "name"],
            ["serve", "--port", "65536"],
            ["serve", "--port", "-1"],
        ],
    )
    def test_wrong_usage_is_2(self, run: Run, arguments: list[str]) -> None:
        done = run(*arguments)
        assert (done.code, done.out) == (2, "")
        assert "usage: slash-mcp" in done.err
        assert re.search(r"\. Next: slash-mcp( \w+)? --help\n$", done.err)

    def test_help_is_a_command_as_in_every_chat(self, run: Run) -> None:
        assert run("help") == run("--help")

    @pytest.mark.parametrize("command", ["init", "list", "doctor", "cancel"])
    def test_a_home_that_cannot_be_is_one_sentence(self, run: Run, command: str) -> None:
        done = run("--home", f"/tmp/{'x' * 300}", command)
        said = done.out + done.err
        assert done.code in (1, 2)
        assert "File name too long" in said and "Next: " in said
        assert "Traceback" not in said

    @pytest.mark.parametrize("text", ["mcp_servers: [", "gateway: {allow: 7}", "mcp_servers:\n\t- a"])
    def test_a_wrong_configuration_is_2_and_one_sentence(self, run: Run, tmp_path: Path, text: str) -> None:
        (tmp_path / "config.yaml").write_text(text)
        for command in ("list", "auth", "chat", "test x", "cancel"):
            done = run("--home", tmp_path, *command.split())
            assert (done.code, done.out) == (2, "")
            assert done.err.startswith("slash-mcp: ")
            assert "Traceback" not in done.err
            assert "config.yaml" in done.err

    def test_a_missing_configuration_that_was_named_is_2(self, run: Run, tmp_path: Path) -> None:
        assert run("--config", tmp_path / "none.yaml", "list").code == 2

    def test_the_options_for_all_commands_may_stand_behind_one(self, run: Run, tmp_path: Path) -> None:
        home = write_home(tmp_path, {"local": {"command": "true"}})
        behind = run("list", "local", "--home", home, "--config", home / "config.yaml", "--as", "nobody")
        assert "nobody of this name" in behind.err
        assert run("list", "local", "--home", home).out == run("--home", home, "list", "local").out

    @pytest.mark.service
    @pytest.mark.parametrize(
        ("command", "closed"),
        [("paste", "<&-"), ("key weather", "<&-"), ("chat", "<&-"), ("auth --timeout 0", "<&-"), ("list", ">&- 2>&-")],
    )
    def test_closed_streams_end_no_command_in_a_traceback(self, key_home: Path, command: str, closed: str) -> None:
        line = f'exec "$0" -m adapters.cli.cli --home "$1" {command} {closed}'
        done = subprocess.run(
            ["sh", "-c", line, sys.executable, str(key_home)], cwd=ROOT, capture_output=True, timeout=PATIENCE
        )
        assert done.returncode in (0, 1)
        assert b"Traceback" not in done.stdout + done.stderr

    @pytest.mark.service
    @pytest.mark.parametrize("command", ["list", "help"])
    def test_output_that_cannot_be_written_is_a_failure_of_one_sentence(self, key_home: Path, command: str) -> None:
        # As it is for most people: output is gathered, and the disk is found full when it is written out.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        with Path("/dev/full").open("w") as full:
            arguments = [*COMMAND, "--home", str(key_home), command]
            done = subprocess.run(
                arguments, cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 1
        assert (
            done.stderr == "slash-mcp: The output cannot be written (No space left on device). Next: slash-mcp doctor\n"
        )

    @pytest.mark.service
    def test_a_terminal_without_unicode_gets_what_it_can_show(self, key_home: Path) -> None:
        command = [*COMMAND, "--home", str(key_home), "list"]
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "? key missing: WEATHER_KEY" in done.stdout

    def test_the_version_is_told(self, run: Run) -> None:
        done = run("--version")
        assert (done.code, done.out) == (0, f"slash-mcp {version('slash-mcp')}\n")

    def test_an_error_goes_to_standard_error_with_shell_commands_and_whole_addresses(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        complain(McpAuthError("https://a.example/mcp answers", next_step=Next("auth", "my notes")))
        said = "slash-mcp: https://a.example/mcp answers. Next: slash-mcp auth 'my notes'\n"
        assert capsys.readouterr() == ("", said)


@pytest.mark.service
class TestServe:
    def test_it_receives_what_another_process_began(self, run: Run, home: Path) -> None:
        # Given a link that was handed out without waiting
        (event,) = run("--home", home, "auth", "notes", "--no-wait", "--json").events

        # When the endpoint runs by itself
        with process("--home", home, "serve", env={**os.environ, "PYTHONUNBUFFERED": "1"}) as serving:
            page = visit_when_there(authorize(event["url"]))
            assert "signed in" in page
            serving.send_signal(signal.SIGINT)
            assert serving.wait(PATIENCE) in (0, 130)

        # Then the grant is there
        assert state(run, home, "notes") == "signed_in"


def state(run: Run, home: Path, name: str) -> str:
    (document,) = run("--home", home, "list", name, "--json").events
    found: str = document["servers"][0]["auth"]["state"]
    return found


def secrets_of(redirect: str) -> set[str]:
    return {part.partition("=")[2] for part in redirect.partition("?")[2].split("&")}


def comments(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip().startswith("#")]


def visit_when_there(address: str) -> str:
    import httpx2

    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while True:
        try:
            return visit(address).text
        except httpx2.ConnectError:
            assert time.monotonic() < deadline, "nothing listened"
            pause.wait(0.1)


def processor_seconds(*command: str | Path) -> float:
    """What one process takes of the processor; unlike the time of day, it does not depend on what else runs."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.service
class TestAtATerminal:
    @contextmanager
    def typed(self, *arguments: str | Path, rows: int = 60, **env: str) -> Iterator[pexpect.spawn[bytes]]:
        # As wide as that no link is broken.
        options: dict[str, Any] = {"cwd": str(ROOT), "dimensions": (rows, 2000), "timeout": PATIENCE}
        # The size comes from the terminal, and not from whatever this process was told.
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        given = {**inherited, "TERM": "xterm", "SSH_TTY": "/dev/pts/0", **env}
        command = [*COMMAND[1:], *(str(argument) for argument in arguments)]
        started = pexpect.spawn(sys.executable, command, env=given, preexec_fn=heed_interrupts, **options)
        try:
            yield started
        finally:
            started.close(force=True)

    def test_auth_shows_link_code_and_minutes_and_takes_a_pasted_address(self, home: Path) -> None:
        with self.typed("--home", home, "auth", "notes") as typed:
            typed.expect(rb"\n(http://127\.0\.0\.1:\d+/authorize\S+)\r")
            assert isinstance(typed.match, re.Match)
            redirect = authorize(typed.match.group(1).decode())
            typed.expect_exact("\x1b[97;40m██".encode())
            typed.expect_exact("10 minutes left > ")
            typed.sendline("that is no address")
            typed.expect_exact("slash-mcp: ")
            typed.expect_exact("10 minutes left > ")
            typed.sendline(redirect)
            typed.expect_exact("notes: signed in, 3 tools")
            assert ended(typed) == 0

    def test_ctrl_c_says_how_to_go_on(self, home: Path) -> None:
        with self.typed("--home", home, "auth", "notes") as typed:
            typed.expect_exact("10 minutes left > ")
            typed.sendintr()
            typed.expect_exact("slash-mcp paste URL, or: slash-mcp cancel")
            typed.expect_exact("interrupted")
            assert ended(typed) == 130
            assert b"Traceback" not in typed.before

    def test_no_color_is_honoured_and_a_code_that_does_not_fit_is_left_out(self, home: Path) -> None:
        with self.typed("--home", home, "auth", "notes", NO_COLOR="1") as typed:
            typed.expect_exact("10 minutes left > ")
            assert b"\xe2\x96\x88" in typed.before
            assert not re.search(rb"\x1b\[[\d;]+m", typed.before)
        with self.typed("--home", home, "auth", "notes", rows=24) as typed:
            typed.expect_exact("10 minutes left > ")
            assert b"\xe2\x96\x88" not in typed.before

    def test_the_list_has_colours_and_a_probe_shows_that_it_goes_on(self, home: Path) -> None:
        with self.typed("--home", home, "list", "--probe") as typed:
            typed.expect_exact("connecting...")
            typed.expect_exact("\x1b[33m! sign-in needed")
            ended(typed)
        with self.typed("--home", home, "list", NO_COLOR="1") as typed:
            typed.expect_exact("! sign-in needed")
            assert b"\x1b" not in typed.before

    def test_paste_asks_for_the_address(self, run: Run, home: Path) -> None:
        (event,) = run("--home", home, "auth", "notes", "--no-wait", "--json").events
        with self.typed("--home", home, "paste") as typed:
            typed.expect_exact("last page: ")
            typed.sendline(authorize(event["url"]))
            typed.expect_exact("3 tools.")
            assert ended(typed) == 0

    def test_a_key_is_not_shown(self, key_home: Path) -> None:
        with self.typed("--home", key_home, "key", "weather") as typed:
            typed.expect_exact("WEATHER_KEY for weather")
            typed.waitnoecho()
            typed.sendline("right-key-of-weather")
            assert ended(typed) == 0
            assert b"Stored: WEATHER_KEY" in typed.before
            assert b"right-key" not in typed.before

    def test_ctrl_c_at_the_question_for_a_key_ends_at_once(self, key_home: Path) -> None:
        with self.typed("--home", key_home, "key", "weather") as typed:
            typed.expect_exact("WEATHER_KEY for weather")
            typed.waitnoecho()
            typed.sendintr()
            assert ended(typed) == 130
            assert b"Traceback" not in typed.before

    def test_ctrl_d_at_the_question_for_a_key_enters_nothing(self, key_home: Path) -> None:
        with self.typed("--home", key_home, "key", "weather") as typed:
            typed.expect_exact("WEATHER_KEY for weather")
            typed.waitnoecho()
            typed.sendeof()
            assert ended(typed) == 1
            assert b"nothing was stored" in typed.before and b"Traceback" not in typed.before


def ended(typed: pexpect.spawn[bytes]) -> int | None:
    typed.expect(pexpect.EOF)
    typed.wait()
    return typed.exitstatus


def _next_link(lines: IO[str]) -> str:
    return next(line for line in lines if "://" in line)
