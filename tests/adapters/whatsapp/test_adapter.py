"""The adapter with the real pywa, against the loopback Cloud API."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import pytest_asyncio
from pywa_async import WhatsApp, filters
from pywa_async.types import Message
from starlette.applications import Starlette
from starlette.routing import Mount

from adapters.symbols import BAD, GOOD, WARN
from adapters.whatsapp.adapter import WEBHOOK, WhatsAppAdapter
from adapters.whatsapp.options import WhatsAppOptions
from adapters.whatsapp.webhook import BODY_MAX, Webhook
from gateway.gateway import Gateway
from gateway.invocations import ChatRef, Principal
from gateway.replies import Audience, Notice, Reply, Text
from mcp_auth.errors import ConfigError
from tests.browser import Browser
from tests.homes import write_home
from tests.patience import PATIENCE
from tests.platforms.whatsapp import WINDOW_SECONDS, CloudApi, Relay, cloud_api, listening, serving
from tests.ports import free_port
from tests.servers.oauth import OAuthServer

SERVERS = {
    "files": {"command": "never-started"},
    "weather": {"url": "http://127.0.0.1:9/mcp", "headers": {"Authorization": "Bearer ${WEATHER_KEY}"}},
}
BUSINESS_SCOPED = "whatsapp:US.13491208655302741918"
NUMBER = "whatsapp:16505551234"


# One event loop and two servers for all: starting and ending them takes longer than a test.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform() -> AsyncIterator[tuple[CloudApi, Relay]]:
    relay, bound = Relay(), listening()
    async with cloud_api() as running, serving(relay, bound):
        running.webhook = f"http://127.0.0.1:{bound.getsockname()[1]}{WEBHOOK}"
        yield running, relay


@pytest.fixture
def api(platform: tuple[CloudApi, Relay]) -> CloudApi:
    platform[0].reset()
    return platform[0]


@pytest.fixture
def relay(platform: tuple[CloudApi, Relay]) -> Relay:
    return platform[1]


class Pauses(list[float]):
    """Instead of waiting: how long it would have been."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0)


def options(api: CloudApi, **changes: Any) -> WhatsAppOptions:
    given = {
        "token": api.token,
        "phone_id": api.phone_id,
        "app_secret": api.app_secret,
        "verify_token": api.verify_token,
        "base_url": api.base_url,
    }
    return WhatsAppOptions(**{**given, **changes})


@contextlib.asynccontextmanager
async def bot(
    api: CloudApi,
    relay: Relay,
    folder: Path,
    pauses: Callable[[float], Awaitable[None]] | None = None,
    allow: Any = (BUSINESS_SCOPED,),
    **more: Any,
) -> AsyncIterator[WhatsAppAdapter]:
    """`/mcp` in a web application of somebody else's."""
    app = Starlette(routes=[Mount("/", app=Starlette())])
    gateway = Gateway.from_config(home=write_home(folder, SERVERS, {"allow": list(allow), **more}))
    adapter = WhatsAppAdapter(gateway, options=options(api), sleep=Pauses() if pauses is None else pauses)
    adapter.install(app)
    relay.app = app
    async with gateway:
        yield adapter
        await api.settled()
        await adapter.stop()


async def quiet(adapter: WhatsAppAdapter) -> None:
    """Until everything that was taken is done."""
    await adapter.idle()


# -- the webhook -------------------------------------------------------------------------------


async def test_metas_verification_is_answered_with_its_challenge(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    async with bot(api, relay, tmp_path):
        answer = await api.verify()
        assert (answer.status_code, answer.text) == (200, "1158201444")
        assert answer.headers["content-type"].startswith("text/plain")
        assert (await api.verify("wrong")).status_code == 403


@pytest.mark.parametrize(
    ("signature", "status"),
    [("", 401), ("sha256=", 401), ("sha1=" + "0" * 40, 401), ("sha256=é" + "0" * 63, 401), ("sha256=" + "0" * 64, 403)],
    ids=["none", "empty", "sha1", "not-ascii", "wrong"],
)
async def test_what_meta_did_not_sign_is_refused(
    api: CloudApi, relay: Relay, tmp_path: Path, signature: str, status: int
) -> None:
    async with bot(api, relay, tmp_path) as adapter:
        forged = api._envelope({"contacts": [api.ada.contact], "messages": [api.text("/mcp")]})

        assert (await api.post(forged, signature)).status_code == status

        await quiet(adapter)
        assert api.sent == []


async def test_odd_requests_are_refused(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    async with bot(api, relay, tmp_path):
        assert (await api.post(b"{}" * BODY_MAX)).status_code == 413
        assert (await api.post(b"[1]")).status_code == 400
        assert (await api.post(b"not json")).status_code == 400
        assert (
            await api.post({"object": "whatsapp_business_account", "entry": [{"changes": [{}]}]})
        ).status_code == 400


async def test_several_messages_in_one_delivery_are_all_answered(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    bob = api.person("16505550002", "US.2", name="Bob")
    async with bot(api, relay, tmp_path):
        await api.deliver(api.text("/mcp help"), api.text("/mcp", bob), api.text("/mcp"))

        assert (await api.message("/mcp logout")).to is api.ada
        assert (await api.message("MCP Servers")).to is api.ada
        assert (await api.message("do not know you yet")).to is bob


async def test_the_same_message_in_two_deliveries_is_answered_once(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    async with bot(api, relay, tmp_path) as adapter:
        message = api.text("/mcp help")
        await api.deliver(message)
        await api.deliver(message, api.text("hello"))
        await quiet(adapter)

        assert len(api.sent) == 1


# -- people ------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [BUSINESS_SCOPED, NUMBER])
async def test_a_person_is_allowed_by_id_or_by_number(
    api: CloudApi, relay: Relay, tmp_path: Path, allowed: str
) -> None:
    async with bot(api, relay, tmp_path, allow=[allowed]):
        await api.say("/mcp")
        sent = await api.message("MCP Servers")
        assert sent.payload["recipient"] == api.ada.user_id

        await api.tap(sent, "files")

        await api.message("never-started")


async def test_a_hidden_number_is_no_hindrance(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    api.ada.hides_number = True
    async with bot(api, relay, tmp_path):
        await api.say("/mcp")
        await api.message("MCP Servers")


async def test_a_delivery_without_business_scoped_ids_still_names_the_person(
    api: CloudApi, relay: Relay, tmp_path: Path
) -> None:
    async with bot(api, relay, tmp_path, allow=[NUMBER]):
        message = {name: value for name, value in api.text("/mcp").items() if name != "from_user_id"}
        contact = {"profile": {"name": "Ada"}, "wa_id": api.ada.wa_id}
        api.ada.wrote_at = time.time()

        await api.post(api._envelope({"contacts": [contact], "messages": [message]}))

        assert (await api.message("MCP Servers")).payload["to"] == api.ada.wa_id


async def test_a_forwarded_button_works_for_nobody_else(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    bob, eve = api.person("16505550002", "US.2", name="Bob"), api.person("16505550003", "US.3", name="Eve")
    async with bot(api, relay, tmp_path, allow=[BUSINESS_SCOPED, "whatsapp:US.2"], admins=[BUSINESS_SCOPED]):
        await api.say("/mcp")
        sent = await api.message("MCP Servers")

        await api.tap(sent, "files", bob)
        await api.tap(sent, "files", eve)

        assert (await api.message("made for somebody else")).to is bob
        assert (await api.message("do not know you yet")).to is eve
        assert not [one for one in api.sent if "never-started" in one.text and one.to is not api.ada]


# -- what cannot be sent -----------------------------------------------------------------------


def signed_in(api: CloudApi) -> Notice:
    reply = Reply((Text("notes: signed in, 2 tools", tone="good"),), audience=Audience.CALLER)
    chat = ChatRef("whatsapp", {"to": api.ada.user_id, "user": api.ada.user_id})
    return Notice(Principal("whatsapp", api.ada.user_id), chat, reply)


async def test_a_process_that_only_delivers_has_no_webhook(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    async with bot(api, relay, tmp_path) as adapter:
        await api.say("hello")
        await quiet(adapter)
        other = WhatsAppAdapter(adapter.gateway, options=options(api))
        async with other.connected():
            assert await other.notify(signed_in(api))
        await api.message("signed in")


@pytest.mark.parametrize("told_by", ["response", "webhook"])
async def test_after_24_hours_a_notice_waits_for_the_next_message(
    api: CloudApi, relay: Relay, tmp_path: Path, told_by: str, caplog: pytest.LogCaptureFixture
) -> None:
    api.window_errors = told_by
    async with bot(api, relay, tmp_path) as adapter:
        await api.say("hello")
        # What is late would be looked for at this word, and is not to be found then.
        await quiet(adapter)
        now = time.time() + WINDOW_SECONDS + 60
        api.clock = lambda: now

        await adapter.notify(signed_in(api))
        await api.settled()
        assert api.sent == []
        assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == [
            f"WhatsApp: a notice to whatsapp:{api.ada.user_id} was refused: "
            "the person has not written for 24 hours (131047)."
        ]

        await api.say("are you there?")
        sent = await api.message("signed in")
        assert sent.text == "Earlier, this could not be sent to you:\n\n✓ notes: signed in, 2 tools"

        await api.say("thanks")
        await quiet(adapter)
        assert len(api.sent) == 1


async def test_a_notice_waits_in_the_home_for_the_next_process(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    async with bot(api, relay, tmp_path) as adapter:
        await api.say("hello")
        # What is late would be looked for at this word, and is not to be found then.
        await quiet(adapter)
        now = time.time() + WINDOW_SECONDS + 60
        api.clock = lambda: now
        await adapter.notify(signed_in(api))
    (kept,) = (tmp_path / "home" / "whatsapp").glob("*.json")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert api.ada.user_id not in kept.name + kept.read_text()

    async with bot(api, relay, tmp_path):
        await api.say("are you there?")
        await api.message("Earlier, this could not be sent to you:\n\n✓ notes: signed in, 2 tools")
        await api.say("thanks")
    assert len(api.sent) == 1
    assert not list(kept.parent.glob("*.json"))


async def test_news_that_is_late_and_fails_again_goes_on_waiting(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    async with bot(api, relay, tmp_path) as adapter:
        await api.say("hello")
        # What is late would be looked for at this word, and is not to be found then.
        await quiet(adapter)
        now = time.time() + WINDOW_SECONDS + 60
        api.clock = lambda: now
        await adapter.notify(signed_in(api))
        # WhatsApp takes it, and says in a webhook what became of it.
        await api.settled()
        api.faults = [131026]
        await api.say("are you there?")
        await quiet(adapter)
        assert api.sent == []

    async with bot(api, relay, tmp_path):
        await api.say("and now?")
        sent = await api.message("signed in")
        assert sent.text.count("Earlier, this could not be sent to you") == 1


async def test_news_is_kept_when_the_process_ends_while_it_tries_again(
    api: CloudApi, relay: Relay, tmp_path: Path
) -> None:
    tried = asyncio.Event()

    async def for_ever(seconds: float) -> None:
        tried.set()
        await asyncio.Event().wait()

    async with bot(api, relay, tmp_path, for_ever) as adapter:
        api.faults = [130429]
        telling = asyncio.create_task(adapter.notify(signed_in(api)))
        await tried.wait()
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)

    async with bot(api, relay, tmp_path):
        await api.say("hello")
        await api.message("Earlier, this could not be sent to you:\n\n✓ notes: signed in, 2 tools")


async def test_who_was_shut_out_meanwhile_is_told_nothing(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    async with bot(api, relay, tmp_path) as adapter:
        await api.say("hello")
        # What is late would be looked for at this word, and is not to be found then.
        await quiet(adapter)
        now = time.time() + WINDOW_SECONDS + 60
        api.clock = lambda: now
        await adapter.notify(signed_in(api))

    async with bot(api, relay, tmp_path, allow=["whatsapp:US.2"]) as adapter:
        await api.say("hello")
        await quiet(adapter)
    assert api.sent == []


async def test_what_arrived_is_not_kept(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    api.statuses = True
    async with bot(api, relay, tmp_path) as adapter:
        await api.say("/mcp help")
        await api.message("/mcp logout")
        await api.settled()

        assert not adapter._watched


@pytest.mark.parametrize("fault", [130429, 80007, 131056, 131000, 2, "drop"])
async def test_what_passes_is_tried_again(api: CloudApi, relay: Relay, tmp_path: Path, fault: int | str) -> None:
    pauses = Pauses()
    async with bot(api, relay, tmp_path, pauses):
        api.faults = [fault, fault]
        await api.say("/mcp help")

        await api.message("/mcp logout")

        assert pauses == [1.0, 4.0]
        assert len(api.sent) == 1


@pytest.mark.parametrize(
    ("fault", "tries", "said"),
    [
        (130429, 4, "WhatsApp's rate limit (130429) did not pass"),
        (190, 1, "WhatsApp refuses the access token. Next: set a valid gateway.whatsapp.token"),
        (131026, 1, "WhatsApp answers 131026 MessageUndeliverable"),
        ("drop", 4, "WhatsApp cannot be reached (RemoteProtocolError)"),
    ],
    ids=str,
)
async def test_what_does_not_pass_is_one_clear_line_and_the_bot_goes_on(
    api: CloudApi,
    relay: Relay,
    tmp_path: Path,
    fault: int | str,
    tries: int,
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bot(api, relay, tmp_path) as adapter:
        api.faults = [fault] * tries
        await api.say("/mcp help")
        await quiet(adapter)

        assert [one.message for one in caplog.records if one.levelno >= logging.WARNING and said in one.message] != []
        ours = [one for one in caplog.records if one.name.startswith(("adapters", "gateway"))]
        assert len([one for one in ours if one.levelno >= logging.WARNING]) == 1
        assert api.token not in caplog.text
        assert api.requests == tries

        await api.say("/mcp")
        await api.message("Earlier, this could not be sent to you")
        await api.message("MCP Servers")


async def test_an_answer_that_got_lost_may_come_twice_but_comes(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    async with bot(api, relay, tmp_path) as adapter:
        api.faults = ["lost"]
        await api.say("/mcp help")
        await quiet(adapter)

        assert [one.text.splitlines()[0] for one in api.sent] == ["*What /mcp can do*"] * 2


async def test_a_slow_command_shows_that_it_was_read(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    async with bot(api, relay, tmp_path) as adapter:
        await api.say("/mcp auth")
        await quiet(adapter)

        assert [one["typing_indicator"] for one in api.read] == [{"type": "text"}]


async def test_a_key_typed_into_the_chat_goes_nowhere(
    api: CloudApi, relay: Relay, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with bot(api, relay, tmp_path) as adapter:
        await api.say("/mcp key weather sk-canary-1234567890")
        await api.message("it was not used and not stored")
        await api.say("/mcp key weather")
        shown = await api.message("Two ways")
        await quiet(adapter)

        assert "secrets_in_chat" not in shown.text
        assert "canary" not in caplog.text
        assert not [one for one in api.sent if "canary" in str(one.payload)]


# -- in somebody else's client -----------------------------------------------------------------


@contextlib.asynccontextmanager
async def host(api: CloudApi, relay: Relay, folder: Path) -> AsyncIterator[tuple[WhatsApp, Gateway, list[str]]]:
    """An assistant on pywa that hears every text."""
    wa = WhatsApp(
        phone_id=api.phone_id,
        token=api.token,
        server=None,
        verify_token=api.verify_token,
        app_secret=api.app_secret,
        continue_handling=True,
    )
    wa.api._session.base_url = f"{api.base_url}/v24.0"  # type: ignore[assignment]
    heard: list[str] = []

    @wa.on_message(filters.text)
    async def agent(_: WhatsApp, message: Message) -> None:
        heard.append(message.text or "")

    relay.app = Webhook(wa)
    gateway = Gateway.from_config(home=write_home(folder, SERVERS, {"allow": [BUSINESS_SCOPED]}))
    async with gateway:
        yield wa, gateway, heard


async def test_a_hosts_own_handlers_hear_everything_but_ours(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    async with host(api, relay, tmp_path) as (wa, gateway, heard):
        adapter = WhatsAppAdapter(gateway)
        adapter.install(wa)

        await api.say("/mcp")
        await api.message("MCP Servers")
        await api.say("!mcp help")
        await api.say("/mcplease")
        await api.say("https://example.org/?code=1&state=2")
        await quiet(adapter)
        assert heard == ["/mcplease", "https://example.org/?code=1&state=2"]

        await adapter.stop()
        await api.say("/mcp")
        assert heard[-1] == "/mcp"
        assert len(api.sent) == 2


async def test_what_cannot_be_judged_is_kept_from_the_host_and_the_answer_says_why(
    api: CloudApi, relay: Relay, tmp_path: Path
) -> None:
    async with host(api, relay, tmp_path) as (wa, gateway, heard):
        adapter = WhatsAppAdapter(gateway)
        adapter.install(wa)
        slot = await gateway.auth.store.sign_ins.slot("shared", "weather")
        # A name that leads to itself cannot be looked at.
        loop = gateway.config.home / "sign-ins" / f"{slot}.json"
        loop.symlink_to(loop)

        await api.say(f"http://127.0.0.1:8765/callback?code=canary&state={slot}.{'x' * 43}")
        await quiet(adapter)

        (answer,) = api.sent
        assert "Next: " in answer.text
        assert "canary" not in str(answer.payload)
        assert heard == []


@pytest.mark.parametrize("changes", [{"app_secret": None}, {"validate_updates": False}], ids=["no-secret", "off"])
async def test_a_client_that_checks_no_signature_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    gateway = Gateway.from_config(home=write_home(tmp_path, {}))
    wa = WhatsApp(phone_id="1", token="t", server=None, **{"app_secret": "s", **changes})

    with pytest.raises(ConfigError, match="signature"):
        WhatsAppAdapter(gateway).install(wa)


# -- on its own --------------------------------------------------------------------------------


def own_home(api: CloudApi, folder: Path, *, notes: str | None = None, **changes: Any) -> Path:
    port = free_port()
    section = {
        "token": "${WHATSAPP_TOKEN}",
        "phone_id": int(api.phone_id),
        "app_secret": "${WHATSAPP_APP_SECRET}",
        "verify_token": "${WHATSAPP_VERIFY_TOKEN}",
        "base_url": api.base_url,
    }
    options = {
        "allow": [NUMBER],
        "callback": {"port": port},
        "public_url": f"http://127.0.0.1:{port}",
        "whatsapp": section,
        **changes,
    }
    servers = {**SERVERS, **({"notes": {"url": notes, "auth": "oauth"}} if notes else {})}
    home = write_home(folder, servers, {name: value for name, value in options.items() if value is not None})
    (home / ".env").write_text(
        f"WHATSAPP_TOKEN={api.token}\nWHATSAPP_APP_SECRET={api.app_secret}\nWHATSAPP_VERIFY_TOKEN={api.verify_token}\n"
    )
    api.webhook = f"http://127.0.0.1:{port}{WEBHOOK}"
    return home


async def test_it_runs_on_the_gateways_own_endpoint(
    api: CloudApi, relay: Relay, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Gateway.from_config(home=own_home(api, tmp_path)) as gateway:
        await gateway.auth.listen()
        running = asyncio.create_task(WhatsAppAdapter(gateway).run())
        while "webhook:" not in caplog.text:
            await asyncio.sleep(0.01)

        assert (await api.verify()).text == "1158201444"
        await api.say("/mcp")
        await api.message("MCP Servers")
        await api.say("/mcp key weather")
        form = (await api.link()).url
        assert str(form).startswith(str(gateway.config.gateway.public_url))

        running.cancel()
        assert await asyncio.gather(running, return_exceptions=True) != [None]
        assert f"WhatsApp answers for +1 555-078-3881 (Lucky Shrub); webhook: {api.webhook}" in caplog.text
        assert api.token not in caplog.text


async def test_the_page_opens_the_chat_with_the_code_and_the_same_person_sends_it(
    api: CloudApi, tmp_path: Path, oauth: OAuthServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    api.person("16505550002", "US.2", name="Bob")
    home = own_home(api, tmp_path, allow=[NUMBER, "whatsapp:US.2"], identity="per_user", notes=oauth.url)
    async with Gateway.from_config(home=home) as gateway, Browser() as browser:
        await gateway.auth.listen()
        running = asyncio.create_task(WhatsAppAdapter(gateway).run())
        while "webhook:" not in caplog.text:
            await asyncio.sleep(0.01)
        await api.say("/mcp auth notes")
        link = (await api.message("open this link within")).url
        assert link is not None

        page = await browser.press(await browser.open(link))

        assert page.link == f"https://wa.me/15550783881?text=%2Fmcp%20review-code%20{page.code.replace('-', '')}"
        await api.say(unquote(page.link.partition("text=")[2]))
        asked = await api.message("the page was opened just now")
        assert (await browser.open(page.url)).has_code
        await api.tap(asked, "Yes, that is me")
        await api.message("notes: that is you")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_token_that_is_refused_later_ends_the_run_so_that_a_mended_one_is_taken(
    api: CloudApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Gateway.from_config(home=own_home(api, tmp_path)) as gateway:
        await gateway.auth.listen()
        running = asyncio.create_task(WhatsAppAdapter(gateway).run())
        while "webhook:" not in caplog.text:
            await asyncio.sleep(0.01)
        api.token = "another"
        await api.say("/mcp")

        with pytest.raises(ConfigError, match=r"refuses the access token. Next: set a valid gateway.whatsapp.token"):
            await asyncio.wait_for(running, PATIENCE)
        # Until then nothing is taken from Meta that nobody would answer.
        assert (await api.say("/mcp")).status_code == 503
        with pytest.raises(ConfigError, match="refuses the access token"):
            await WhatsAppAdapter(gateway).run()


async def test_doctor_finds_nothing_to_do_when_all_is_well(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    async with Gateway.from_config(home=own_home(api, tmp_path)) as gateway:
        findings = await WhatsAppAdapter(gateway).check()

        assert [(one.mark, one.text) for one in findings] == [
            (GOOD, "WhatsApp answers for +1 555-078-3881 (Lucky Shrub)")
        ]


async def test_doctor_says_what_to_do(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    home = own_home(api, tmp_path, allow=["cli:local"], public_url=None)
    api.permissions = ("whatsapp_business_management",)
    async with Gateway.from_config(home=home) as gateway:
        found = await WhatsAppAdapter(gateway).check()
        assert [one.mark for one in found] == [GOOD, BAD, WARN, BAD, WARN]
        texts = " | ".join(one.text for one in found)
        for words in ("lacks whatsapp_business_messaging", "Meta does not call", "public_url", "gateway.allow"):
            assert words in texts

        api.token = "revoked"
        (first, *_) = await WhatsAppAdapter(gateway).check()
        assert (first.mark, first.text) == (
            BAD,
            "WhatsApp refuses the access token. Next: set a valid gateway.whatsapp.token",
        )

        (home / ".env").write_text("")
        (only,) = await WhatsAppAdapter(gateway).check()
        assert only.mark == BAD
        assert "gateway.whatsapp.app_secret cannot be filled in: WHATSAPP_APP_SECRET has no value" in only.text


async def test_doctor_does_not_mistake_an_outage_for_a_bad_token(api: CloudApi, relay: Relay, tmp_path: Path) -> None:
    api.faults = ["drop"]
    async with Gateway.from_config(home=own_home(api, tmp_path)) as gateway:
        findings = await WhatsAppAdapter(gateway).check()

        assert [(one.mark, one.text) for one in findings] == [
            (WARN, "WhatsApp cannot be reached (RemoteProtocolError).")
        ]
