"""Looking names up: no name server, and no lack of file descriptors, holds anybody or is called what it is not."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_auth.errors import Unreachable
from mcp_auth.net.http import Http
from mcp_auth.net.names import look_up, run
from mcp_auth.net.rules import NetworkRules
from mcp_auth.status import ConnectionState
from tests.homes import open_auth, signed_in, write_home
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer

ROOT = Path(__file__).parents[3]
# As long as no test may take; whoever waits for a name server waits this long.
SILENT_SECONDS = 300.0
URL = "https://notes.example.test/mcp"


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The resolver waits for a name server that never answers."""
    over = threading.Event()

    def wait(*_: Any) -> Any:
        over.wait(SILENT_SECONDS)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    yield
    over.set()


async def test_a_look_up_ends_when_its_caller_does(silent: None) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(look_up("notes.example.test", 443), 0.01)


def test_an_event_loop_ends_without_waiting_for_a_look_up(silent: None) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().getaddrinfo("notes.example.test", 443), 0.01)

    run(main())


async def test_a_crowd_at_a_silent_name_server_makes_no_crowd_of_threads(
    silent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = threading.Semaphore(3)
    monkeypatch.setattr("mcp_auth.net.names._free", few)
    waiting = [asyncio.create_task(look_up("notes.example.test", 443)) for _ in range(3)]
    while few._value:
        await asyncio.sleep(0.001)
    with pytest.raises(socket.gaierror) as refused:
        await look_up("notes.example.test", 443)
    assert refused.value.errno == socket.EAI_AGAIN
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("proxy", [None, "http://proxy.example.test:3128"])
async def test_a_silent_name_server_is_not_called_an_unknown_name(
    silent: None, monkeypatch: pytest.MonkeyPatch, proxy: str | None
) -> None:
    monkeypatch.setattr("mcp_auth.net.http.CONNECT_TIMEOUT", 0.05)
    http = Http(proxy=proxy)
    with pytest.raises(Unreachable, match="the name server does not answer"):
        await http.fetch(NetworkRules.for_url(URL), "GET", URL)
    await http.close()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (socket.gaierror(socket.EAI_AGAIN, "x"), "the name server does not answer"),
        (socket.gaierror(socket.EAI_NONAME, "x"), "the name is unknown"),
        (socket.gaierror(socket.EAI_NODATA, "x"), "the name is unknown"),
        (socket.gaierror(socket.EAI_FAIL, "x"), "the name cannot be looked up"),
        (socket.gaierror(socket.EAI_SYSTEM, "x"), "the name cannot be looked up"),
        (UnicodeError("label too long"), "the name is unknown"),
    ],
)
async def test_why_there_is_no_address_is_said_as_the_resolver_has_it(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    http = Http()
    with pytest.raises(Unreachable, match=said):
        await http.fetch(NetworkRules.for_url(URL), "GET", URL)
    await http.close()


async def test_an_address_that_is_silent_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch, oauth: OAuthServer
) -> None:
    import httpcore2

    # 127.0.0.2 answers nobody, as an address behind a firewall does.
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    found = [(*entry, ("127.0.0.2", oauth.port)), (*entry, ("127.0.0.1", oauth.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    connect = httpcore2.AnyIOBackend.connect_tcp
    waited: list[float] = []

    async def silent_first(self: Any, host: str, port: int, timeout: float, *rest: Any) -> Any:
        if host == "127.0.0.2":
            waited.append(timeout)
            raise httpcore2.ConnectTimeout("silent")
        return await connect(self, host, port, timeout, *rest)

    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", silent_first)
    http = Http()
    url = f"http://localhost:{oauth.port}/mcp"
    assert (await http.fetch(NetworkRules.for_url(url), "GET", url)).status == 405
    assert waited[0] <= 4.0
    await http.close()


# In a process of its own, in which nothing else closes anything meanwhile.
CROWDED = """
import asyncio, os, resource, sys
from mcp_auth import McpAuth
from mcp_auth.errors import TooManyOpenFiles
from mcp_auth.net.http import Http
from mcp_auth.net.rules import NetworkRules

async def main(home, url):
    async with McpAuth.open(home=home) as auth:
        # What is loaded at first use needs descriptors too.
        await auth.probe("open")
        await auth.close()
        http = Http()
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        held = []
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        try:
            await http.fetch(NetworkRules.for_url(url), "GET", url)
        except TooManyOpenFiles as error:
            said = [error.code]
        for found in (await auth.probe("open"), await auth.probe("run", insist=True)):
            said += [found.state.value, found.detail]
        for one in held:
            os.close(one)
        print(*said, sep="|")

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_lack_of_descriptors_is_not_called_unreachable(tmp_path: Path, oauth: OAuthServer, host: str) -> None:
    url = f"http://{host}:{oauth.port}/mcp"
    home = write_home(tmp_path, {"open": {"url": url, "headers": {"X-A": "b"}}, "run": {"command": "true"}})
    command = [sys.executable, "-c", CROWDED, str(home), url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    sentence = "This process may open no more files or connections at this moment."
    assert done.stdout.strip() == f"too_many_open_files|not_checked|{sentence}|not_checked|{sentence}", done.stderr


async def test_only_who_was_asked_has_refused(tmp_path: Path, oauth: OAuthServer) -> None:
    servers = {
        "notes": {"url": oauth.url, "auth": "oauth"},
        "weather": {"url": oauth.url, "headers": {"X-Key": "${NO_SUCH_KEY}"}},
    }
    async with open_auth(tmp_path, servers) as auth:
        for name in servers:
            oauth.reset()
            assert (await auth.probe(name)).state is ConnectionState.NOT_CHECKED
            assert not oauth.requests("/mcp")
        assert (await auth.probe("notes")).detail == "notes is not signed in."
        await signed_in(auth, "notes")
        oauth.access.clear()
        oauth.refresh.clear()
        assert (await auth.probe("notes")).state is ConnectionState.REFUSED


BLOCKED = """
import socket, sys, time
socket.getaddrinfo = lambda *_: time.sleep(300)
from mcp_auth.start import main
sys.argv = ["slash-mcp", *sys.argv[1:]]
main()
"""


@pytest.mark.service
@pytest.mark.parametrize("command", ["auth notes --timeout 1", "auth --timeout 1 --json", "list --probe", "test notes"])
def test_a_process_does_not_outlive_its_command_for_a_name_server(tmp_path: Path, command: str) -> None:
    home = write_home(
        tmp_path, {"notes": {"url": URL}, "mail": {"url": "https://mail.example.test/mcp", "auth": "oauth"}}
    )
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, "--home", str(home), *command.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@contextmanager
def silent_name_server() -> Iterator[str]:
    """An address of this machine on which a name server takes questions and answers none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        address = f"127.{os.getpid() % 250 + 1}.{time.time_ns() % 250}.53"
        server.bind((address, 53))
        yield address


@pytest.mark.service
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a process another resolv.conf")
def test_a_timeout_holds_with_a_real_name_server_that_is_silent(tmp_path: Path) -> None:
    home = write_home(tmp_path, {"notes": {"url": URL, "auth": "oauth"}})
    resolver = tmp_path / "resolv.conf"
    with silent_name_server() as address:
        # Two and a half minutes for one look-up.
        resolver.write_text(f"nameserver {address}\noptions timeout:30 attempts:5\n")
        inside = f'mount --bind {resolver} /etc/resolv.conf && exec "$0" -m adapters.cli "$@"'
        command = ["unshare", "-m", "sh", "-c", inside, sys.executable, "--home", str(home)]
        possible = subprocess.run([*command[:3], "-c", f"mount --bind {resolver} /etc/resolv.conf"], check=False)
        if possible.returncode != 0:
            pytest.skip("this machine gives no mount namespace")
        # Its own bound ends it, long before ours and the name server's.
        done = subprocess.run(
            [*command, "auth", "--timeout", "3"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
        )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "notes gave no link within 3 seconds. Next: slash-mcp auth notes" in done.stderr
