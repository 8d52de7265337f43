"""`slash-mcp auth`: links for every server that needs one, and waiting until they are used."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import threading
import time
import webbrowser
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any

from adapters.cli.chat import read_lines
from adapters.cli.cli import FAILED, OK, complain, for_shell
from adapters.cli.listing import find_server, owner_of
from adapters.terminal.qr import qr_code
from adapters.terminal.screen import Progress, as_json_text, is_colored, say
from adapters.text import clean, link_text
from gateway.invocations import LOCAL
from gateway.sentences import auth_state, link_ready, minutes, no_refresh_token, refused_after_sign_in, tools
from gateway.surfaces import in_chat, in_shell, with_next
from mcp_auth.config.load import load
from mcp_auth.core import PROBE_TIMEOUT, TEST_TIMEOUT, McpAuth
from mcp_auth.errors import McpAuthError, sentence
from mcp_auth.links.logins import Logins
from mcp_auth.links.tickets import typed_code
from mcp_auth.net.names import run
from mcp_auth.oauth.sign_in import StartedSignIn
from mcp_auth.outcome import Next, Outcome, Step
from mcp_auth.records import Origin
from mcp_auth.states import OPEN
from mcp_auth.status import AuthState, ConnectionState, needs_a_look, wants_sign_in

# Seconds.
_MOMENT = 1.0


def run_auth(options: Namespace) -> int:
    """Print a link for every server that needs one, and wait until each was used, or failed."""
    return run(_auth(options))


async def _auth(options: Namespace) -> int:
    config = load(options.config, options.home)
    names = [find_server(config, name) for name in options.servers]
    async with McpAuth.open(config, logins=Logins(config.gateway, in_chat)) as auth:
        run = _Run(auth, options)
        return await run.all(names)


@dataclass
class _Run:
    """One run of the command: what was begun, and whether anything failed."""

    auth: McpAuth
    options: Namespace
    failed: bool = False
    started: dict[str, StartedSignIn] = field(default_factory=dict)
    progress: Progress = field(default_factory=lambda: Progress("preparing the links..."))
    begun_at: float = field(default_factory=time.monotonic)

    async def all(self, names: list[str]) -> int:
        if not self.auth.config.servers:
            self._say("No MCP servers are configured. Next: slash-mcp add NAME URL")
            return OK
        wanted = names or await self._needed()
        if not wanted:
            if not self.failed:
                self._say("No server is known to lack a sign-in or a key. Next: slash-mcp list --probe")
            return FAILED if self.failed else OK
        with self.progress:
            await asyncio.gather(*(self._begin(name) for name in dict.fromkeys(wanted)))
        if self.started and not self.options.no_wait:
            await self._wait()
        return FAILED if self.failed else OK

    async def _needed(self) -> list[str]:
        """The servers that lack a sign-in or a key; what nobody looked at yet is looked at now."""
        config = self.auth.config
        unknown = [
            server.name
            for server in config.servers.values()
            if server.url is not None and needs_a_look(server, await self.auth.store.connections.get(server.url))
        ]
        limit = PROBE_TIMEOUT if self._bound() is None else min(PROBE_TIMEOUT, self._bound() or 0.0)
        found = await asyncio.gather(*(self.auth.probe(name, self._owner(name), timeout=limit) for name in unknown))
        for name, connection in zip(unknown, found, strict=True):
            url = config.servers[name].url or ""
            # What was not asked, for want of file descriptors or of its turn, is as little known as before.
            is_unknown = needs_a_look(config.servers[name], await self.auth.store.connections.get(url))
            if connection.state is ConnectionState.UNREACHABLE or (connection.detail is not None and is_unknown):
                self._fail(name, sentence(f"{name} could not be asked: {connection.detail}"), Next("test", name))
        statuses = await self.auth.statuses(self._owner)
        for one in statuses:
            if one.not_renewable and not wants_sign_in(one):
                # A new sign-in would not help; and yet not all is well.
                self._fail(one.name, f"{one.name}: {auth_state(one, time.time())}.", one.next)
        return [one.name for one in statuses if wants_sign_in(one) or one.auth is AuthState.KEY_MISSING]

    def _owner(self, name: str) -> str:
        return owner_of(self.auth.config, name, self.options)

    # -- beginning ---------------------------------------------------------------------------

    async def _begin(self, name: str) -> None:
        owner = self._owner(name)
        try:
            status = await self.auth.status(name, owner)
            if status.auth is AuthState.KEY_MISSING:
                self._event(
                    {"event": "key_needed", "server": name, "variables": list(status.variables)},
                    f"{name}: needs a key: {', '.join(status.variables)}. Next: slash-mcp key {name}",
                )
                return
            async with asyncio.timeout(self._bound()):
                started = await self.auth.sign_in(
                    name, owner, Origin(principal=str(LOCAL)), fresh=self.options.fresh, listen=not self.options.no_wait
                )
        except TimeoutError:
            self._fail(name, f"{name} gave no link within {self.options.timeout:g} seconds.", Next("auth", name))
            return
        except McpAuthError as error:
            self._fail(name, error.text, error.next_step)
            return
        self.started[name] = started
        self._show_link(name, started)

    def _show_link(self, name: str, started: StartedSignIn) -> None:
        ready = link_ready(started.expires_at, time.time(), started.host, started.issued_elsewhere)
        text = f"{name}: {ready}\n{link_text(started.link)}"
        if sys.stdout.isatty() and not self.options.json:
            text = f"{text}\n{qr_code(started.link, color=is_colored(sys.stdout))}".rstrip()
        self._event(
            {
                "event": "authorization_url",
                "server": name,
                "url": started.link,
                "expires_at": started.expires_at,
            },
            text,
        )
        if started.needs_proof and self.options.no_wait:
            with self.progress.aside():
                say(f"slash-mcp: {name}: the page shows a code. Next: slash-mcp paste CODE", sys.stderr)
        if not started.listening:
            with self.progress.aside():
                say(
                    f"slash-mcp: {name}: nothing on this machine waits for the answer. When the browser's last page "
                    "does not load, copy its address. Next: slash-mcp paste URL",
                    sys.stderr,
                )
        if not self.options.no_browser and not self.options.no_wait and _has_browser():
            # What $BROWSER names may stay in the foreground for as long as it likes.
            threading.Thread(target=webbrowser.open, args=(started.link,), daemon=True, name="browser").start()

    # -- waiting -----------------------------------------------------------------------------

    async def _wait(self) -> None:
        if any(started.needs_proof for started in self.started.values()):
            self._say("Waiting. When a page shows a code, type it here; when the last page does not load, its address.")
        else:
            self._say("Waiting. When the browser's last page does not load, paste its address here.")
        beside = [asyncio.create_task(self._take_pastes()), asyncio.create_task(self._show_time_left())]
        try:
            with self.progress:
                await asyncio.gather(*(self._wait_for(name, started) for name, started in self.started.items()))
        except asyncio.CancelledError:
            if not self.options.json:
                left = "The links work until they expire. Next: slash-mcp paste URL, or: slash-mcp cancel"
                say(left, sys.stderr)
            raise
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _show_time_left(self) -> None:
        """A prompt for the address, with the minutes that are left."""
        while True:
            left = max(self._seconds(started) for started in self.started.values())
            self.progress.show(f"{minutes(left)} left > ")
            await asyncio.sleep(left % 60 or 60)

    async def _wait_for(self, name: str, started: StartedSignIn) -> None:
        owner = started.sign_in.owner
        try:
            # Past its end, so that it is recorded as expired.
            ended = await self.auth.wait(started.sign_in, self._seconds(started, grace=60.0))
            if ended.status in OPEN:
                self._fail(
                    name,
                    f"{name}: nobody finished the sign-in in time; its link still works.",
                    Next("paste", arguments=("URL",)),
                )
                return
            if ended.status != "done":
                end = ended.result or Outcome("failed", f"The sign-in to {name} ended.")
                self._fail(name, end.text, end.next_step)
                return
            # A moment at least: a server that is asked for none would be called unreachable.
            left = self._bound()
            limit = TEST_TIMEOUT if left is None else min(TEST_TIMEOUT, max(_MOMENT, left))
            connection = await self.auth.confirm_works(name, owner, timeout=limit)
            status = await self.auth.status(name, owner)
        except McpAuthError as error:
            self._fail(name, error.text, error.next_step)
            return
        if connection.state is ConnectionState.REFUSED:
            self._fail(name, refused_after_sign_in(name, connection), Next("auth", name))
            return
        who = f" as {status.account}" if status.account else ""
        found = f", {tools(len(connection.tools))}" if connection.tools is not None else f", but {connection.detail}"
        ends = f". {no_refresh_token(name, status.expires_at, time.time())}" if status.expires_at is not None else ""
        self._event(
            {"event": "signed_in", "server": name, "account": status.account, "expires_at": status.expires_at},
            for_shell(f"{name}: signed in{who}{found}{ends}"),
        )

    def _seconds(self, started: StartedSignIn, grace: float = 0.0) -> float:
        """How long to wait for one sign-in: until its link expires, or for as long as `--timeout` says."""
        if self.options.timeout is None:
            return max(0.0, started.expires_at - time.time() + grace)
        return max(0.0, self.begun_at + float(self.options.timeout) - time.monotonic())

    def _bound(self) -> float | None:
        """How long servers may take to answer: what is left of `--timeout`; None: as usual, with 0 too."""
        if not self.options.timeout:
            return None
        return max(0.0, self.begun_at + float(self.options.timeout) - time.monotonic())

    async def _take_pastes(self) -> None:
        """From standard input: redirect addresses, for browsers on another machine, and the codes of our own pages."""
        async for line in read_lines(sys.stdin):
            if not line.strip():
                continue
            try:
                if typed_code(line) is not None and any(started.public for started in self.started.values()):
                    await self.auth.confirm(line, str(LOCAL), private=True)
                else:
                    await self.auth.paste(line, str(LOCAL))
            except McpAuthError as error:
                with self.progress.aside():
                    complain(error)

    # -- output ------------------------------------------------------------------------------

    def _event(self, event: dict[str, Any], text: str) -> None:
        with self.progress.aside():
            print(as_json_text(event) if self.options.json else text, flush=True)

    def _say(self, text: str) -> None:
        if not self.options.json:
            with self.progress.aside():
                say(text)

    def _fail(self, name: str, reason: str, next_step: Step | None) -> None:
        self.failed = True
        if self.options.json:
            step = in_shell(next_step) if next_step else None
            self._event({"event": "failed", "server": name, "reason": reason, "next": step}, "")
            return
        with self.progress.aside():
            say(f"slash-mcp: {clean(with_next(reason, next_step, in_shell))}", sys.stderr)


def _has_browser() -> bool:
    """Whether a browser can be opened where the person sits: not over SSH, not without a display, not from a pipe."""
    if not sys.stdout.isatty() or os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"):
        return False
    if platform.system() == "Linux":
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True
