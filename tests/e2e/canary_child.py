"""A host program with slash-mcp inside, told over standard input what to do, with every logger at DEBUG.

Commands are JSON objects, one a line; answers as well. What must stay silent goes to files of the folder in the
first argument: `log` (every record, with its arguments and tracebacks), `reprs` (every object of ours that can be
reached) and `tracebacks` (every exception that came out). Answers hold what people read: `public` and `private`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import pprint
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapters.base import Adapter
from adapters.refusals import NotSupported
from adapters.terminal import render
from gateway.gateway import Gateway
from gateway.invocations import LOCAL, Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Notice, Reply, SecretPrompt
from mcp_auth import Change
from mcp_auth.config.models import Settings
from mcp_auth.records import Requester

OURS = ("mcp_auth", "gateway", "adapters")
OUT = Path(sys.argv[1])


class Platform(Adapter[Settings]):
    """A chat room and a direct line to everybody in it. Messages are rendered as the terminal renders them."""

    capabilities = Capabilities(edit_window=None, secret_input=True)

    platform = "canary"
    title = "Canary"
    options_type = Settings

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self.public: list[str] = []
        self.private: list[str] = []
        self.links: list[str] = []
        self.prompt: str | None = None

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        return self._show(reply, public=not chat.data["private"])

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        return self._show(reply, public=False)

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        return self._show(reply, public=message.data["public"])

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        self.prompt = prompt.id
        keep(prompt)
        raise NotSupported

    def _show(self, reply: Reply, *, public: bool) -> MessageRef:
        keep(reply)
        buttons = "".join(f"\n{button.url}" for button in reply.buttons if button.url is not None)
        text = render.render(reply, columns=100, color=False, now=time.time()) + buttons
        (self.public if public else self.private).append(text)
        self.links += [line for line in text.splitlines() if line.startswith("http")]
        return MessageRef("cli", {"public": public})


class Log(logging.Handler):
    def __init__(self, path: Path) -> None:
        super().__init__(logging.DEBUG)
        self._file = path.open("w")
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._file.write(f"{self.format(record)}\n    {record.args!r} {record.__dict__!r}\n")
        self._file.flush()


def every_logger_to(handler: logging.Handler) -> None:
    """Whatever a library has said about its own loggers."""
    root = logging.getLogger()
    root.setLevel(logging.DEBUG)
    root.handlers = [handler]
    for logger in root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.setLevel(logging.DEBUG)
            logger.propagate, logger.disabled, logger.handlers = True, False, []


KEPT: list[object] = []
TRACEBACKS: list[str] = []


def keep(thing: object) -> None:
    KEPT.append(thing)


def caught(error: BaseException) -> None:
    keep(error)
    TRACEBACKS.append("".join(traceback.format_exception(error)))


def reachable(roots: list[object]) -> Iterator[object]:
    """Every object of our own classes that hangs on the roots, private attributes and closures' cells left alone."""
    seen: set[int] = set()
    waiting: list[object] = list(roots)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, str | bytes | int | float | type | None):
            continue
        seen.add(id(thing))
        KEPT_ALIVE.append(thing)
        if isinstance(thing, Mapping):
            waiting += [*thing.keys(), *thing.values()]
        elif isinstance(thing, list | tuple | set | frozenset):
            waiting += thing
        elif type(thing).__module__.partition(".")[0] in OURS:
            yield thing
            waiting += members(thing)
        elif isinstance(thing, BaseException):
            waiting += [thing.__cause__, thing.__context__, *thing.args]


KEPT_ALIVE: list[object] = []


def members(thing: object) -> list[object]:
    names = set(getattr(thing, "__dict__", ()))
    for kind in type(thing).__mro__:
        for list_of_names in (kind.__dict__.get("__struct_fields__"), kind.__dict__.get("__slots__")):
            names.update(list_of_names if isinstance(list_of_names, tuple) else ())
    return [getattr(thing, name) for name in names if hasattr(thing, name)]


def shown(thing: object) -> str:
    """Every way in which a debugger, a logger or a pretty printer shows an object."""
    forms = [repr(thing), str(thing), f"{thing}", pprint.pformat(thing)]
    if hasattr(thing, "__rich_repr__"):
        forms.append(repr(list(thing.__rich_repr__())))
    return "\n".join(forms)


class Host:
    def __init__(self, gateway: Gateway, platform: Platform) -> None:
        self.gateway = gateway
        self.platform = platform
        self._events = itertools.count(1)
        for name in ("cli", "telegram"):
            gateway.subscribe(name, self.notice)
        gateway.auth.on_change(self.changed)

    async def notice(self, notice: Notice) -> None:
        keep(notice)
        await self.platform.notify(notice)

    def changed(self, change: Change) -> None:
        keep(change)
        raise RuntimeError(f"a host's own bug, with {change!r}")

    async def say(self, text: str, private: bool, who: str = str(LOCAL)) -> bool:
        principal = Principal.parse(who)
        chat = ChatRef(principal.platform, {"private": private})
        invocation = Invocation(principal, chat, text, private, f"e{next(self._events)}")
        keep(invocation)
        return await self.platform.run_invocation(invocation)

    async def secret(self, value: str) -> bool:
        reply = await self.gateway.submit_secret(LOCAL, self.platform.prompt or "", value)
        await self.platform.deliver_private(LOCAL, reply, None)
        return reply.ok

    async def call(self, method: str, *arguments: Any) -> bool:
        try:
            result = getattr(self.gateway.auth, method)(*arguments)
            if asyncio.iscoroutine(result):
                result = await result
        except Exception as error:
            caught(error)
            return False
        keep(result)
        return True

    async def sign_in(self, server: str, principal: str) -> bool:
        return await self.call("sign_in", server, "shared", Requester(principal=principal))

    async def session(self, server: str) -> bool:
        try:
            async with self.gateway.auth.session(server) as client:
                keep(client)
                await client.list_tools()
        except Exception as error:
            caught(error)
            return False
        return True

    async def stored(self) -> bool:
        store = self.gateway.auth.store
        keep([await store.grants.list(), await store.sign_ins.list(), await store.key_forms.list()])
        keep(self.gateway.people.listed())
        urls = [server.url for server in self.gateway.config.servers.values() if server.url is not None]
        keep([await store.profiles.get(url) for url in urls])
        return True

    async def dump(self) -> bool:
        things = list(reachable([self.gateway, *KEPT]))
        (OUT / "reprs").write_text("\n".join(f"{type(thing).__name__}: {shown(thing)}" for thing in things))
        (OUT / "tracebacks").write_text("\n".join(TRACEBACKS))
        return True

    async def leak(self, secret: str) -> bool:
        """What the watcher must notice: the same secret in every place that is watched, each time in another dress."""
        from base64 import b64encode
        from urllib.parse import quote

        logging.getLogger("mcp_auth.any").debug("sending %s", {"Authorization": f"Bearer {secret}"})
        keep(Requester(principal=b64encode(f"x:{secret}".encode()).decode()))
        try:
            try:
                raise ValueError(quote(secret, safe=""))
            except ValueError as inner:
                raise RuntimeError("outer") from inner
        except RuntimeError as error:
            caught(error)
        self.platform.public.append(f"{secret[:8]}... is {secret}")
        self.platform.private.append(secret)
        return True


async def main() -> None:
    log = Log(OUT / "log")
    logging.captureWarnings(True)
    every_logger_to(log)
    loop = asyncio.get_running_loop()
    # Every step of the loop is logged with its handle, as asyncio does with slow ones.
    loop.slow_callback_duration = 0
    async with Gateway.from_config(home=sys.argv[2]) as gateway:
        platform = Platform(gateway)
        host = Host(gateway, platform)
        while line := await asyncio.to_thread(sys.stdin.readline):
            every_logger_to(log)
            name, *arguments = json.loads(line)
            ok = await getattr(host, name)(*arguments)
            answer = {"ok": ok, "public": platform.public, "private": platform.private, "links": platform.links}
            print(json.dumps(answer), flush=True)
            platform.public, platform.private, platform.links = [], [], []


if __name__ == "__main__":
    asyncio.run(main(), debug=True)
