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
from typing import Any

from adapters.cli.ask import answer, ask
from adapters.cli.chat import read_lines
from adapters.cli.cli import FAILED, OK, complain
from adapters.cli.listing import find_server
from adapters.terminal.qr import qr_code
from adapters.terminal.screen import Progress, as_json_text, is_colored, say
from adapters.text import clean, link_text
from gateway.gateway import Gateway
from gateway.grammar import Auth, Paste
from gateway.invocations import LOCAL
from gateway.replies import Checklist, ChecklistItem, ItemState, Notice, Reply
from gateway.sentences import minutes, no_refresh_token, tools
from gateway.surfaces import in_shell
from mcp_auth.config.load import load
from mcp_auth.errors import Busy, McpAuthError, PortBusy, StoreError, Unreachable, sentence
from mcp_auth.net.names import run
from mcp_auth.oauth.sign_in import StartedSignIn
from mcp_auth.outcome import Next, Outcome, Step
from mcp_auth.states import OPEN
from mcp_auth.status import AuthState, ServerStatus

# Their sentences are of a host, a file or a port, and not of a server.
_UNNAMED = (Unreachable, StoreError, Busy, PortBusy)
# Past the end of a link, so that it is told as expired; and for the trial of an access that came last.
_GRACE_SECONDS = 60.0
_LAST_WORDS_SECONDS = 40.0


def run_auth(options: Namespace) -> int:
    """Print a link for every server that needs one, and wait until each was used, or failed."""
    return run(_auth(options))


async def _auth(options: Namespace) -> int:
    config = load(options.config, options.home)
    names = tuple(dict.fromkeys(find_server(config, name) for name in options.servers))
    async with Gateway(config, alone=True) as gateway:
        return await _Run(gateway, options).all(Auth(names, fresh=options.fresh, listen=not options.no_wait))


class _Run:
    """One run of the command: the checklist as far as it was printed, and whether anything failed."""

    def __init__(self, gateway: Gateway, options: Namespace) -> None:
        self.gateway = gateway
        self.options = options
        self.failed = False
        self.items: dict[str, ChecklistItem] = {}
        self.late: set[str] = set()
        self.news: asyncio.Queue[Reply] = asyncio.Queue()
        self.progress = Progress("preparing the links...")
        self.deadline = None if options.timeout is None else time.monotonic() + options.timeout

    async def all(self, command: Auth) -> int:
        if not self.gateway.config.servers:
            self._say("No MCP servers are configured.", Next("add", arguments=("NAME", "URL")))
            return OK
        self.gateway.subscribe(LOCAL.platform, self._notice)
        with self.progress:
            # With `--timeout 0` servers have as long as usual.
            deadline = self.deadline if self.options.timeout else None
            async for reply in ask(self.gateway, self.options, command, deadline=deadline):
                self._show(reply)
        if not self.items and not self.failed:
            step = Next("list", arguments=("--probe",), on_host=True)
            self._say("No server is known to lack a sign-in or a key.", step)
        if self._links() and not self.options.no_wait:
            await self._wait()
        return FAILED if self.failed else OK

    def _links(self) -> dict[str, StartedSignIn]:
        """What was begun, has not ended, and is still waited for."""
        shown = [item for item in self.items.values() if item.server not in self.late]
        return {item.server: item.data for item in shown if isinstance(item.data, StartedSignIn)}

    async def _notice(self, notice: Notice) -> None:
        await self.news.put(notice.reply)

    def _show(self, reply: Reply) -> None:
        """Print what is new on the checklist."""
        if isinstance(reply.data, McpAuthError):
            raise reply.data
        for item in [item for block in reply.blocks if isinstance(block, Checklist) for item in block.items]:
            before = self.items.get(item.server)
            self.items[item.server] = item
            if item != before and item.state is not ItemState.PREPARING:
                self._show_item(item, is_begun=before is not None)

    def _show_item(self, item: ChecklistItem, *, is_begun: bool) -> None:
        name, data = item.server, item.data
        if isinstance(data, StartedSignIn):
            self._show_link(item, data)
        elif isinstance(data, ServerStatus) and data.auth is AuthState.KEY_MISSING:
            self._event(
                {"event": "key_needed", "server": name, "variables": list(data.variables)},
                in_shell(f"{name}: {item.sentence}", Next("key", name)),
            )
        elif isinstance(data, ServerStatus) and is_begun:
            self._show_end(data)
        elif isinstance(data, ServerStatus):
            has_key = data.auth is AuthState.KEY_SET
            why = "uses an API key, not a sign-in" if has_key else item.sentence
            self._fail(name, sentence(f"{name} {why}"), Next("key", name) if has_key else data.next)
        elif isinstance(data, McpAuthError | Outcome):
            is_named = data.server is not None or not isinstance(data, _UNNAMED)
            self._fail(name, data.text, data.next_step, is_named=is_named)
        elif isinstance(data, TimeoutError) and self.options.timeout:
            seconds = f"{self.options.timeout:g}"
            self._fail(name, f"{name} gave no link within {seconds} seconds.", Next("auth", name))
        else:
            self._fail(name, f"{name}: {item.sentence}", item.next_step or Next("auth", name))

    def _show_link(self, item: ChecklistItem, started: StartedSignIn) -> None:
        name = item.server
        text = f"{name}: {item.sentence}\n{link_text(started.link)}"
        if sys.stdout.isatty() and not self.options.json:
            text = f"{text}\n{qr_code(started.link, color=is_colored(sys.stdout))}".rstrip()
        self._event(
            {"event": "authorization_url", "server": name, "url": started.link, "expires_at": started.expires_at}, text
        )
        if started.needs_proof and self.options.no_wait:
            self._complain(f"{name}: the page shows a code.", Next("confirm", arguments=("CODE",)))
        if not started.listening:
            self._complain(
                f"{name}: nothing on this machine waits for the answer. When the browser's last page does not load, "
                "copy its address.",
                Next("paste", arguments=("URL",)),
            )
        if not self.options.no_browser and not self.options.no_wait and _has_browser():
            # What $BROWSER names may stay in the foreground for as long as it likes.
            threading.Thread(target=webbrowser.open, args=(started.link,), daemon=True, name="browser").start()

    def _show_end(self, status: ServerStatus) -> None:
        names, detail, ends_at = status.connection.tools, status.connection.detail, status.expires_at
        who = f" as {status.account}" if status.account else ""
        found = f", {tools(len(names))}" if names is not None else f", but {detail}"
        ends = in_shell((". ", *no_refresh_token(status.name, ends_at, time.time()))) if ends_at is not None else ""
        self._event(
            {"event": "signed_in", "server": status.name, "account": status.account, "expires_at": ends_at},
            clean(f"{status.name}: signed in{who}{found}{ends}"),
        )

    # -- waiting -----------------------------------------------------------------------------

    async def _wait(self) -> None:
        if any(started.needs_proof for started in self._links().values()):
            self._say("Waiting. When a page shows a code, type it here; when the last page does not load, its address.")
        else:
            self._say("Waiting. When the browser's last page does not load, paste its address here.")
        beside = [asyncio.create_task(self._take_pastes()), asyncio.create_task(self._show_time_left())]
        try:
            with self.progress:
                await self._until_all_ended()
        except asyncio.CancelledError:
            if not self.options.json:
                step = Next("paste", arguments=("URL",), around=f"{{}}, or: {in_shell(Next('cancel'))}")
                say("The links work until they expire.", sys.stderr, next_step=step)
            raise
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _until_all_ended(self) -> None:
        ends_at = max(started.expires_at for started in self._links().values())
        left = ends_at - time.time() + _GRACE_SECONDS if self.deadline is None else self.deadline - time.monotonic()
        try:
            async with asyncio.timeout(left):
                while self._links():
                    self._show(await self.news.get())
        except TimeoutError:
            for name, started in self._links().items():
                if (await self.gateway.auth.wait(started.sign_in, 0.0)).status in OPEN:
                    self.late.add(name)
                    reason = f"{name}: nobody finished the sign-in in time; its link still works."
                    self._fail(name, reason, Next("paste", arguments=("URL",)))
        try:
            # What ended in time is being told, or its new access tried.
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                while self._links():
                    self._show(await self.news.get())
        except TimeoutError:
            for name in self._links():
                self.late.add(name)
                self._fail(name, f"{name}: what became of the sign-in cannot be found out.", Next("list", name))

    async def _show_time_left(self) -> None:
        """A prompt for the address, with the minutes that are left."""
        while links := self._links():
            left = max(started.expires_at for started in links.values()) - time.time()
            if self.deadline is not None:
                left = self.deadline - time.monotonic()
            self.progress.show(f"{minutes(left)} left > ")
            await asyncio.sleep(max(0.0, left) % 60 or 60)

    async def _take_pastes(self) -> None:
        """From standard input: redirect addresses, for browsers on another machine, and the codes of our own pages."""
        async for line in read_lines(sys.stdin):
            if not line.strip():
                continue
            try:
                # What became of a sign-in is said by its line of the checklist.
                await answer(self.gateway, self.options, Paste(line))
            except McpAuthError as error:
                with self.progress.aside():
                    complain(error)

    # -- output ------------------------------------------------------------------------------

    def _event(self, event: dict[str, Any], text: str) -> None:
        with self.progress.aside():
            print(as_json_text(event) if self.options.json else text, flush=True)

    def _say(self, text: str, next_step: Step | None = None) -> None:
        if not self.options.json:
            with self.progress.aside():
                say(text, next_step=next_step)

    def _complain(self, text: str, next_step: Step | None) -> None:
        with self.progress.aside():
            say(text, sys.stderr, next_step=next_step, before="slash-mcp: ")

    def _fail(self, name: str, reason: str, next_step: Step | None, *, is_named: bool = True) -> None:
        """`is_named`: the reason names the server."""
        self.failed = True
        if self.options.json:
            step = in_shell(next_step) if next_step else None
            self._event({"event": "failed", "server": name, "reason": reason, "next": step}, "")
        else:
            self._complain(reason if is_named else f"{name}: {reason}", next_step)


def _has_browser() -> bool:
    """Whether a browser can be opened where the person sits: not over SSH, not without a display, not from a pipe."""
    if not sys.stdout.isatty() or os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"):
        return False
    if platform.system() == "Linux":
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True
