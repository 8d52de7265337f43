"""Crowds at the public endpoint: of addresses, of connections, of calls without a signature, of made-up links."""

from __future__ import annotations

import asyncio
import gc
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse

from gateway.gateway import Gateway
from mcp_auth import limits
from mcp_auth.config.models import CallbackOptions
from mcp_auth.limits import PAGES, Limits, Rate, address_keys
from mcp_auth.stores import durable
from mcp_auth.stores.files import FileStore
from mcp_auth.web import guards, loopback
from tests.attacks.scene import notes
from tests.attacks.test_bodies import connect
from tests.browser import Browser
from tests.gateway.chat import Chat, configure, open_gateway
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.public import ANN, link_of, public_gateway
from tests.servers.oauth import OAuthServer

THREE = Rate("three", 3, 60)


def at(gateway: Gateway, address: str) -> httpx2.AsyncClient:
    app = httpx2.ASGITransport(app=gateway.auth.asgi_app(), client=(address, 50_000))
    return httpx2.AsyncClient(transport=app, base_url="http://gateway.test")


# -- addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "keys"),
    [
        ("192.0.2.7", ["192.0.2.7", "192.0.2.0/24"]),
        ("::ffff:192.0.2.7", ["192.0.2.7", "192.0.2.0/24"]),
        ("2001:db8:1:2:3::4", ["2001:db8:1:2::/64", "2001:db8:1::/56", "2001:db8:1::/48"]),
        ("nonsense", ["unknown"]),
    ],
)
def test_an_address_counts_as_itself_and_then_as_wider_networks(address: str, keys: list[str]) -> None:
    assert list(address_keys(address)) == keys


CROWDS = {
    "one /24": lambda: (f"198.51.100.{n % 256}" for n in range(2_000)),
    "all of IPv4": lambda: (f"{n % 200 + 1}.{n // 200 % 250}.{n // 7 % 250}.{n % 250}" for n in range(2_000)),
    "one /48": lambda: (f"2001:db8:1:{n:x}::1" for n in range(2_000)),
    "one /32": lambda: (f"2001:db8:{n:x}::1" for n in range(2_000)),
}


@pytest.mark.parametrize("crowd", ["one /24", "one /48"])
def test_attack_a_full_table_counts_a_crowd_by_its_network_and_leaves_newcomers_their_own(
    monkeypatch: pytest.MonkeyPatch, crowd: str
) -> None:
    monkeypatch.setattr(limits, "KEYS_KEPT", 50)
    counted = Limits()
    served = [counted.take_address(THREE, address)[0] for address in CROWDS[crowd]()].count(0.0)

    assert served <= 50 * 3 + 16 * THREE.amount * 10
    for newcomer in ("203.0.113.9", "2001:db8:ffff::1"):
        assert [counted.take_address(THREE, newcomer)[0] for _ in range(3)] == [0.0] * 3
    assert sum(map(len, counted._tables.values())) <= 4 * 51


async def test_attack_a_good_link_is_served_however_full_the_table_is(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEYS_KEPT", 20)
    monkeypatch.setattr(limits, "PAGES", Rate(PAGES.name, 5, 60))
    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        link = await link_of(Chat(gateway, ANN))
        path = link[len(gateway.config.gateway.public_url or "") :]
        for crowd in CROWDS.values():
            for address in crowd():
                gateway.auth.limits.take_address(limits.PAGES, address)
        async with at(gateway, "203.0.113.9") as newcomer:
            assert (await newcomer.get("/a/made-up")).status_code == 429
            assert (await newcomer.get("/")).status_code == 429
            assert (await newcomer.get("/callback/x?state=made-up")).status_code == 429
            assert {(await newcomer.get(path)).status_code for _ in range(20)} == {200}
            # Even a link is not for ever and everybody.
            assert 429 in {(await newcomer.get(path)).status_code for _ in range(limits.LINKS.amount)}


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
async def test_attack_a_good_answer_is_finished_however_full_the_table_is(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, script: bool
) -> None:
    monkeypatch.setattr(limits, "KEYS_KEPT", 20)
    monkeypatch.setattr(limits, "PAGES", Rate(PAGES.name, 5, 60))
    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        app = gateway.auth.asgi_app()

        async def from_afar(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "client": ("203.0.113.9", 50_000)}, receive, send)

        link = await link_of(Chat(gateway, ANN))
        for address in CROWDS["all of IPv4"]():
            gateway.auth.limits.take_address(limits.PAGES, address)
        async with Browser(from_afar, script=script) as newcomer:
            unknown = f"{link.partition('/a/')[0]}/callback/x"
            assert (await newcomer.request("POST", f"{unknown}?state=made-up", data={"answer": ""})).status == 429
            assert (await newcomer.sign_in(link)).heading == "notes is connected"


# -- connections -----------------------------------------------------------------------------


@pytest.fixture
def counts_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """This computer counts as any other: the tests have no other."""
    for module in (loopback, limits, guards):
        monkeypatch.setattr(module, "is_loopback_host", lambda host: False)


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE) == b""
    except ConnectionError:
        return True


@pytest.mark.usefixtures("counts_loopback")
async def test_attack_one_address_has_so_many_connections(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loopback, "CONNECTIONS_OF_ONE", 5)
    async with public_gateway(tmp_path, notes(oauth), trusted_proxies=()) as gateway:
        await gateway.auth.listen()
        held = [await connect(gateway) for _ in range(5)]
        refused = [await connect(gateway) for _ in range(5)]
        for _, writer in refused:
            # One that only waited would be answered.
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert all([await is_closed(reader) for reader, _ in refused])
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        while True:
            reader, writer = await connect(gateway)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            if (await reader.read()).startswith(b"HTTP/1.1 200"):
                break


async def test_connections_that_wait_make_room_for_new_ones_the_oldest_first(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loopback, "CONNECTIONS_WAITING", 5)
    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        await gateway.auth.listen()
        waiting = [await connect(gateway) for _ in range(20)]
        assert all([await is_closed(reader) for reader, _ in waiting[:15]])
        reader, writer = waiting[-1]
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), PATIENCE)).startswith(b"HTTP/1.1 200")


async def test_connections_of_trusted_proxies_are_everybody_s() -> None:
    connections = loopback._Connections(("10.0.0.0/8", "fd00::/8"))
    assert [connections.key(one) for one in ("127.0.0.1", "::1", "10.1.2.3", "::ffff:10.1.2.3", "fd00::7")] == [""] * 5
    assert connections.key("203.0.113.9") == "203.0.113.9"
    assert connections.key("2001:db8::9") == "2001:db8::/64"


DRIPS = {
    "headers": (b"", b"X-A: a\r\n"),
    "a request line": (b"", b"G"),
    "a body": (b"POST /a/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "a body for a page that reads none": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "chunks": (b"POST /hooks/test HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "after an answer": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"G"),
    "nothing at all": (b"", b""),
}


@pytest.mark.parametrize("first", DRIPS)
async def test_attack_one_deadline_ends_a_request_that_drips(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr(loopback, "REQUEST_SECONDS", 0.5)
    begin, drop = DRIPS[first]

    async def never(scope: Any, receive: Any, send: Any) -> None:
        try:
            await Request(scope, receive).body()
        except ClientDisconnect:
            return

    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        gateway.mount("/hooks/test", never)
        await gateway.auth.listen()
        reader, writer = await connect(gateway)
        writer.write(begin)

        async def drip() -> None:
            while True:
                writer.write(drop)
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        try:
            # Whatever was answered before, the connection ends.
            await asyncio.wait_for(reader.read(), PATIENCE)
        except ConnectionError:
            pass
        finally:
            dripping.cancel()


# -- two lengths, and browsers that come without TLS -----------------------------------------


@pytest.mark.parametrize("path", ["/a/x", "/healthz", "/hooks/test", "/callback/x?code=1&state=2"])
@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 0\r\n",
        b"Content-Length: 4\r\nTransfer-Encoding: identity\r\n",
    ],
)
async def test_attack_a_request_of_two_lengths_is_refused_and_closed(
    tmp_path: Path, oauth: OAuthServer, path: str, lengths: bytes
) -> None:
    called: list[str] = []

    async def hook(scope: Any, receive: Any, send: Any) -> None:
        called.append(scope["path"])
        await PlainTextResponse("taken")(scope, receive, send)

    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        gateway.mount("/hooks/test", hook)
        await gateway.auth.listen()
        reader, writer = await connect(gateway)
        writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\n".encode() + lengths + b"\r\n0\r\n\r\n")
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
    assert answer.split()[1] in (b"400", b"501")
    assert answer.count(b"HTTP/1.1 ") == 1, "what follows is not read"
    assert called == []


@pytest.mark.parametrize("path", ["/a/x", "/healthz", "/hooks/test", "/nowhere", "/callback/x"])
@pytest.mark.parametrize(
    ("url", "sent"), [("https://bot.test", "max-age=31536000"), ("https://bot.test/mcp", "max-age=31536000")]
)
async def test_browsers_are_told_to_come_with_tls_only(
    tmp_path: Path, oauth: OAuthServer, path: str, url: str, sent: str | None
) -> None:
    async with public_gateway(tmp_path, notes(oauth), public_url=url) as gateway:
        gateway.auth.mount("/hooks/test", PlainTextResponse("taken"))
        async with at(gateway, "203.0.113.9") as visitor:
            answer = await visitor.get(path)
            assert answer.headers.get("strict-transport-security") == sent
            assert answer.headers.get_list("strict-transport-security") == [sent]


async def test_on_plain_http_nobody_is_told_so(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, at(gateway, "203.0.113.9") as visitor:
        assert "strict-transport-security" not in (await visitor.get("/healthz")).headers


# -- webhooks --------------------------------------------------------------------------------


class Hook:
    """Reads the whole body, as every platform's does, and then looks at the signature."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.reading = self.most = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.reading += 1
        self.most = max(self.most, self.reading)
        try:
            body = await request.body()
        except ClientDisconnect:
            body = None
        finally:
            self.reading -= 1
        if body is None:
            answer = PlainTextResponse("too large", 413)
        else:
            self.sizes.append(len(body))
            answer = PlainTextResponse("", 200 if request.headers.get("x-signature") == "good" else 401)
        await answer(scope, receive, send)


async def test_attack_calls_without_a_signature_shut_out_no_signed_ones_from_the_same_address(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    """Anybody can have Telegram's own servers call here, with a bot of theirs."""
    hook = Hook()
    signed = {"x-signature": "good"}
    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        gateway.mount("/hooks/test", hook)
        async with at(gateway, "203.0.113.9") as servers:
            wrong = [(await servers.post("/hooks/test", content=b"x")).status_code for _ in range(60)]
            right = [(await servers.post("/hooks/test", content=b"x", headers=signed)).status_code for _ in range(300)]
    assert set(wrong) == {401}
    assert set(right) == {200}


async def body_until(go: asyncio.Event) -> AsyncIterator[bytes]:
    """A body of which the rest comes when it may."""
    yield b"x"
    await go.wait()
    yield b"x"


async def test_attack_an_address_with_many_refused_calls_has_one_body_read_at_a_time(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    hook = Hook()
    go = asyncio.Event()

    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        gateway.mount("/hooks/test", hook)
        async with at(gateway, "203.0.113.9") as stranger, at(gateway, "192.0.2.1") as platform:
            for _ in range(limits.REFUSED_HOOKS.amount):
                assert (await stranger.post("/hooks/test", content=b"x")).status_code == 401
            held = asyncio.create_task(stranger.post("/hooks/test", content=body_until(go)))
            async with asyncio.timeout(PATIENCE):
                while hook.reading < 1:
                    await asyncio.sleep(0.01)
            refused = await stranger.post("/hooks/test", content=b"x")
            elsewhere = await platform.post("/hooks/test", content=b"x", headers={"x-signature": "good"})
            go.set()
            assert (await held).status_code == 401
            after = await stranger.post("/hooks/test", content=b"x", headers={"x-signature": "good"})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert (elsewhere.status_code, after.status_code) == (200, 200)


@pytest.mark.parametrize("has_length", [True, False])
async def test_attack_the_body_of_a_call_is_bounded(tmp_path: Path, oauth: OAuthServer, has_length: bool) -> None:
    hook = Hook()
    size = guards.HOOK_BODY + 1

    async def pieces() -> Any:
        for _ in range(size // 65_536 + 1):
            yield b"x" * 65_536

    async with public_gateway(tmp_path, notes(oauth)) as gateway, at(gateway, "203.0.113.9") as stranger:
        gateway.mount("/hooks/test", hook)
        answer = await stranger.post("/hooks/test", content=b"x" * size if has_length else pieces())
        assert answer.status_code == 413
        assert hook.sizes == []
        # What says beforehand that it is too large is not even begun.
        assert hook.most == (0 if has_length else 1)
        assert (await stranger.post("/hooks/test", content=b"x" * 3_000_000)).status_code == 401


async def test_attack_so_many_bodies_of_calls_are_held_at_a_time(tmp_path: Path, oauth: OAuthServer) -> None:
    hook = Hook()
    go = asyncio.Event()

    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        gateway.mount("/hooks/test", hook)
        app = gateway.auth.asgi_app()
        statuses: Counter[int] = Counter()

        async def call(address: str) -> None:
            transport = httpx2.ASGITransport(app=app, client=(address, 1))
            async with httpx2.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
                statuses[(await client.post("/hooks/test", content=body_until(go))).status_code] += 1

        calls = [asyncio.create_task(call(f"203.0.113.{n // 12}")) for n in range(120)]
        while sum(statuses.values()) + hook.reading < 120:
            await asyncio.sleep(0.01)
        assert hook.most == guards.HOOKS_READ
        go.set()
        await asyncio.gather(*calls)
        assert statuses == {401: guards.HOOKS_READ, 503: 120 - guards.HOOKS_READ}


async def test_attack_calls_of_a_webhook_are_counted_for_each_address(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "HOOKS", THREE)
    hook, signed = Hook(), {"x-signature": "good"}
    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        gateway.mount("/hooks/test", hook)
        async with (
            at(gateway, "203.0.113.9") as one,
            at(gateway, "192.0.2.1") as other,
            at(gateway, "127.0.0.1") as here,
        ):
            calls = [await one.post("/hooks/test", content=b"x", headers=signed) for _ in range(4)]
            assert [call.status_code for call in calls] == [200, 200, 200, 429]
            assert 1 <= int(calls[-1].headers["Retry-After"]) <= 60
            assert len(hook.sizes) == 3
            assert (await other.post("/hooks/test", content=b"x", headers=signed)).status_code == 200
            # A proxy here that is not trusted would be everybody
            assert {(await here.post("/hooks/test", content=b"x")).status_code for _ in range(4)} == {401}


async def test_attack_slow_bodies_at_one_webhook_keep_no_other_platform_waiting(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    slow, quick = Hook(), Hook()
    go = asyncio.Event()
    signed = {"x-signature": "good"}

    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        gateway.mount("/hooks/slow", slow)
        gateway.mount("/hooks/quick", quick)
        app = gateway.auth.asgi_app()

        async def call(address: str, path: str, body: Any) -> int:
            transport = httpx2.ASGITransport(app=app, client=(address, 1))
            async with httpx2.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
                return (await client.post(path, content=body, headers=signed)).status_code

        addresses = [f"203.0.113.{n}" for n in range(guards.HOOKS_READ)]
        calls = [asyncio.create_task(call(one, "/hooks/slow", body_until(go))) for one in addresses]
        async with asyncio.timeout(PATIENCE):
            while slow.reading < guards.HOOKS_READ:
                await asyncio.sleep(0.01)
        assert await call("192.0.2.1", "/hooks/slow/below", b"x") == 503
        for address in ("192.0.2.1", addresses[0], "127.0.0.1"):
            assert await call(address, "/hooks/quick", b"x") == 200
        go.set()
        assert set(await asyncio.gather(*calls)) == {200}
        assert await call("192.0.2.1", "/hooks/slow", b"x") == 200


# -- made-up links ---------------------------------------------------------------------------


def sizes() -> dict[tuple[str, int], int]:
    """How many things each container of ours holds."""
    found = {}
    for thing in gc.get_objects():
        if isinstance(thing, dict | set | list) and len(thing) > 100:
            found[type(thing).__name__, id(thing)] = len(thing)
    return found


def made_up() -> Iterator[Callable[[], str]]:
    yield lambda: f"/a/{secrets.token_urlsafe(48)}"
    yield lambda: f"/k/{secrets.token_urlsafe(48)}"
    yield lambda: f"/a/{secrets.token_urlsafe(48)}/login/{secrets.token_hex(8)}"
    yield lambda: f"/callback/{secrets.token_hex(16)}?code=x&state={secrets.token_hex(16)}.{secrets.token_urlsafe(32)}"
    yield lambda: f"/{secrets.token_hex(8)}?code=x&state={secrets.token_hex(16)}.{secrets.token_urlsafe(32)}"
    yield lambda: f"/client/{secrets.token_hex(16)}.json"
    yield lambda: f"/a/{secrets.token_urlsafe(32)}"


@pytest.mark.parametrize("number", range(7))
async def test_attack_nothing_grows_with_made_up_links_and_answers(
    tmp_path: Path, oauth: OAuthServer, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = list(made_up())[number]
    monkeypatch.setattr(durable, "_PATHS_KEPT", 200)
    callback = CallbackOptions(port=free_port())
    config = configure(tmp_path, notes(oauth), allow=(str(ANN),), public_url="https://bot.test", callback=callback)
    async with open_gateway(config, FileStore(tmp_path)) as gateway:
        await link_of(Chat(gateway, ANN))
        async with at(gateway, "127.0.0.1") as visitor:
            for _ in range(150):
                await visitor.get(make())
            gc.collect()
            before, stored = sizes(), len(list(gateway.config.home.rglob("*")))
            for _ in range(300):
                await visitor.get(make())
            gc.collect()
            after = sizes()
        grown = {key: (before[key], size) for key, size in after.items() if size >= before.get(key, size) + 150}
        assert grown == {}
        assert len(list(gateway.config.home.rglob("*"))) == stored
