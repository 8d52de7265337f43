"""The callback endpoint: an ASGI application, and a runner that gives it loopback ports when first needed.

Every open sign-in is served by the same application and found by its `state`; unknown paths are 404
and change nothing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import DictLoader, Environment
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_auth.answers import Binding, CallbackAnswer, parse_query
from mcp_auth.errors import AlreadyFinished, AuthorizationRefused, McpAuthError, PortBusy, SignInExpired
from mcp_auth.records import SignIn

if TYPE_CHECKING:
    import uvicorn
    from filelock import FileLock

logger = logging.getLogger(__name__)

CALLBACK_PATH = "/callback"

Finish = Callable[[CallbackAnswer, Binding], Awaitable[SignIn]]

_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>{{ title }}</title>
<link rel="icon" href="data:,">
<style>
:root { font: 17px/1.5 system-ui, sans-serif; color: #1b1f24; background: #f4f5f7 }
body { margin: 0; min-height: 100vh; display: grid; place-items: center }
main { box-sizing: border-box; width: min(30rem, 100% - 2rem); padding: 2rem; margin: 1rem;
  background: #fff; border-radius: 1rem; box-shadow: 0 1px 3px #0002 }
.mark { font-size: 2.5rem; line-height: 1; margin: 0 0 1rem }
.good .mark { color: #1a7f37 } .bad .mark { color: #b42318 } .note .mark { color: #8a6100 }
h1 { font-size: 1.35rem; line-height: 1.3; margin: 0 0 .75rem; overflow-wrap: anywhere }
p { margin: .5rem 0 0; overflow-wrap: anywhere }
code { padding: .1em .35em; border-radius: .35em; background: #0001 }
@media (prefers-color-scheme: dark) {
  :root { color: #e8eaed; background: #15181c }
  main { background: #1f2329; box-shadow: none }
  code { background: #fff2 }
  .good .mark { color: #56d364 } .bad .mark { color: #ff7b72 } .note .mark { color: #e3b341 }
}
</style>
</head>
<body>
<main class="{{ tone }}" role="status">
<p class="mark" aria-hidden="true">{{ mark }}</p>
<h1 dir="auto">{{ title }}</h1>
{% for line in lines %}<p dir="auto">{{ line }}</p>
{% endfor %}{% if command %}<p>In the chat: <code dir="auto">{{ command }}</code></p>
{% endif %}</main>
</body>
</html>
"""
_MARKS = {"good": "✓", "bad": "✗", "note": "!"}
_templates = Environment(loader=DictLoader({"page.html": _PAGE}), autoescape=True)


def callback_app(
    finish: Finish, paths: Collection[str] = (CALLBACK_PATH,), mounts: Mapping[str, ASGIApp] | None = None
) -> ASGIApp:
    """The application: GET on the redirect URIs' `paths`, `/healthz`, and what others mounted; all else is 404.

    `finish` takes the answer; its errors become pages. `paths` and `mounts` are looked at for each request.
    """

    async def callback(request: Request) -> Response:
        if request.url.path not in paths:
            raise HTTPException(404)
        return await _answer_page(request, finish)

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok\n", headers=_HEADERS)

    async def missing(request: Request, error: Exception) -> Response:
        return page("Nothing is here", ["This address belongs to no sign-in."], tone="note", status=404)

    routes = [
        Route("/healthz", health, methods=["GET"]),
        Route("/{path:path}", callback, methods=["GET"]),
    ]
    pages = Starlette(routes=routes, exception_handlers={404: missing})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await _mounted(mounts or {}, scope.get("path", ""), pages)(scope, receive, send)

    return app


def _mounted(mounts: Mapping[str, ASGIApp], path: str, otherwise: ASGIApp) -> ASGIApp:
    for prefix, app in mounts.items():
        if path == prefix or path.startswith(f"{prefix}/"):
            return app
    return otherwise


async def _answer_page(request: Request, finish: Finish) -> Response:
    if request.method != "GET":
        # Link scanners ask with HEAD; only a browser's own GET carries an answer.
        return PlainTextResponse("", status_code=405, headers={**_HEADERS, "Allow": "GET"})
    try:
        url = f"{request.url.scheme}://{request.url.netloc}{request.url.path}"
        answer = parse_query(request.url.query, url)
        if answer.state is None and answer.code is None and answer.error is None:
            return page("Nothing is here", ["This address belongs to no sign-in."], tone="note", status=404)
        sign_in = await finish(answer, Binding())
    except AlreadyFinished as error:
        return page("This link was used before", [error.message], tone="note", status=409, command=error.next_step)
    except SignInExpired as error:
        return page("This link has expired", [error.message], tone="note", status=410, command=error.next_step)
    except AuthorizationRefused as error:
        return page("Not signed in", [error.message], tone="bad", status=200, command=error.next_step)
    except McpAuthError as error:
        return page("Not signed in", [error.message], tone="bad", status=400, command=error.next_step)
    return page(
        f"{sign_in.server} is signed in",
        [sign_in.outcome or "", "You can close this page and go back to the chat."],
        tone="good",
    )


def page(title: str, lines: list[str], *, tone: str, status: int = 200, command: str | None = None) -> HTMLResponse:
    """One page with a title, sentences, and the next command when it is one for the chat."""
    is_command = command is not None and command.startswith("/mcp")
    if command is not None and not is_command:
        lines = [*lines, f"{command[0].upper()}{command[1:]}."]
    body = _templates.get_template("page.html").render(
        title=title,
        lines=[line for line in lines if line],
        tone=tone,
        mark=_MARKS[tone],
        command=command if is_command else None,
    )
    return HTMLResponse(body, status_code=status, headers=_HEADERS)


class LoopbackListeners:
    """The application on loopback ports of this machine, one listener a port, started when first needed.

    A process that listens holds the kernel lock `<home>/callback-<port>.lock`, so that another process of
    the same home knows the listener for its own and waits on the store instead.
    """

    def __init__(self, home: Path, finish: Finish, mounts: Mapping[str, ASGIApp] | None = None) -> None:
        self._home = home
        self._paths = {CALLBACK_PATH}
        self._app = callback_app(finish, self._paths, mounts)
        self._servers: dict[tuple[str, int], _Running] = {}

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(port for _, port in self._servers)

    async def listen(self, host: str, port: int, path: str = CALLBACK_PATH) -> int:
        """Take redirects to `path` on `host:port` (0: any free port) unless this home does already. Returns the port.

        Raises:
            PortBusy: another program has it.
        """
        self._paths.add(path)
        if (host, port) in self._servers:
            return port
        lock = self._lock(port) if port else None
        if lock is not None and not _acquired(lock):
            return port
        try:
            bound = _bind(host, port)
        except OSError as error:
            if lock is not None:
                lock.release()
            raise PortBusy(
                f"Port {port} on {host} cannot be listened on ({error.strerror or type(error).__name__}).",
                next_step="stop the other program, or set gateway.callback.port to a free port",
            ) from None
        actual: int = bound.getsockname()[1]
        if lock is None:
            lock = self._lock(actual)
            _acquired(lock)
        running = await _serve(self._app, bound, lock)
        self._servers[host, actual] = running
        return actual

    def is_listened_to(self, port: int) -> bool:
        """Whether this process or another of the same home listens on `port`."""
        return port in self.ports or is_ours(self._home, port)

    async def close(self) -> None:
        servers = list(self._servers.values())
        self._servers.clear()
        for running in servers:
            await running.stop()

    def _lock(self, port: int) -> FileLock:
        return _port_lock(self._home, port)


def is_ours(home: Path, port: int) -> bool:
    """Whether a process of this home holds the port's lock, and so listens on it."""
    lock = _port_lock(home, port)
    if not _acquired(lock):
        return True
    lock.release()
    return False


def _port_lock(home: Path, port: int) -> FileLock:
    from filelock import FileLock

    from mcp_auth.stores.files import make_folder

    path = make_folder(home) / f"callback-{port}.lock"
    return FileLock(path, mode=0o600, is_singleton=False, thread_local=False)


class _Running:
    def __init__(self, server: uvicorn.Server, task: asyncio.Task[None], lock: FileLock) -> None:
        self._server = server
        self._task = task
        self._lock = lock

    async def stop(self) -> None:
        self._server.should_exit = True
        done, _ = await asyncio.wait({self._task}, timeout=5.0)
        if not done:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._lock.release()


async def _serve(app: ASGIApp, bound: socket.socket, lock: FileLock) -> _Running:
    import uvicorn

    class EmbeddedServer(uvicorn.Server):
        """A server inside somebody else's process: signals are not its business."""

        @contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

    config = uvicorn.Config(
        app,
        log_config=None,
        # An access log would hold codes and states.
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=5,
        limit_concurrency=200,
        h11_max_incomplete_event_size=16 * 1024,
    )
    server = EmbeddedServer(config)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started:
        if task.done():
            lock.release()
            task.result()
            raise PortBusy("The callback endpoint did not start.", next_step="slash-mcp doctor")
        await asyncio.sleep(0.005)
    return _Running(server, task, lock)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, because asyncio turns Nagle's algorithm off only where it is: answers come 40 ms sooner.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # A port in TIME_WAIT after a restart is ours again at once; a port in use still is refused.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(128)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


def _acquired(lock: FileLock) -> bool:
    from filelock import Timeout

    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True
