"""Other services on the host of the public endpoint, in real browsers: two Chromium profiles, https, `__Host-` cookies.

A neighbour answers on another port of the same name. Cookies know no ports, so it can plant every one of the sender's
in the victim's browser. The victim then opens what was forwarded, and sees nothing but the provider's consent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import trustme
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page
from starlette.requests import Request

from gateway.gateway import Gateway
from gateway.invocations import Principal
from mcp_auth.config.models import CallbackOptions
from tests.attacks.scene import KEY, api, notes
from tests.e2e.background import Background
from tests.gateway.chat import Chat, words
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.public import ANN, BOB, key_link_of, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer

pytestmark = pytest.mark.service

CONTINUE = "Continue"


@pytest.fixture
def background() -> Iterator[Background]:
    with Background() as running:
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = trustme.CA().issue_cert("localhost")
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    made.private_key_and_cert_chain_pem.write_to_path(file)
    return file


@asynccontextmanager
async def answering(app: Any, port: int, certificate: Path) -> AsyncIterator[None]:
    """`app` over https, in the loop of the gateway."""
    config = uvicorn.Config(app, port=port, log_config=None, lifespan="off", ssl_certfile=certificate)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server._serve())
    async with asyncio.timeout(PATIENCE):
        while not server.started:
            await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True
        await task


async def neighbour(scope: Any, receive: Any, send: Any) -> None:
    """Another service on the host: it sets whatever its query says."""
    if scope["type"] != "http":
        return
    planted = parse_qsl(scope["query_string"].decode())
    cookies = [(b"set-cookie", f"{name}={value}; Path=/; Secure".encode()) for name, value in planted]
    headers = [(b"content-type", b"text/html"), *cookies]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"<h1>A game</h1>"})


class Scene:
    """The endpoint and its neighbour on `https://localhost`, and a browser profile for each of two people."""

    def __init__(
        self, chromium: Browser, background: Background, home: Path, oauth: OAuthServer, certificate: Path, **more: Any
    ) -> None:
        port, self.port = free_port(), free_port()
        oauth.knobs.api_key = None
        options = {"public_url": f"https://localhost:{port}", "callback": CallbackOptions(port=free_port()), **more}
        servers = (notes(oauth), api(oauth))
        oauth.knobs.api_key = None
        self.oauth, self.background, self.chromium = oauth, background, chromium
        self.gateway: Gateway = background.enter(public_gateway(home, *servers, **options))
        background.enter(answering(self.gateway.asgi_app(), port, certificate))
        background.enter(answering(neighbour, self.port, certificate))

    def profile(self, *, script: bool = True) -> BrowserContext:
        return self.chromium.new_context(ignore_https_errors=True, java_script_enabled=script)

    def held(self, context: BrowserContext, page: Page) -> str:
        """Where the page goes on to, which it is kept from: the authorization server's own address."""
        hold(context)
        with page.expect_request("**/authorize?**") as asked:
            page.get_by_role("button", name=CONTINUE).click(no_wait_after=True)
        context.unroute("**/authorize?**")
        return asked.value.url

    def plant(self, context: BrowserContext, cookies: dict[str, str]) -> None:
        page = context.new_page()
        page.goto(f"https://localhost:{self.port}/?" + "&".join(f"{name}={value}" for name, value in cookies.items()))
        assert {cookie["name"] for cookie in context.cookies()} >= set(cookies)
        page.close()

    def confirm(self, chat: Chat, code: str) -> str:
        return words(self.background.run(chat.say(f"confirm {code}"))[0])

    @property
    def exchanged(self) -> int:
        return len(self.oauth.requests("/token"))


@pytest.fixture
def scene(chromium: Browser, background: Background, tmp_path: Path, oauth: OAuthServer, certificate: Path) -> Scene:
    return Scene(chromium, background, tmp_path / "home", oauth, certificate, **team())


def hold(context: BrowserContext) -> None:
    """Keep the browser from the authorization server."""
    context.route("**/authorize?**", lambda route: route.abort())


async def chat_of(gateway: Gateway, who: Principal) -> Chat:
    return Chat(gateway, who)


def cookies_of(context: BrowserContext) -> dict[str, str]:
    return {cookie["name"]: cookie["value"] for cookie in context.cookies()}


def code_on(page: Page) -> str:
    page.locator(".code span").first.wait_for()
    return page.locator(".code span").first.inner_text()


def test_port_a_neighbours_cookies_bind_no_browser(scene: Scene) -> None:
    """Proven by the sender in their own browser, then forwarded behind the provider's address."""
    sender, victim = scene.profile(), scene.profile()
    chat = scene.background.run(chat_of(scene.gateway, ANN))
    page = sender.new_page()
    page.goto(scene.background.run(link_of(chat)))
    page.get_by_role("button", name=CONTINUE).click()
    code = code_on(page)
    kept = page.evaluate("Object.entries(localStorage)")
    assert len(kept) == 2
    hold(sender)
    with page.expect_request("**/authorize?**") as asked:
        assert "that is you" in scene.confirm(chat, code)
    planted = {name.replace(" ", "-"): value.replace("/", "") for name, value in kept} | cookies_of(sender)
    planted |= {f"__Host-slash-mcp-{name}": value for name, value in kept if " " not in name}
    scene.plant(victim, planted)

    stolen = victim.new_page()
    stolen.goto(asked.value.url)

    stolen.get_by_role("heading", name="This goes on in another browser").wait_for()
    assert scene.exchanged == 0
    assert stolen.evaluate("localStorage.length") == 0
    # The same way in a window of the neighbour's, and in the sender's own page.
    opener = victim.new_page()
    opener.goto(f"https://localhost:{scene.port}/")
    with opener.expect_popup() as popped:
        opener.evaluate("address => { window.open(address) }", asked.value.url)
    popped.value.get_by_role("heading", name="This goes on in another browser").wait_for()
    assert scene.exchanged == 0


def test_downgrade_a_sender_without_script_gets_no_further(scene: Scene) -> None:
    sender, victim = scene.profile(script=False), scene.profile()
    attacker = scene.background.run(chat_of(scene.gateway, ANN))
    bob = scene.background.run(chat_of(scene.gateway, BOB))
    page = sender.new_page()
    page.goto(scene.background.run(link_of(attacker)))
    address = scene.held(sender, page)
    scene.plant(victim, {name: value for name, value in cookies_of(sender).items() if name.startswith("__Host-")})
    # The sender makes a last page of their own beforehand, and confirms it.
    own = sender.new_page()
    own.goto(address)
    assert "that is you" in scene.confirm(attacker, code_on(own))

    stolen = victim.new_page()
    stolen.goto(address)

    stolen.get_by_role("heading", name="Is it you?").wait_for()
    assert stolen.get_by_text("will get access to notes").is_visible()
    assert scene.exchanged == 0
    stolen.get_by_role("button", name="Finish").click()
    stolen.get_by_role("alert").wait_for()
    own.get_by_role("button", name="Finish").click()
    own.get_by_role("heading", name="Not signed in").wait_for()
    assert scene.exchanged == 0
    # A victim who types it is another person.
    assert "whoever sent you that link" in scene.confirm(bob, code_on(stolen))
    stolen.get_by_role("button", name="Finish").click()
    stolen.get_by_role("heading", name="notes is not connected").wait_for()
    assert scene.exchanged == 0


def test_downgrade_a_key_form_without_script_shows_its_code_to_nobody_else(scene: Scene) -> None:
    scene.oauth.knobs.api_key = KEY
    sender, victim = scene.profile(script=False), scene.profile(script=False)
    attacker = scene.background.run(chat_of(scene.gateway, ANN))
    link = scene.background.run(key_link_of(attacker))
    mine = sender.new_page()
    mine.goto(link)
    scene.plant(victim, cookies_of(sender))

    stolen = victim.new_page()
    stolen.goto(link)
    stolen.get_by_role("button", name=CONTINUE).click()
    code_on(stolen)
    mine.get_by_role("button", name=CONTINUE).click()

    mine.get_by_role("heading", name="This goes on in another browser").wait_for()
    mine.goto(link)
    mine.get_by_role("heading", name="This goes on in another browser").wait_for()
    assert mine.locator(".code").count() == 0


def test_hook_a_planted_session_of_the_host_application_is_no_proof(scene: Scene) -> None:
    """Under `verify: auto` the code is asked for, whoever's session of the application lies in the browser."""

    async def who_is_there(request: Request) -> Principal | None:
        return ANN if request.cookies.get("session") == "of-the-sender" else None

    scene.gateway.verify_browser(who_is_there)
    victim = scene.profile()
    attacker = scene.background.run(chat_of(scene.gateway, ANN))
    scene.plant(victim, {"session": "of-the-sender"})

    page = victim.new_page()
    page.goto(scene.background.run(link_of(attacker)))
    page.get_by_role("button", name=CONTINUE).click()

    page.get_by_role("heading", name="Is it you?").wait_for()
    code_on(page)
    assert scene.oauth.requests("/authorize") == []
    assert scene.exchanged == 0


def test_a_jar_that_a_neighbour_fills_ends_no_honest_sign_in(scene: Scene) -> None:
    mine = scene.profile()
    chat = scene.background.run(chat_of(scene.gateway, ANN))
    page = mine.new_page()
    page.goto(scene.background.run(link_of(chat)))
    page.get_by_role("button", name=CONTINUE).click()
    code = code_on(page)
    for first in range(0, 200, 50):
        scene.plant(mine, {f"fill{number}": "x" for number in range(first, first + 50)})
    assert not [name for name in cookies_of(mine) if name.startswith("__Host-")]

    assert "that is you" in scene.confirm(chat, code)

    page.get_by_role("heading", name="notes is connected").wait_for()
    assert scene.exchanged == 1


def test_two_tabs_one_link_and_a_double_click_are_one_browser(scene: Scene) -> None:
    mine = scene.profile()
    chat = scene.background.run(chat_of(scene.gateway, ANN))
    link = scene.background.run(link_of(chat))
    first, second = mine.new_page(), mine.new_page()
    for page in (first, second):
        page.goto(link)
    first.get_by_role("button", name=CONTINUE).dblclick()
    code = code_on(first)
    second.get_by_role("button", name=CONTINUE).click()
    assert code_on(second) == code
    first.reload()
    assert code_on(first) == code

    assert "that is you" in scene.confirm(chat, code)

    for page in (first, second):
        page.get_by_role("heading", name="notes is connected").wait_for()
    assert scene.exchanged == 1
