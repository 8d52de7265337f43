"""Runs one step of a life with slash-mcp in a process that kills itself at the N-th line of what writes or sends.

Nothing is patched: a trace function counts the lines and sends the signal. Modules that only compute or read are
not counted: whether the process dies in them or at the next line that does something is the same to the disk.

Commands come on standard input, one JSON object a line, `{"step", "home", "at"}`; each runs in a fork of this
process, so that imports are paid once. The answer is `{"killed", "lines", "error"}`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

# What the steps need is imported once, before the forks.
import dotenv.parser  # noqa: F401
import filelock  # noqa: F401
import httpx2
import mcp.client.auth.oauth2
import mcp.client.streamable_http
import mcp.shared.auth  # noqa: F401
import uvicorn  # noqa: F401

import mcp_auth.agent
import mcp_auth.config.env_file
import mcp_auth.links.verification
import mcp_auth.oauth.discovery
import mcp_auth.oauth.refresh
import mcp_auth.oauth.sign_in
import mcp_auth.stores.hermes
import mcp_auth.web.endpoint
import mcp_auth.web.key_forms
import mcp_auth.web.loopback
from mcp_auth import McpAuth
from mcp_auth.records import Requester
from tests.browser import Browser, Page
from tests.patience import PATIENCE

ME = Requester(principal="cli:local")
ANN = Requester(principal="telegram:100001", display_name="Ann")
NEW_KEY = "new-" + "n" * 5000
ACTING = (
    "endpoint",
    "env_file",
    "exchange",
    "callbacks",
    "codes",
    "key_forms",
    "keys",
    "loopback",
    "probes",
    "profiles",
    "refresh",
    "registration",
    "renewal",
    "sign_in",
    "tickets",
    "tokens",
    "verification",
    "ways",
)
WRITING_OR_SENDING = frozenset(
    str(path)
    for path in Path(mcp_auth.__file__).parent.rglob("*.py")
    if path.parent.name == "stores" or path.stem in ACTING
)


async def sign_in(auth: McpAuth) -> None:
    """The link, the browser, the redirect to our own listener, the exchange, the confirming call."""
    started = await auth.sign_in("notes", "shared", ME)
    async with httpx2.AsyncClient(timeout=PATIENCE) as browser:
        answer = await browser.get(started.link, follow_redirects=False)
        page = await browser.get(answer.headers["location"])
    assert page.status_code == 200, page.text
    await auth.confirm_works("notes")


async def public_sign_in(auth: McpAuth) -> None:
    """A link of ours, Continue, the code from the chat, the redirect to our own page."""
    async with Browser() as browser:
        page = await proven(auth, browser, (await auth.sign_in("notes", "shared", ANN)).link)
        done = await browser.open(await browser.authorize(page))
    assert done.heading == "notes is connected", done.text


async def key_form(auth: McpAuth) -> None:
    """The same way to the page on which a key is typed."""
    variables = await auth.key_variables("my-api")
    async with Browser() as browser:
        page = await proven(auth, browser, (await auth.key_form("my-api", "shared", ANN, variables)).link)
        done = await browser.press(page, "key", key0=NEW_KEY)
    assert done.heading == "The key for my-api is stored", done.text


async def proven(auth: McpAuth, browser: Browser, link: str) -> Page:
    page = await browser.press(await browser.open(link))
    await auth.confirm(page.code, ANN.principal, private=True)
    return await browser.open(page.url)


async def refresh(auth: McpAuth) -> None:
    await auth.access_token("notes")


async def key(auth: McpAuth) -> None:
    await auth.set_keys("my-api", {"MY_KEY": NEW_KEY})


async def key_of_ann(auth: McpAuth) -> None:
    await auth.set_keys("my-api", {"MY_KEY": NEW_KEY}, "person:ann")


async def logout(auth: McpAuth) -> None:
    await auth.logout("notes")


STEPS: dict[str, Callable[[McpAuth], Awaitable[None]]] = {
    step.__name__: step for step in (sign_in, public_sign_in, key_form, refresh, key, key_of_ann, logout)
}


class Killer:
    """Counts the lines in every thread, and kills the process before line number `at` runs."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.lines = 0

    def install(self) -> None:
        threading.settrace(self.call)
        sys.settrace(self.call)

    def call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self.line if frame.f_code.co_filename in WRITING_OR_SENDING else None

    def line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.line


async def run(step: str, home: str, killer: Killer) -> None:
    async with McpAuth.open(home=home) as auth:
        killer.install()
        try:
            await STEPS[step](auth)
        finally:
            sys.settrace(None)


def in_a_fork(command: dict[str, Any]) -> dict[str, Any]:
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        killer = Killer(command["at"])
        error = None
        try:
            asyncio.run(run(command["step"], command["home"], killer))
        except BaseException:
            error = traceback.format_exc()
        os.write(theirs, json.dumps({"lines": killer.lines, "error": error}).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as report:
        written = report.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return {"killed": True, "lines": None, "error": None}
    return {"killed": False, **json.loads(written)}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(in_a_fork(json.loads(line))), flush=True)
