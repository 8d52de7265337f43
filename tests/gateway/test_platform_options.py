"""`gateway.<platform>` as a typed section, and webhooks on the endpoint."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx2
import pytest
from starlette.responses import PlainTextResponse

from gateway.gateway import Gateway
from mcp_auth.config.models import Settings
from mcp_auth.errors import ConfigError
from tests.homes import write_home
from tests.patience import PATIENCE
from tests.ports import free_port


class SmokeOptions(Settings, frozen=True):
    token: str
    port: int = 1
    secrets_in_chat: bool = False


def gateway_with(folder: Path, section: object, env: str = "", **gateway: object) -> Gateway:
    home = write_home(folder, {}, {"smoke": section, **gateway})
    (home / ".env").write_text(env)
    return Gateway.from_config(home=home)


def test_placeholders_are_filled_in(tmp_path: Path) -> None:
    gateway = gateway_with(tmp_path, {"token": "${SMOKE_TOKEN}", "port": 5}, "SMOKE_TOKEN=canary\n")

    options = gateway.platform_options("smoke", SmokeOptions)

    assert (options.token, options.port) == ("canary", 5)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, "gateway.smoke has no token"),
        ({"token": "${SMOKE_TOKEN}"}, "SMOKE_TOKEN has no value"),
        ({"token": "t", "port": "five"}, "gateway.smoke.port must be a whole number, not text"),
    ],
    ids=["missing", "no-value", "wrong-kind"],
)
def test_errors_name_file_line_and_key_and_no_value(tmp_path: Path, section: object, said: str) -> None:
    gateway = gateway_with(tmp_path, section)

    with pytest.raises(ConfigError) as refused:
        gateway.platform_options("smoke", SmokeOptions)

    assert said in str(refused.value)
    assert "config.yaml:" in str(refused.value)
    assert "five" not in str(refused.value)


def test_unknown_keys_are_told_and_do_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gateway = gateway_with(tmp_path, {"token": "t", "tokken": "canary"})

    with caplog.at_level(logging.WARNING):
        gateway.platform_options("smoke", SmokeOptions)

    assert "tokken" in caplog.text
    assert "canary" not in caplog.text


async def test_a_webhook_answers_on_the_endpoint(tmp_path: Path) -> None:
    port = free_port()
    gateway = gateway_with(tmp_path, {}, public_url=f"http://127.0.0.1:{port}", callback={"port": port})

    url = gateway.mount("/hooks/smoke", PlainTextResponse("heard"))

    async with gateway, httpx2.AsyncClient(verify=False, timeout=PATIENCE) as client:
        await gateway.auth.listen()
        assert (await client.post(url)).text == "heard"
        assert (await client.post(f"{url}/more")).text == "heard"
        assert (await client.get(f"{url}else")).status_code == 404


async def test_a_webhook_may_come_when_the_endpoint_listens_already(tmp_path: Path) -> None:
    port = free_port()
    gateway = gateway_with(tmp_path, {}, public_url=f"http://127.0.0.1:{port}", callback={"port": port})

    async with gateway, httpx2.AsyncClient(verify=False, timeout=PATIENCE) as client:
        await gateway.auth.listen()
        url = gateway.mount("/hooks/smoke", PlainTextResponse("heard"))
        assert (await client.post(url)).text == "heard"


async def test_a_webhook_without_a_public_address_is_refused(tmp_path: Path) -> None:
    gateway = gateway_with(tmp_path, {})

    with pytest.raises(ConfigError, match="public_url"):
        gateway.mount("/hooks/smoke", PlainTextResponse("heard"))
    await gateway.stop()
