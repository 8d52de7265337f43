"""The bot in a process of our own: polling, webhook, and what `serve` and `doctor` see of its troubles."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adapters.symbols import BAD, GOOD, WARN
from adapters.telegram.adapter import TelegramAdapter
from gateway.gateway import Gateway
from gateway.invocations import ChatRef, Principal
from gateway.replies import Audience, Notice, Reply, Text
from gateway.serve import load_platforms, run_until
from mcp_auth.config.models import CallbackOptions, Server
from mcp_auth.errors import ConfigError, Unreachable
from tests.browser import Browser
from tests.gateway.chat import configure, open_gateway
from tests.patience import PATIENCE
from tests.platforms.telegram import BOT_ID, TOKEN, BotApi, Group, Person, Refusal, flood
from tests.ports import free_port
from tests.servers.oauth import OAuthServer, authorize

NEWS = Reply((Text("notes: signed in"),), audience=Audience.CALLER)

StartBot = Callable[..., AbstractAsyncContextManager["Bot"]]


@dataclass
class Bot:
    gateway: Gateway
    running: asyncio.Task[None]
    pauses: list[float] = field(default_factory=list)


def bot_gateway(api: BotApi, oauth: OAuthServer, folder: Path, section: dict[str, Any], **gateway: Any) -> Gateway:
    notes = Server(name="notes", url=oauth.url, auth="oauth")
    platforms = {"telegram": {"token": api.token, "base_url": api.base_url, **section}}
    return open_gateway(configure(folder, notes, **{"allow": ("telegram:1",), "platforms": platforms, **gateway}))


@pytest.fixture
def start_bot(api: BotApi, oauth: OAuthServer, tmp_path: Path) -> StartBot:
    @asynccontextmanager
    async def start(section: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Bot]:
        pauses: list[float] = []

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            # Looking after a webhook again ends no test.
            await asyncio.sleep(0.01 if seconds < 60 else 3600)

        async with bot_gateway(api, oauth, tmp_path, section or {}, **options) as gateway:
            running = asyncio.create_task(TelegramAdapter(gateway, sleep=pause).run())
            try:
                yield Bot(gateway, running, pauses)
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConfigError, Unreachable):
                    await running

    return start


class TestPolling:
    async def test_a_sign_in_from_the_first_word_to_the_last(
        self, start_bot: StartBot, api: BotApi, ada: Person, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        for name in ("httpcore2", "httpx2", "mcp"):
            # As `slash-mcp serve` does.
            caplog.set_level(logging.WARNING, name)
        async with start_bot() as bot:
            ada.start()
            await ada.message("What /mcp can do")
            for name in ("httpx", "httpcore", "telegram", "telegram.ext.ExtBot", "telegram.ext.Updater"):
                caplog.set_level(logging.DEBUG, name)
            ada.say("/mcp auth notes")
            link = (await ada.message("open this link")).urls[0]
            redirect = await asyncio.to_thread(authorize, link)
            ada.say(redirect)
            await ada.message("notes: signed in")
            token = await bot.gateway.auth.access_token("notes")

        assert [call.method for call in api.calls[:2]] == ["getMe", "deleteWebhook"]
        assert api.refused == []
        for secret in (TOKEN, TOKEN.partition(":")[2], link, redirect, token):
            assert secret not in logged(caplog)

    @pytest.mark.parametrize("login", [True, False])
    async def test_telegrams_login_is_offered_on_request(self, start_bot: StartBot, ada: Person, login: bool) -> None:
        async with start_bot({"login": login}) as bot:
            ada.start()
            await ada.message("What /mcp can do")
            assert (bot.gateway.auth.logins.login_for("telegram:1") is not None) is login

    async def test_whatever_a_person_writes_is_answered(self, start_bot: StartBot, ada: Person, ops: Group) -> None:
        async with start_bot():
            ada.say("hello")
            await ada.message("What /mcp can do")
            ada.say("http://127.0.0.1:1/callback?code=c&state=not-ours")
            await ada.message("No open sign-in belongs to this address")
            ops.say(ada, "/hello")
            ada.say("/mcp")
            await ada.message("sign-in needed")

        assert len(ada.sent) == 3
        assert ops.sent == []

    async def test_what_was_taken_does_not_come_again(self, start_bot: StartBot, api: BotApi, ada: Person) -> None:
        async with start_bot():
            ada.say("/mcp help")
            await ada.message("What /mcp can do")
        async with start_bot():
            ada.say("/mcp")
            await ada.message("sign-in needed")

        assert len(ada.sent) == 2

    async def test_the_network_comes_back(self, start_bot: StartBot, api: BotApi, ada: Person) -> None:
        async with start_bot() as bot:
            ada.say("/mcp help")
            await ada.message("What /mcp can do")
            api.offline = True
            api.end_polls()
            await api.until(lambda: bot.pauses[:4] == [1.0, 2.0, 4.0, 8.0])
            ada.say("/mcp")
            api.offline = False
            await ada.message("sign-in needed")

    async def test_flood_control_of_polls_is_honoured(self, start_bot: StartBot, api: BotApi, ada: Person) -> None:
        api.next_answers("getUpdates", flood(9))
        async with start_bot() as bot:
            ada.say("/mcp")
            await ada.message("sign-in needed")

        assert bot.pauses[0] == 9.0

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (Refusal(401, "Unauthorized"), "refuses the bot's token"),
            (Refusal(409, "Conflict: terminated by other getUpdates request"), "Another process polls"),
        ],
        ids=["revoked", "conflict"],
    )
    async def test_what_only_the_operator_can_mend_ends_the_run(
        self, start_bot: StartBot, api: BotApi, answer: Refusal, said: str
    ) -> None:
        api.next_answers("getUpdates", answer)
        async with start_bot() as bot:
            with pytest.raises(ConfigError, match=said) as ended:
                await asyncio.wait_for(bot.running, PATIENCE)

        assert TOKEN not in str(ended.value)

    async def test_a_bot_that_nobody_reaches_says_so(self, start_bot: StartBot, api: BotApi) -> None:
        api.offline = True
        async with start_bot() as bot:
            with pytest.raises(Unreachable, match="Telegram does not answer"):
                await asyncio.wait_for(bot.running, PATIENCE)


async def test_a_code_comes_back_by_the_button_of_the_page(
    start_bot: StartBot, oauth: OAuthServer, ada: Person, bob: Person
) -> None:
    """In public mode the page's button brings the code, the bot says what it is for, and one tap there is the proof.

    `/start` itself confirms nothing, and in somebody else's hands it ends the sign-in.
    """
    port = free_port()
    public = {"public_url": f"http://127.0.0.1:{port}", "callback": CallbackOptions(port=port)}
    people = {"allow": ("telegram:1", "telegram:2"), "identity": "per_user"}
    async with start_bot({"webhook": False}, **public, **people) as bot, Browser() as browser:
        await bot.gateway.auth.listen()
        ada.say("/mcp auth notes")
        link = (await ada.message("open this link")).urls[0]
        page = await browser.press(await browser.open(link))
        assert page.link is not None

        ada.open_link(page.link)
        asked = await ada.message("Sign in to notes: the page was opened just now")
        assert (await browser.open(page.url)).has_code
        ada.press(asked, "Yes, that is me")
        await ada.message("notes: that is you")
        page = await browser.open(await browser.authorize(await browser.open(page.url)))
        await ada.message("notes: signed in")

        bob.say("/mcp auth notes")
        page = await browser.press(await browser.open((await bob.message("open this link")).urls[0]))
        assert page.link is not None
        ada.open_link(page.link)
        await bob.message("Somebody else opened the link for notes")


async def test_a_process_that_only_delivers_asks_for_no_updates(
    api: BotApi, oauth: OAuthServer, ada: Person, tmp_path: Path
) -> None:
    ada.start()
    async with bot_gateway(api, oauth, tmp_path, {}) as gateway:
        adapter = TelegramAdapter(gateway)
        async with adapter.connected():
            assert await adapter.notify(Notice(Principal("telegram", "1"), ChatRef("telegram"), NEWS))
        await ada.message("notes: signed in")

    assert api.sent("getUpdates") == []


class TestWebhook:
    async def test_updates_come_to_the_endpoint_and_only_with_the_secret(
        self, start_bot: StartBot, api: BotApi, ada: Person
    ) -> None:
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        async with start_bot(public_url=address, callback=CallbackOptions(port=port)) as bot:
            await bot.gateway.auth.listen()
            await api.until(lambda: api.webhook["url"])
            url, secret = api.webhook["url"], api.webhook["secret_token"]
            ada.say("/mcp", twice=True)
            await ada.message("sign-in needed")
            update = {"update_id": 1, "message": ada.say("/mcp help").as_json()}
            await ada.message("What /mcp can do")
            async with httpx2.AsyncClient(timeout=PATIENCE) as client:
                bare = await client.post(url, json=update)
                wrong = await client.post(url, json=update, headers={HEADER: "wrong"})
                got = await client.get(url, headers={HEADER: secret})
                broken = await client.post(url, content=b"{", headers={HEADER: secret})
                strange = await client.post(url, json=[1], headers={HEADER: secret})
                large = await client.post(url, content=b"x" * (1 << 21), headers={HEADER: secret})

        assert url == f"{address}/hooks/telegram"
        assert TOKEN.partition(":")[2] not in f"{url}{secret}"
        assert [one.status_code for one in (bare, wrong, got, broken, strange, large)] == [404, 404, 404, 400, 400, 413]
        assert len(ada.sent) == 2
        assert api.sent("getUpdates") == []

    async def test_a_webhook_that_holds_is_left_alone_and_polling_removes_it(
        self, start_bot: StartBot, api: BotApi, ada: Person
    ) -> None:
        port = free_port()
        public = {"public_url": f"http://127.0.0.1:{port}", "callback": CallbackOptions(port=port)}
        for _ in range(2):
            async with start_bot(**public) as bot:
                await api.until(lambda: bot.pauses)
        assert len(api.sent("setWebhook")) == 1

        async with start_bot({"webhook": False}, **public):
            ada.say("/mcp")
            await ada.message("sign-in needed")

        assert api.webhook["url"] == ""

    async def test_without_a_public_address_a_webhook_is_refused(self, start_bot: StartBot) -> None:
        async with start_bot({"webhook": True}) as bot:
            with pytest.raises(ConfigError, match=r"gateway\.public_url"):
                await asyncio.wait_for(bot.running, PATIENCE)


async def test_serve_starts_a_failed_bot_again_and_keeps_the_token_to_itself(
    api: BotApi,
    oauth: OAuthServer,
    ada: Person,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("gateway.serve._FIRST_PAUSE", 0.01)
    caplog.set_level(logging.INFO)
    api.next_answers("getMe", Refusal(401, "Unauthorized"))
    stop = asyncio.Event()
    async with bot_gateway(api, oauth, tmp_path, {}) as gateway:
        serving = asyncio.create_task(run_until(stop, load_platforms(gateway)))
        ada.say("/mcp")
        await ada.message("sign-in needed")
        api.revoked = True
        api.end_polls()
        await api.until(lambda: caplog.text.count("refuses the bot's token") >= 2)
        api.revoked = False
        ada.say("/mcp help")
        await ada.message("What /mcp can do")
        stop.set()
        await serving

    assert TOKEN.partition(":")[2] not in logged(caplog)


class TestCheck:
    async def test_a_good_token(self, api: BotApi, oauth: OAuthServer, tmp_path: Path) -> None:
        (finding,) = await check(api, oauth, tmp_path)

        assert finding.mark == GOOD
        assert finding.text.startswith("@slash_mcp_bot answers in ")

    async def test_a_revoked_token_and_no_network(self, api: BotApi, oauth: OAuthServer, tmp_path: Path) -> None:
        api.revoked = True
        (revoked,) = await check(api, oauth, tmp_path)
        api.revoked, api.offline = False, True
        (offline,) = await check(api, oauth, tmp_path)

        assert (revoked.mark, offline.mark) == (BAD, BAD)
        assert "refuses the bot's token" in revoked.text
        assert "does not answer" in offline.text
        assert TOKEN.partition(":")[2] not in f"{revoked}{offline}"

    async def test_what_would_surprise(self, api: BotApi, oauth: OAuthServer, tmp_path: Path) -> None:
        api.webhook = {"url": "https://elsewhere.example/hook"}

        findings = await check(api, oauth, tmp_path, allow=("discord:1",))

        assert [finding.mark for finding in findings] == [GOOD, WARN, WARN]
        assert "another program set a webhook" in findings[1].text
        assert "nobody is served here" in findings[2].text

    async def test_a_token_that_is_none(self, api: BotApi, oauth: OAuthServer, tmp_path: Path) -> None:
        (short,) = await check(api, oauth, tmp_path, section={"token": f"{BOT_ID}:short"})

        assert "refuses the bot's token" in short.text


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """Every record, those of the loopback servers aside: pytest listens even to their access log."""
    return "\n".join(one.getMessage() for one in caplog.records if one.name != "uvicorn.access")


async def check(
    api: BotApi, oauth: OAuthServer, folder: Path, section: dict[str, Any] | None = None, **gateway: Any
) -> Any:
    async with bot_gateway(api, oauth, folder, section or {}, **gateway) as opened:
        return await TelegramAdapter(opened).check()


HEADER = "X-Telegram-Bot-Api-Secret-Token"
