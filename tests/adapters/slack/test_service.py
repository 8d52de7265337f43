"""Slack in a process of our own: tokens, connections, requests over HTTP, installations, and what doctor says."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from adapters.slack import service
from adapters.slack.adapter import SlackAdapter
from adapters.slack.options import SlackOptions
from adapters.symbols import BAD, GOOD
from gateway.gateway import Gateway
from gateway.invocations import ChatRef, Principal
from gateway.replies import Audience, Notice, Reply, Text
from mcp_auth.errors import ConfigError, McpAuthError, Unreachable
from tests.homes import write_home
from tests.patience import PATIENCE
from tests.platforms.slack import Slack, User, Workspace
from tests.ports import free_port

NEWS = Reply((Text("notes: signed in"),), audience=Audience.CALLER)


class Office:
    """Slack, a workspace, Ada, and a gateway that is configured for them."""

    def __init__(self, slack: Slack, folder: Path, *, public: bool = False, **section: Any) -> None:
        self.slack = slack
        self.acme: Workspace = slack.workspace("acme")
        self.ada: User = slack.user("ada", self.acme)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        gateway: dict[str, Any] = {"allow": [f"slack:{self.acme.id}/{self.ada.id}"], "callback": {"port": port}}
        if public:
            gateway["public_url"] = self.url
        given = {"bot_token": self.acme.token, "app_token": slack.app_token, "base_url": slack.base_url, **section}
        gateway["slack"] = {key: value for key, value in given.items() if value is not None}
        self.gateway = Gateway.from_config(home=write_home(folder, {}, gateway))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        async with self.gateway:
            await self.gateway.auth.listen()
            task = asyncio.create_task(SlackAdapter(self.gateway).run())
            try:
                yield task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def check(self) -> list[tuple[str, str]]:
        async with self.gateway:
            return [(one.mark, one.text) for one in await SlackAdapter(self.gateway).check()]

    async def answered(self) -> None:
        before = len(self.slack.seen_by(self.ada))
        await self.slack.types(self.ada, "/mcp help")
        await self.slack.until(lambda: len(self.slack.seen_by(self.ada)) > before)


@pytest.fixture
async def slack() -> AsyncIterator[Slack]:
    async with Slack() as platform:
        yield platform


# -- Socket Mode -----------------------------------------------------------------------------


async def test_it_connects_and_answers(slack: Slack, tmp_path: Path) -> None:
    office = Office(slack, tmp_path)
    async with office.running():
        await slack.connected()
        await office.answered()

    assert (slack.refused, slack.faults) == ([], [])


async def test_it_follows_when_slack_asks_it_to_reconnect(slack: Slack, tmp_path: Path) -> None:
    office = Office(slack, tmp_path)
    async with office.running():
        await slack.connected()
        await slack.disconnect("refresh_requested")
        await slack.connected()
        await office.answered()

    assert len(slack.called("apps.connections.open")) == 2


@pytest.mark.service
async def test_it_comes_back_after_the_network_was_gone(
    slack: Slack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_PING_SECONDS", 0.1)
    office = Office(slack, tmp_path)
    async with office.running() as task:
        await slack.connected()
        await slack.cut()
        await asyncio.sleep(0.2)
        slack.restore()
        await slack.connected()
        await office.answered()
        assert not task.done()


async def test_a_connection_that_stays_away_ends_the_run_with_one_sentence(
    slack: Slack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Then it is started anew, as `serve` does with every platform."""
    for name, seconds in (("_PING_SECONDS", 0.05), ("_LOOK_SECONDS", 0.05)):
        monkeypatch.setattr(service, name, seconds)
    office = Office(slack, tmp_path)
    async with office.running() as task:
        await slack.connected()
        await slack.cut()
        monkeypatch.setattr(service, "_LOST_SECONDS", 0.3)
        with pytest.raises(Unreachable, match="has been lost"):
            await asyncio.wait_for(task, PATIENCE)

    assert "Traceback" not in caplog.text
    assert "ticket=" not in caplog.text


@pytest.mark.parametrize("error", ["invalid_auth", "token_revoked", "account_inactive"])
async def test_a_bot_token_that_is_refused_is_said_with_what_to_do(slack: Slack, tmp_path: Path, error: str) -> None:
    office = Office(slack, tmp_path)
    office.acme.revoked = error
    async with office.running() as task:
        with pytest.raises(McpAuthError) as refused:
            await asyncio.wait_for(task, PATIENCE)

    assert f"gateway.slack.bot_token ({error})" in str(refused.value)
    assert "Next:" in str(refused.value)
    assert "xoxb-1" not in str(refused.value)


async def test_an_app_token_that_is_refused_is_said_with_what_to_do(slack: Slack, tmp_path: Path) -> None:
    office = Office(slack, tmp_path, app_token="xapp-wrong")
    async with office.running() as task:
        with pytest.raises(McpAuthError, match="app_token"):
            await asyncio.wait_for(task, PATIENCE)


async def test_without_a_network_it_says_so(slack: Slack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.slack.workspaces._RETRIES", 0)
    office = Office(slack, tmp_path)
    slack.down = True
    async with office.running() as task:
        with pytest.raises(Unreachable, match="cannot be reached"):
            await asyncio.wait_for(task, PATIENCE)


@pytest.mark.parametrize(
    ("section", "missing"),
    [({"bot_token": None}, "bot_token"), ({"app_token": None}, "app_token"), ({"client_id": "1.2"}, "client_secret")],
    ids=["bot-token", "app-token", "client-secret"],
)
async def test_what_is_not_configured_is_named(
    slack: Slack, tmp_path: Path, section: dict[str, Any], missing: str
) -> None:
    office = Office(slack, tmp_path, **section)
    async with office.running() as task:
        with pytest.raises(ConfigError, match=f"gateway.slack has no {missing}"):
            await asyncio.wait_for(task, PATIENCE)


async def test_bolts_own_variables_do_not_take_the_token_away(
    slack: Slack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLACK_CLIENT_ID", "1.2")
    monkeypatch.setenv("SLACK_CLIENT_SECRET", "canary")
    office = Office(slack, tmp_path)
    async with office.running() as task:
        with pytest.raises(ConfigError, match="SLACK_CLIENT_ID"):
            await asyncio.wait_for(task, PATIENCE)


async def test_no_secret_is_logged_whatever_the_level(
    slack: Slack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        office = Office(slack, tmp_path)
        async with office.running():
            await slack.connected()
            await office.answered()
            await slack.says(office.ada, "mcp key weather sk-canary-typed")
            await slack.until(lambda: "not used and not stored" in str(slack.direct(office.ada).texts))

    for secret in ("canarybottoken", "canaryapptoken", "/commands/", "ticket=", "sk-canary-typed"):
        assert secret not in caplog.text


# -- requests over HTTP ----------------------------------------------------------------------


def over_http(slack: Slack, folder: Path, **section: Any) -> Office:
    office = Office(slack, folder, public=True, app_token=None, signing_secret=slack.signing_secret, **section)
    slack.request_url = f"{office.url}/slack/events"
    return office


async def ready(url: str) -> None:
    """Until something answers there."""
    async with asyncio.timeout(PATIENCE), httpx2.AsyncClient(verify=False, timeout=PATIENCE) as client:
        while (await client.post(url)).status_code in (404, 405):
            await asyncio.sleep(0.01)


async def test_signed_requests_are_answered(slack: Slack, tmp_path: Path) -> None:
    office = over_http(slack, tmp_path)
    async with office.running():
        await ready(f"{office.url}/slack/events")
        await office.answered()
        await slack.says(office.ada, "mcp help", again=1)
        await slack.until(lambda: len(slack.seen_by(office.ada)) == 2)
        shown = slack.seen_by(office.ada)[0]

    assert "/mcp logout SERVER" in shown.shown
    assert (slack.refused, slack.faults) == ([], [])


@pytest.mark.parametrize(
    ("changed", "status"),
    [({}, 200), ({"secret": "another-secret"}, 401), ({"at": 1_000_000_000.0}, 401)],
    ids=["right", "wrong-secret", "too-old"],
)
async def test_the_signature_is_checked(slack: Slack, tmp_path: Path, changed: dict[str, Any], status: int) -> None:
    office = over_http(slack, tmp_path)
    raw = urlencode(
        {
            "command": "/mcp",
            "text": "",
            "team_id": office.acme.id,
            "user_id": "U1",
            "trigger_id": "1",
            "channel_id": "C1",
            "response_url": f"{slack.base_url}x",
        }
    )
    headers = {"Content-Type": "application/x-www-form-urlencoded", **slack.signature(raw, **changed)}
    async with office.running(), httpx2.AsyncClient(verify=False, timeout=PATIENCE) as client:
        await ready(f"{office.url}/slack/events")
        answer = await client.post(f"{office.url}/slack/events", content=raw, headers=headers)

    assert answer.status_code == status


async def test_the_address_is_verified_and_bodies_have_an_end(slack: Slack, tmp_path: Path) -> None:
    office = over_http(slack, tmp_path)
    raw = json.dumps({"type": "url_verification", "challenge": "abc"})
    headers = {"Content-Type": "application/json", **slack.signature(raw)}
    async with office.running(), httpx2.AsyncClient(verify=False, timeout=PATIENCE) as client:
        await ready(f"{office.url}/slack/events")
        verified = await client.post(f"{office.url}/slack/events", content=raw, headers=headers)
        flood = await client.post(f"{office.url}/slack/events", content="x" * 1_100_000)

    assert "abc" in verified.text
    assert flood.status_code == 413


async def test_without_a_public_address_requests_cannot_arrive(slack: Slack, tmp_path: Path) -> None:
    office = Office(slack, tmp_path, app_token=None, signing_secret="x")
    async with office.running() as task:
        with pytest.raises(ConfigError, match="public_url"):
            await asyncio.wait_for(task, PATIENCE)


# -- several workspaces ----------------------------------------------------------------------


async def test_a_workspace_adds_the_app_and_is_answered_with_its_token(slack: Slack, tmp_path: Path) -> None:
    office = over_http(slack, tmp_path, bot_token=None, client_id="1.2", client_secret="canary-client-secret")
    async with office.running(), httpx2.AsyncClient(verify=False, timeout=PATIENCE) as browser:
        await ready(f"{office.url}/slack/events")
        page = await browser.get(f"{office.url}/slack/install")
        link = next(part for part in page.text.split('"') if part.startswith("https://slack.com/oauth/v2/authorize"))
        asked = parse_qs(urlsplit(link.replace("&amp;", "&")).query)
        assert set(asked["scope"][0].split(",")) == set(service.SCOPES)
        assert asked["redirect_uri"] == [f"{office.url}/slack/oauth_redirect"]

        done = await browser.get(
            f"{office.url}/slack/oauth_redirect",
            params={"code": office.acme.id, "state": asked["state"][0]},
            headers={"Cookie": page.headers["set-cookie"].split(";")[0]},
        )
        assert done.status_code == 200, done.text
        await office.answered()

    kept = office.gateway.config.home / "slack"
    assert kept.stat().st_mode & 0o077 == 0
    assert slack.seen_by(office.ada)[0].author == office.acme.bot_user


async def test_installing_needs_an_address(slack: Slack, tmp_path: Path) -> None:
    office = Office(slack, tmp_path, bot_token=None, client_id="1.2", client_secret="canary")
    async with office.running() as task:
        with pytest.raises(ConfigError, match="public_url"):
            await asyncio.wait_for(task, PATIENCE)


# -- doctor ----------------------------------------------------------------------------------


async def test_doctor_finds_everything_in_order_and_says_how_people_are_written(slack: Slack, tmp_path: Path) -> None:
    office = Office(slack, tmp_path)
    found = await office.check()

    assert [mark for mark, _ in found] == [GOOD, GOOD, GOOD]
    assert f"slack:{office.acme.id}/MEMBER_ID" in found[0][1]


async def test_doctor_names_missing_scopes(slack: Slack, tmp_path: Path) -> None:
    office = Office(slack, tmp_path)
    office.acme.scopes -= {"im:write", "commands"}

    (finding,) = [text for mark, text in await office.check() if mark == BAD]
    assert "lacks commands, im:write" in finding
    assert "Next:" in finding


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"bot_token": "xoxb-wrong"}, "bot_token (invalid_auth)"),
        ({"app_token": "xapp-wrong"}, "app_token (invalid_auth)"),
        ({"app_token": None, "signing_secret": "x"}, "public_url"),
        ({"bot_token": None}, "has no bot_token"),
    ],
    ids=["bot-token", "app-token", "no-address", "no-token"],
)
async def test_doctor_says_what_is_wrong_and_what_to_do(
    slack: Slack, tmp_path: Path, section: dict[str, Any], words: str
) -> None:
    (finding,) = [text for mark, text in await Office(slack, tmp_path, **section).check() if mark == BAD]

    assert words in finding
    assert "Next:" in finding


async def test_a_process_that_only_delivers_opens_no_connection(slack: Slack, tmp_path: Path) -> None:
    office = Office(slack, tmp_path)
    ada = f"{office.acme.id}/{office.ada.id}"
    async with office.gateway:
        adapter = SlackAdapter(office.gateway)
        async with adapter.connected():
            assert await adapter.notify(Notice(Principal("slack", ada), ChatRef("slack"), NEWS))
    (said,) = slack.direct(office.ada).messages
    assert "notes: signed in" in said.shown
    assert slack.called("apps.connections.open") == []


async def test_doctor_says_when_slack_is_away(slack: Slack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.slack.workspaces._RETRIES", 0)
    office = Office(slack, tmp_path)
    slack.down = True

    ((mark, text),) = await office.check()
    assert mark == BAD
    assert "cannot be reached" in text


async def test_doctor_knows_the_request_url_and_the_install_page(slack: Slack, tmp_path: Path) -> None:
    office = over_http(slack, tmp_path / "one")
    assert f"{office.url}/slack/events" in str(await office.check())

    many = over_http(slack, tmp_path / "many", bot_token=None, client_id="1.2", client_secret="canary")
    assert f"{many.url}/slack/install" in str(await many.check())


def test_options_from_the_configuration_are_checked(tmp_path: Path) -> None:
    gateway = Gateway.from_config(home=write_home(tmp_path, {}, {"slack": {"bot_token": 5}}))

    with pytest.raises(ConfigError, match=r"gateway\.slack\.bot_token"):
        SlackAdapter(gateway)
    assert SlackAdapter(gateway, options=SlackOptions()).capabilities.modal
