"""`slash-mcp auth`: links for every server that needs one, and waiting until they are used."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import sys
import time
import webbrowser
from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any

from adapters.layout import link_text
from adapters.terminal.chat import read_lines
from adapters.terminal.cli import FAILED, OK, complain, for_shell
from adapters.terminal.listing import find_server, owner_of
from gateway.invocations import LOCAL
from gateway.sentences import minutes, no_refresh_token, refused_after_sign_in, tools
from mcp_auth.config import load
from mcp_auth.core import McpAuth
from mcp_auth.errors import McpAuthError
from mcp_auth.records import OPEN, Origin
from mcp_auth.sign_in import StartedSignIn
from mcp_auth.status import AuthState, ConnectionState, needs_a_look

_SIGN_IN = frozenset(
    {
        AuthState.SIGN_IN_NEEDED,
        AuthState.SIGN_IN_OPEN,
        AuthState.REAUTHORIZATION_NEEDED,
        AuthState.CLIENT_REGISTRATION_NEEDED,
    }
)


def run_auth(options: Namespace) -> int:
    return asyncio.run(_auth(options))


async def _auth(options: Namespace) -> int:
    config = load(options.config, options.home)
    names = [find_server(config, name) for name in options.servers]
    async with McpAuth.open(config) as auth:
        run = _Run(auth, options)
        return await run.all(names)


@dataclass
class _Run:
    """One run of the command: what was begun, and whether anything failed."""

    auth: McpAuth
    options: Namespace
    failed: bool = False
    started: dict[str, StartedSignIn] = field(default_factory=dict)

    async def all(self, names: list[str]) -> int:
        wanted = names or await self._needed()
        if not wanted:
            self._say("Every server that needs a sign-in or a key has one.")
            return OK
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
        await asyncio.gather(*(self.auth.probe(name, self._owner(name)) for name in unknown))
        statuses = await self.auth.statuses(self._owner)
        return [one.name for one in statuses if one.auth in _SIGN_IN or one.auth is AuthState.KEY_MISSING]

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
            started = await self.auth.sign_in(
                name, owner, Origin(principal=str(LOCAL)), fresh=self.options.fresh, listen=not self.options.no_wait
            )
        except McpAuthError as error:
            self._fail(name, error.message, error.next_step)
            return
        self.started[name] = started
        self._show_link(name, started)

    def _show_link(self, name: str, started: StartedSignIn) -> None:
        left = minutes(started.expires_at - time.time())
        text = f"{name}: open this link within {left}\n{link_text(started.link)}"
        if sys.stdout.isatty() and not self.options.json:
            text += _qr_code(started.link)
        self._event(
            {
                "event": "authorization_url",
                "server": name,
                "url": started.link,
                "expires_at": started.expires_at,
            },
            text,
        )
        if not started.listening:
            print(
                f"slash-mcp: nothing on this machine waits for the answer. When the browser's last page does not load, "
                f"copy its address, then: slash-mcp paste URL  ({name})",
                file=sys.stderr,
            )
        if not self.options.no_browser and not self.options.no_wait and _has_browser():
            webbrowser.open(started.link)

    # -- waiting -----------------------------------------------------------------------------

    async def _wait(self) -> None:
        self._say("Waiting. When the browser's last page does not load, paste its address here.")
        pastes = asyncio.create_task(self._take_pastes())
        try:
            await asyncio.gather(*(self._wait_for(name, started) for name, started in self.started.items()))
        finally:
            pastes.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pastes

    async def _wait_for(self, name: str, started: StartedSignIn) -> None:
        limit = self.options.timeout
        seconds = started.expires_at - time.time() + 60.0 if limit is None else limit
        owner = started.sign_in.owner
        try:
            ended = await self.auth.wait(started.sign_in, max(0.0, seconds))
            if ended.status in OPEN:
                self._fail(
                    name, f"{name}: nobody finished the sign-in in time; its link still works.", "/mcp paste URL"
                )
                return
            if ended.status != "done":
                self._fail(name, ended.outcome or f"The sign-in to {name} ended.", ended.next_step)
                return
            connection = await self.auth.confirm_works(name, owner)
            status = await self.auth.status(name, owner)
        except McpAuthError as error:
            self._fail(name, error.message, error.next_step)
            return
        if connection.state is ConnectionState.REFUSED:
            reason, _, step = refused_after_sign_in(name, connection).partition(" Next: ")
            self._fail(name, reason, step)
            return
        who = f" as {status.account}" if status.account else ""
        found = f", {tools(len(connection.tools))}" if connection.tools is not None else f", but {connection.detail}"
        ends = f". {no_refresh_token(name, status.expires_at, time.time())}" if status.expires_at is not None else ""
        self._event(
            {"event": "signed_in", "server": name, "account": status.account, "expires_at": status.expires_at},
            for_shell(f"{name}: signed in{who}{found}{ends}"),
        )

    async def _take_pastes(self) -> None:
        """Redirect addresses from standard input, for browsers on another machine."""
        async for line in read_lines(sys.stdin):
            if not line.strip():
                continue
            try:
                await self.auth.paste(line, str(LOCAL))
            except McpAuthError as error:
                complain(error)

    # -- output ------------------------------------------------------------------------------

    def _event(self, event: dict[str, Any], text: str) -> None:
        print(json.dumps(event, ensure_ascii=False) if self.options.json else text, flush=True)

    def _say(self, text: str) -> None:
        if not self.options.json:
            print(text, flush=True)

    def _fail(self, name: str, reason: str, next_step: str | None) -> None:
        self.failed = True
        step = for_shell(next_step) if next_step else None
        if self.options.json:
            print(json.dumps({"event": "failed", "server": name, "reason": reason, "next": step}), flush=True)
            return
        named = reason if name in reason else f"{name}: {reason}"
        print(f"slash-mcp: {for_shell(named)}{f' Next: {step}' if step else ''}", file=sys.stderr, flush=True)


def _has_browser() -> bool:
    """Whether a browser can be opened where the person sits: not over SSH, not without a display, not from a pipe."""
    if not sys.stdout.isatty() or os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"):
        return False
    if platform.system() == "Linux":
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True


def _qr_code(link: str) -> str:
    """The link as a QR code in half blocks, or nothing when the terminal is too small for it."""
    import io
    import shutil

    import qrcode

    code = qrcode.QRCode(error_correction=qrcode.constants.ERROR_CORRECT_L, border=2)
    code.add_data(link)
    code.make(fit=True)
    side = len(code.get_matrix())
    size = shutil.get_terminal_size((80, 24))
    if side > size.columns or side // 2 + 4 > size.lines:
        return ""
    drawn = io.StringIO()
    code.print_ascii(out=drawn, invert=True)
    return f"\n{drawn.getvalue().rstrip()}"
