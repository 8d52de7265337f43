"""Every page and outcome of the public endpoint in a real browser: phone and desktop, with and without JavaScript.

With `SLASH_MCP_SCREENSHOTS=docs/images` the pictures of the documentation are taken anew.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route
from starlette.responses import PlainTextResponse

from adapters.telegram.login import TelegramLogin
from gateway.gateway import Gateway
from mcp_auth.config.models import OAuthOptions, Server
from tests.attacks.scene import KEY
from tests.e2e.background import Background
from tests.gateway.chat import Chat
from tests.homes import Clock
from tests.patience import PATIENCE
from tests.public import ANN, key_link_of, link_of, public_gateway
from tests.servers.oauth import OAuthServer, authorize

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[2]
AXE = ROOT / ".cache/node/node_modules/axe-core/axe.min.js"
# WCAG 2.2, 1.4.10: nothing scrolls sideways at this width.
SMALLEST: Any = {"width": 320, "height": 568}
SIZES: dict[str, Any] = {"phone": {"width": 390, "height": 844}, "desktop": {"width": 1280, "height": 800}}


@pytest.fixture
def background() -> Iterator[Background]:
    with Background() as running:
        yield running


@dataclass
class Walker:
    """One person with one browser, who looks at every page that comes."""

    chromium: Browser
    size: str
    javascript: bool
    pictures: Path
    dark: bool = False
    errors: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def browser(self) -> BrowserContext:
        return self.chromium.new_context(
            viewport=SIZES[self.size],
            color_scheme="dark" if self.dark else "light",
            java_script_enabled=self.javascript,
            device_scale_factor=2 if self.size == "phone" else 1,
            is_mobile=self.size == "phone",
            has_touch=self.size == "phone",
        )

    def page(self, context: BrowserContext | None = None) -> Page:
        page = (context or self.browser()).new_page()
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        return page

    def _heard(self, message: ConsoleMessage) -> None:
        # A page with a status such as 403 is no fault; a refused style or script is.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)

    def look(self, page: Page, heading: str, name: str) -> None:
        """The page is the expected one, fits the window, can be used by everybody, and has its picture taken."""
        page.get_by_role("heading", name=heading, exact=True).wait_for()
        self.seen.append(name)
        self._check_fits(page, name)
        if self.size == "phone":
            page.set_viewport_size(SMALLEST)
            self._check_fits(page, name)
            page.set_viewport_size(SIZES["phone"])
        assert page.get_by_role("main").count() == 1
        assert page.title() == heading
        if self.javascript:
            self._check_accessibility(page, name)
        shade = "-dark" if self.dark else ""
        page.screenshot(path=self.pictures / f"page-{name}-{self.size}{shade}.png", animations="disabled")

    def _check_fits(self, page: Page, name: str) -> None:
        width = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert width[0] <= width[1], f"{name} is wider than the window"

    def _check_accessibility(self, page: Page, name: str) -> None:
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']})")
        serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical", "moderate")]
        told = [(one["id"], one["help"], [node["html"][:200] for node in one["nodes"]]) for one in serious]
        assert told == [], f"{name}: {json.dumps(told, indent=1)}"
        for node in page.locator("a.button, button, input:not([type=hidden])").all():
            box = node.bounding_box()
            assert box is not None
            assert box["height"] >= 20, f"{name}: too small to be tapped"


def pictures(tmp_path: Path) -> Path:
    """Where pictures go: the documentation's folder on request, else away."""
    wanted = os.environ.get("SLASH_MCP_SCREENSHOTS")
    return ROOT / wanted if wanted else tmp_path


def gateway_for(background: Background, home: Path, oauth: OAuthServer, clock: Clock, **gateway: Any) -> Gateway:
    servers = (
        Server(name="notes", url=oauth.url, auth="oauth", oauth=OAuthOptions()),
        Server(name="my-api", url=f"{oauth.url}?api", headers={"Authorization": "Bearer ${MY_API_KEY}"}),
    )
    return background.enter(public_gateway(home, *servers, clock=clock, **gateway))


@pytest.mark.parametrize("size", list(SIZES))
def test_a_person_walks_every_page_of_a_sign_in(
    chromium: Browser, background: Background, tmp_path: Path, oauth: OAuthServer, size: str
) -> None:
    oauth.knobs.id_token_claims = {"email": "ada@example.com"}
    clock = Clock()
    gateway = gateway_for(background, tmp_path / "home", oauth, clock, verify="code")
    gateway.carry_codes("telegram", lambda code: f"https://t.me/example_bot?start=mcp-confirm-{code}")
    walker = Walker(chromium, size, True, pictures(tmp_path))
    chat = background.run(named(gateway))

    context = walker.browser()
    page = walker.page(context)
    link = background.run(link_of(chat))
    page.goto(link)
    walker.look(page, "Sign in to notes", "start")
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Continue"
    assert page.locator(":focus").evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    walker.look(page, "Is it you?", "code")
    button = page.get_by_role("link", name="Confirm in Telegram").get_attribute("href") or ""
    code = button.rpartition("mcp-confirm-")[2]
    assert re.fullmatch(r"[A-Z0-9]{8}", code)

    assert page.locator(":focus").inner_text() == "Is it you?"
    other = walker.page()
    other.goto(link)
    walker.look(other, "This goes on in another browser", "other-browser")
    tab = walker.page(context)
    tab.goto(link)
    tab.get_by_role("link", name="Confirm in Telegram").wait_for()
    assert code in (tab.get_by_role("link", name="Confirm in Telegram").get_attribute("href") or "")
    tab.close()

    clock.ahead = 301
    page.get_by_role("button", name="Show a new code").wait_for()
    walker.look(page, "Is it you?", "code-over")
    page.get_by_role("button", name="Show a new code").click()
    page.get_by_role("link", name="Confirm in Telegram").wait_for()
    code = (page.get_by_role("link", name="Confirm in Telegram").get_attribute("href") or "").rpartition("-")[2]

    with page.expect_navigation(url="**/callback/**"):
        # Nobody touches the page: it goes on by itself.
        assert background.run(chat.say(f"confirm {code}"))[0].ok
    walker.look(page, "notes is connected", "connected")
    # The code of the authorization server stands in no address that is kept.
    assert page.url == link
    assert page.get_by_text("ada@example.com").is_visible()
    assert page.get_by_role("definition").last.inner_text() == "3"
    page.reload()
    walker.look(page, "notes is connected", "connected")
    assert len(oauth.requests("/token")) == 1
    # The authorization server learns no ticket.
    assert [seen.headers.get("referer") for seen in oauth.requests("/authorize")] == [None]

    other.goto(link)
    walker.look(other, "This link was used before", "used")
    assert [cookie["name"] for cookie in context.cookies() if not cookie["name"].endswith("-form")] == []
    background.run(call_a_tool(gateway))
    assert walker.errors == []


def test_an_answer_that_does_not_get_through_is_not_lost_when_the_page_is_loaded_again(
    chromium: Browser, background: Background, tmp_path: Path, oauth: OAuthServer
) -> None:
    gateway = gateway_for(background, tmp_path / "home", oauth, Clock(), verify="none")
    walker = Walker(chromium, "phone", True, pictures(tmp_path))
    page = walker.page(walker.browser())

    def refuse(route: Route) -> None:
        if route.request.method == "POST":
            route.abort()
        else:
            route.continue_()

    page.route("**/callback/**", refuse)
    link = background.run(link_of(background.run(named(gateway))))
    page.goto(link)
    page.get_by_role("button", name="Continue").click()
    page.locator("#trouble:not([hidden])").wait_for()
    # The code is in the address for as long as nobody has taken it.
    assert "/callback/" in page.url and "code=" in page.url
    page.unroute("**/callback/**")
    page.reload()
    page.get_by_role("heading", name="notes is connected").wait_for()
    assert page.url == link


@pytest.mark.parametrize("size", list(SIZES))
def test_a_person_without_javascript_proves_it_on_the_last_page(
    chromium: Browser, background: Background, tmp_path: Path, oauth: OAuthServer, size: str
) -> None:
    oauth.knobs.id_token_claims = {"email": "ada@example.com"}
    clock = Clock()
    gateway = gateway_for(background, tmp_path / "home", oauth, clock, verify="code")
    walker = Walker(chromium, size, False, pictures(tmp_path))
    chat = background.run(named(gateway))
    page = walker.page()
    link = background.run(link_of(chat))
    page.goto(link)
    walker.look(page, "Sign in to notes", "start-plain")
    page.get_by_role("button", name="Continue").click()
    walker.look(page, "Is it you?", "last-code")
    assert "/callback/" in page.url

    page.get_by_role("button", name="Finish").click()
    page.get_by_role("alert").wait_for()
    walker.look(page, "Is it you?", "last-pending")
    clock.ahead = 301
    page.get_by_role("button", name="Finish").click()
    page.get_by_role("alert").wait_for()
    code = page.locator(".code span").first.inner_text()
    assert background.run(chat.say(f"confirm {code}"))[0].ok

    page.get_by_role("button", name="Finish").click()
    walker.look(page, "notes is connected", "connected-plain")
    assert page.url == link
    page.reload()
    walker.look(page, "notes is connected", "connected-plain")
    for _ in range(3):
        page.go_back()
        walker.look(page, "notes is connected", "connected-plain")
    assert len(oauth.requests("/token")) == 1
    assert walker.errors == []


def test_what_the_browser_blocks_is_said(
    chromium: Browser, background: Background, tmp_path: Path, oauth: OAuthServer
) -> None:
    """Without storage a browser goes the way of those without script; without cookies, too, it can go none."""
    gateway = gateway_for(background, tmp_path / "home", oauth, Clock(), verify="code")
    walker = Walker(chromium, "phone", True, pictures(tmp_path))
    chat = background.run(named(gateway))
    context = walker.browser()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError') }})"
    )
    page = walker.page(context)
    page.goto(background.run(link_of(chat)))
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Finish").wait_for()
    code = page.locator(".code span").first.inner_text()
    assert background.run(chat.say(f"confirm {code}"))[0].ok
    page.get_by_role("button", name="Finish").click()
    walker.look(page, "notes is connected", "connected-no-storage")

    context.add_init_script("Object.defineProperty(navigator, 'cookieEnabled', {get: () => false})")
    page.goto(background.run(link_of(chat)))
    page.get_by_role("alert").wait_for()
    walker.look(page, "Sign in to notes", "no-cookies")
    context.clear_cookies()
    page.get_by_role("button", name="Continue").click()
    page.get_by_text("This browser sent no cookie back").wait_for()
    walker.look(page, "Sign in to notes", "no-cookies-sent")
    assert walker.errors == []


async def named(gateway: Gateway) -> Chat:
    chat = Chat(gateway, ANN)
    chat.display_name = "Ann Example"
    return chat


async def call_a_tool(gateway: Gateway) -> None:
    async with gateway.auth.session("notes") as session:
        assert (await session.call_tool("add", {})).is_error is not True


@pytest.mark.parametrize("javascript", [True, False], ids=["javascript", "no-javascript"])
@pytest.mark.parametrize("size", list(SIZES))
def test_a_person_meets_every_other_outcome(
    chromium: Browser, background: Background, tmp_path: Path, oauth: OAuthServer, size: str, javascript: bool
) -> None:
    clock = Clock()
    gateway = gateway_for(background, tmp_path / "home", oauth, clock)
    walker = Walker(chromium, size, javascript, pictures(tmp_path))
    chat = background.run(named(gateway))
    page = walker.page()

    def begin() -> str:
        link = background.run(link_of(chat))
        page.goto(link)
        return link

    oauth.knobs.authorize_error = {"error": "access_denied", "error_description": "You chose not to share"}
    begin()
    page.get_by_role("button", name="Continue").click()
    walker.look(page, "notes is not connected", "refused")
    page.reload()
    walker.look(page, "notes is not connected", "refused")

    oauth.knobs.authorize_error = {"error": "server_error"}
    begin()
    page.get_by_role("button", name="Continue").click()
    walker.look(page, "notes is not connected", "error")
    oauth.knobs.authorize_error = None

    oauth.knobs.token_answers = [PlainTextResponse("no", 500)]
    begin()
    page.get_by_role("button", name="Continue").click()
    if not javascript:
        walker.look(page, "Finish the sign-in?", "last")
        page.get_by_role("button", name="Finish").click()
    walker.look(page, "notes is not connected", "no-token")

    begin()
    page.get_by_role("button", name="Continue").wait_for()
    clock.ahead = 601
    page.get_by_role("button", name="Continue").click()
    walker.look(page, "This link has expired", "expired")
    clock.ahead = 0

    link = begin()
    background.run(chat.say("cancel notes"))
    page.goto(link)
    walker.look(page, "This was cancelled", "cancelled")

    page.goto(f"{gateway.config.gateway.public_url}/a/{'A' * 64}")
    walker.look(page, "Nothing is here", "unknown-link")
    page.goto(f"{gateway.config.gateway.public_url}/nothing")
    walker.look(page, "Nothing is here", "nothing")

    begin()
    page.route("**/authorize?**", lambda route: route.fulfill(status=204))
    page.get_by_role("button", name="Continue").click()
    walker.look(page, "On to 127.0.0.1", "go")
    page.unroute("**/authorize?**")
    answered = oauth.knobs.token_gate = threading.Event()
    oauth.forget()
    redirect = authorize(page.get_by_role("link", name="Go on").get_attribute("href") or "")
    first = walker.page(page.context)
    first.goto(redirect)
    if not javascript:
        first.get_by_role("button", name="Finish").click(no_wait_after=True)
    background.run(wait_for(lambda: bool(oauth.requests("/token"))))
    # The same browser asks again while the first answer is under way, as people do who open the link once more.
    page.goto(redirect)
    if javascript:
        walker.look(page, "Finishing the sign-in", "working")
    else:
        # It asks again by itself, and no picture is taken of a page that is on its way to the next.
        page.get_by_role("heading", name="Finishing the sign-in").wait_for()
    answered.set()
    page.get_by_role("heading", name="notes is connected").wait_for()
    first.get_by_role("heading", name="notes is connected").wait_for()
    assert len(oauth.requests("/token")) == 1
    assert walker.errors == []


async def wait_for(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("javascript", [True, False], ids=["javascript", "no-javascript"])
@pytest.mark.parametrize("size", list(SIZES))
def test_a_person_types_a_key(
    chromium: Browser, background: Background, tmp_path: Path, oauth: OAuthServer, size: str, javascript: bool
) -> None:
    oauth.knobs.api_key = KEY
    gateway = gateway_for(background, tmp_path / "home", oauth, Clock())
    walker = Walker(chromium, size, javascript, pictures(tmp_path))
    chat = background.run(named(gateway))
    page = walker.page()
    link = background.run(key_link_of(chat))
    page.goto(link)
    walker.look(page, "Enter a key for my-api", "key-start")
    page.get_by_role("button", name="Continue").click()
    field = page.get_by_label("MY_API_KEY")
    field.wait_for()
    walker.look(page, "Enter a key for my-api", "key")
    assert field.get_attribute("type") == "password"

    field.fill("sk-wrong")
    page.get_by_role("button", name="Try and store").click()
    page.get_by_role("alert").wait_for()
    walker.look(page, "Enter a key for my-api", "key-refused")
    assert field.input_value() == ""

    oauth.knobs.mcp_answers = [PlainTextResponse("", 503) for _ in range(2)]
    field.fill(KEY)
    page.keyboard.press("Enter")
    page.get_by_label("Store it although it cannot be tried now.").wait_for()
    walker.look(page, "Enter a key for my-api", "key-unreachable")

    field.fill(KEY)
    page.get_by_role("button", name="Try and store").click()
    walker.look(page, "The key for my-api is stored", "key-stored")

    other = walker.page()
    other.goto(link)
    walker.look(other, "This link was used before", "used")
    assert KEY not in page.content()


@pytest.mark.parametrize("size", list(SIZES))
def test_the_pages_in_the_dark(
    chromium: Browser, background: Background, tmp_path: Path, oauth: OAuthServer, size: str
) -> None:
    oauth.knobs.api_key = None
    oauth.knobs.challenge_scope = "notes:read https://api.example.com/auth/calendar.events.readonly offline_access"
    gateway = gateway_for(background, tmp_path / "home", oauth, Clock(), verify="code")
    walker = Walker(chromium, size, True, pictures(tmp_path), dark=True)
    chat = background.run(named(gateway))
    page = walker.page()
    page.goto(background.run(link_of(chat)))
    assert page.get_by_role("listitem").count() == 3
    walker.look(page, "Sign in to notes", "start")
    page.get_by_role("button", name="Continue").click()
    walker.look(page, "Is it you?", "code")
    background.run(chat.say("cancel"))
    walker.look(page, "This was cancelled", "cancelled")
    page.goto(background.run(key_link_of(chat)))
    page.get_by_role("button", name="Continue").click()
    walker.look(page, "Is it you?", "code")
    assert walker.errors == []


def test_telegrams_answer_behind_the_hash_is_read_by_our_own_script(
    chromium: Browser, background: Background, tmp_path: Path, oauth: OAuthServer
) -> None:
    """Telegram's own site cannot be reached from here; a page of this test stands where it would be."""
    import base64

    from tests.adapters.telegram.test_login import TOKEN, signed

    gateway = gateway_for(background, tmp_path / "home", oauth, Clock(), verify="browser")
    gateway.verify_by_login("telegram", TelegramLogin(TOKEN))
    walker = Walker(chromium, "phone", True, pictures(tmp_path))
    chat = background.run(named(gateway))
    context = walker.browser()
    answer = {**signed(ANN.user), "id": int(ANN.user)}
    packed = base64.urlsafe_b64encode(json.dumps(answer).encode()).decode().rstrip("=")

    def telegram(route: Any) -> None:
        from tests.homes import query_of

        back = query_of(route.request.url)["return_to"]
        route.fulfill(status=302, headers={"Location": f"{back}#tgAuthResult={packed}"})

    context.route("https://oauth.telegram.org/**", telegram)
    page = walker.page(context)
    page.goto(background.run(link_of(chat)))
    page.get_by_role("button", name="Continue").click()
    walker.look(page, "Is it you?", "login-only")
    page.get_by_role("link", name="Prove it with Telegram").click()
    walker.look(page, "Almost there", "login-back")
    assert "tgAuthResult" not in page.url
    page.get_by_role("button", name="Go on").click()
    walker.look(page, "notes is connected", "connected")
    assert walker.errors == []


def test_names_in_other_scripts_do_not_turn_the_page_around(
    chromium: Browser, background: Background, tmp_path: Path, oauth: OAuthServer
) -> None:
    gateway = gateway_for(background, tmp_path / "home", oauth, Clock(), verify="code")
    walker = Walker(chromium, "phone", True, tmp_path)
    chat = background.run(named(gateway))
    chat.display_name = "مريم العذراء " + "و" * 60
    page = walker.page()
    page.goto(background.run(link_of(chat)))
    walker.look(page, "Sign in to notes", "right-to-left")
    name = page.get_by_text("مريم", exact=False).first
    assert name.evaluate("node => getComputedStyle(node).direction") == "rtl"
    assert page.get_by_role("heading").evaluate("node => getComputedStyle(node).direction") == "ltr"
    page.get_by_role("button", name="Continue").click()
    walker.look(page, "Is it you?", "right-to-left-code")


def test_a_page_of_another_site_can_neither_frame_nor_send(
    chromium: Browser, background: Background, tmp_path: Path, oauth: OAuthServer
) -> None:
    gateway = gateway_for(background, tmp_path / "home", oauth, Clock())
    chat = background.run(named(gateway))
    link = background.run(link_of(chat))
    context = chromium.new_context()
    context.new_page().goto(link)
    evil = context.new_page()
    context.route(
        "http://evil.localhost/**",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f'<iframe src="{link}"></iframe><form method=post action="{link}">'
            "<input name=action value=continue><button>free money</button></form>",
        ),
    )
    # Loaded is a page when its frames are.
    evil.goto("http://evil.localhost/")
    assert [frame.url for frame in evil.frames[1:]] == ["chrome-error://chromewebdata/"]
    evil.get_by_role("button").click()
    evil.get_by_text("Check it once more").wait_for()
    assert oauth.requests("/authorize") == []
