"""The example `host_application.py`, as its readers run it."""

from __future__ import annotations

from pathlib import Path

from examples.host_application import create_app
from mcp_auth.config.models import GatewayOptions, Server
from tests.browser import Browser
from tests.gateway.chat import Chat, configure, open_gateway
from tests.public import ANN, BOB, link_of
from tests.servers.oauth import OAuthServer

PUBLIC = "https://app.example.com"


def config(home: Path, oauth: OAuthServer, **more: object) -> object:
    options = {
        "public_url": f"{PUBLIC}/mcp",
        "allow": (str(ANN), str(BOB)),
        "people": {"ada": (str(ANN), "app:ada")},
        "identity": "per_user",
        "verify": "browser",
        **more,
    }
    assert set(options) <= set(GatewayOptions.__struct_fields__)
    return configure(home, Server(name="notes", url=oauth.url, auth="oauth"), **options)


async def test_who_is_logged_in_there_needs_no_code(tmp_path: Path, oauth: OAuthServer) -> None:
    gateway = open_gateway(config(tmp_path, oauth))  # type: ignore[arg-type]
    async with Browser(create_app(gateway)) as browser, gateway:
        ada = {"user": "ada", "password": "correct horse"}
        assert (await browser.request("POST", f"{PUBLIC}/login", json=ada)).status == 303
        chat = Chat(gateway, ANN)

        page = await browser.sign_in(await link_of(chat))

        assert page.heading == "notes is connected"
        await chat.notice("notes: signed in")


async def test_without_verify_browser_its_session_is_no_proof(tmp_path: Path, oauth: OAuthServer) -> None:
    """A neighbour on another port of the host can plant a session, too: the operator has to ask for it."""
    gateway = open_gateway(config(tmp_path, oauth, verify="auto"))  # type: ignore[arg-type]
    async with Browser(create_app(gateway)) as browser, gateway:
        ada = {"user": "ada", "password": "correct horse"}
        assert (await browser.request("POST", f"{PUBLIC}/login", json=ada)).status == 303
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        assert page.heading == "Is it you?"


async def test_with_verify_browser_nobody_logged_in_is_asked_to_log_in_first(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    gateway = open_gateway(config(tmp_path, oauth))  # type: ignore[arg-type]
    async with Browser(create_app(gateway)) as browser, gateway:
        link = await link_of(Chat(gateway, ANN))
        page = await browser.press(await browser.open(link))
        assert "Sign in to the application itself first" in page.text
        ada = {"user": "ada", "password": "correct horse"}
        await browser.request("POST", f"{PUBLIC}/login", json=ada)
        assert (await browser.sign_in(link)).heading == "notes is connected"


async def test_somebody_else_logged_in_there_ends_it(tmp_path: Path, oauth: OAuthServer) -> None:
    gateway = open_gateway(config(tmp_path, oauth))  # type: ignore[arg-type]
    async with Browser(create_app(gateway)) as victim, gateway:
        bob = {"user": "bob", "password": "battery staple"}
        await victim.request("POST", f"{PUBLIC}/login", json=bob)
        chat = Chat(gateway, ANN)

        page = await victim.press(await victim.open(await link_of(chat)))

        assert "whoever sent you that link" in page.text
        await chat.notice("Somebody else opened the link for notes")
        assert oauth.requests("/authorize") == []
