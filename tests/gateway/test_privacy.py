"""What a chat is not told, whichever sentence it would stand in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.invocations import Principal
from gateway.privacy import Privacy
from gateway.replies import Checklist, ChecklistItem, ItemState, Reply, SecretPrompt, Table, Text
from mcp_auth.config.models import OAuthOptions, Server
from mcp_auth.records import grant_key
from mcp_auth.stores.files import FileStore
from tests.browser import Browser
from tests.gateway.chat import Chat, configure, open_gateway, prompt_of, words
from tests.public import link_of, public_gateway
from tests.servers.oauth import OAuthServer

ANN = Principal("telegram", "1")
PATH = "s/NDk0MjU5ZjktMTIzNC00YWJjLTlkZWYtYWJjZGVmMDEyMzQ1"
KEY = "sk-canary-0123456789"

SERVERS: dict[str, dict[str, Any]] = {
    "a secret path": {"url": f"http://127.0.0.1:9/{PATH}/mcp"},
    "a secret path, signed in to": {"url": f"http://127.0.0.1:9/{PATH}/mcp", "auth": "oauth"},
    "a plain path": {"url": "http://127.0.0.1:9/team/red/mcp", "auth": "oauth"},
    "a key in the query": {"url": f"http://127.0.0.1:9/mcp?key={KEY}", "headers": {"X-Key": "${MY_KEY}"}},
    "a user in the URL": {"url": f"https://ann:{KEY}@127.0.0.1:9/team/red"},
    "arguments": {"command": "/nowhere/canary-bin/npx", "args": ("-y", "canary-srv", "--api-key", KEY)},
    "a command line": {"command": f"/nowhere/canary-bin/npx -y canary-srv --api-key {KEY}"},
    "a redirect URI": {
        "url": f"http://127.0.0.1:9/{PATH}/mcp",
        "auth": "oauth",
        "oauth": OAuthOptions(client_id="x", redirect_uri="http://127.0.0.1:7777/x"),
    },
}
NEVER = (PATH, KEY, "canary-bin", "canary-srv", "--api-key", "team/red")


def everything(reply: Reply) -> str:
    """All that an adapter gets, but links."""
    return repr([(block, getattr(block, "text", "")) for block in reply.blocks]) + words(reply) + repr(reply.summary)


@pytest.mark.parametrize("said", ["", "status notes", "notes", "test notes", "auth", "auth notes", "key notes", "help"])
@pytest.mark.parametrize("private", [True, False], ids=["private", "group"])
@pytest.mark.parametrize("shape", SERVERS)
async def test_attack_a_chat_reads_no_more_of_a_server_than_its_host_or_its_command_s_name(
    tmp_path: Path, shape: str, private: bool, said: str
) -> None:
    server = Server(name="notes", **SERVERS[shape])
    config = configure(tmp_path, server, allow=(str(ANN),))
    async with open_gateway(config) as gateway:
        replies = await Chat(gateway, ANN, private=private).say(said)
    told = "".join(everything(reply) for reply in replies)
    assert replies
    assert [one for one in NEVER if one in told] == []
    assert str(tmp_path) not in told
    if said == "":
        assert ("127.0.0.1:9" if server.url else "npx") in told


async def test_a_chat_gets_no_data_beside_the_words(tmp_path: Path, oauth: OAuthServer) -> None:
    config = configure(tmp_path, Server(name="notes", url=oauth.url, auth="oauth"), allow=(str(ANN),))
    async with open_gateway(config) as gateway:
        (*_, tested) = await Chat(gateway, ANN).say("test notes")
        (*_, links) = await Chat(gateway, ANN).say("auth notes")
        (*_, for_the_operator) = await Chat(gateway).say("test notes")
    (checklist,) = links.blocks
    assert isinstance(checklist, Checklist)
    assert (tested.data, checklist.items[0].data) == (None, None)
    assert for_the_operator.data is not None


async def test_the_terminal_is_told_more(tmp_path: Path) -> None:
    servers = [Server(name="plain", **SERVERS["a plain path"]), Server(name="args", **SERVERS["arguments"])]
    async with open_gateway(configure(tmp_path, *servers)) as gateway:
        told = "".join(everything(reply) for reply in await Chat(gateway).say(""))
    assert "http://127.0.0.1:9/team/red/mcp" in told
    assert "canary-srv --api-key ***" in told
    assert KEY not in told


URL = f"https://mcp.zapier.test/{PATH}/mcp"
TEXTS = [
    (f"{URL} answers HTTP 500.", "mcp.zapier.test answers HTTP 500."),
    (f"It redirects to {URL.upper().replace(PATH.upper(), PATH)}?x=1; put that as url", "mcp.zapier.test; put that"),
    (f"see https://mcp.zapier.test/.well-known/oauth-protected-resource/{PATH}/mcp.", "see mcp.zapier.test."),
    (f'"{URL}" and <{URL}>', '"mcp.zapier.test" and <mcp.zapier.test>'),
    (f"the path /{PATH}/mcp is unknown", "the path /s/***/mcp is unknown"),
    ("register https://bot.test/callback/abc there", "register https://bot.test/callback/abc there"),
    ("register https://bot.test/cb there", "register https://bot.test/cb there"),
    (f"It redirects to https://bot.test/{PATH}/mcp/.", "It redirects to bot.test."),
    ("see https://docs.zapier.test/api/keys", "see https://docs.zapier.test/api/keys"),
    ("HOME/grants/a1.json is damaged.", "a1.json is damaged."),
    ("HOME/config.yaml:12: `auth` must be `oauth`", "config.yaml:12: `auth` must be"),
    ("HOME cannot be written", "cannot be written"),
]


@pytest.mark.parametrize(("text", "shown"), TEXTS, ids=range(len(TEXTS)))
def test_every_sentence_is_read_before_it_goes(tmp_path: Path, text: str, shown: str) -> None:
    home = tmp_path / "the-home"
    beside_us = Server(
        name="beside", url=f"https://bot.test/{PATH}/mcp", oauth=OAuthOptions(redirect_uri="https://bot.test/cb")
    )
    servers = [Server(name="zap", url=URL), beside_us]
    config = configure(home, *servers, public_url="https://bot.test", allow=(str(ANN),))
    text = text.replace("HOME", str(home))
    reply = Reply(
        (
            Text(text),
            Checklist((ChecklistItem("zap", ItemState.LINK, text, link=URL),), text),
            SecretPrompt("1", "zap", "KEY", text, 0.0),
            Table((("zap", text),)),
        ),
        summary=text,
        title=text,
    )
    told = Privacy(config).reply(reply)
    said = [told.blocks[0].text, told.blocks[1].items[0].text, told.blocks[1].note, told.blocks[2].text]  # type: ignore[union-attr]
    for one in (*said, told.blocks[3].rows[0][1], told.summary, told.title):  # type: ignore[union-attr]
        assert shown in (one or "")
        assert str(home) not in (one or "") and ("zap" not in text.lower() or PATH not in (one or ""))
    assert told.blocks[1].items[0].link == URL, "a link goes where only one person reads"  # type: ignore[union-attr]


@pytest.mark.parametrize("said", ["", "notes", "auth notes", "logout notes", "test notes"])
async def test_a_damaged_grant_is_told_without_its_folder(tmp_path: Path, oauth: OAuthServer, said: str) -> None:
    config = configure(tmp_path, Server(name="notes", url=oauth.url, auth="oauth"), allow=(str(ANN),))
    store = FileStore(tmp_path)
    path = tmp_path / "grants" / f"{grant_key('shared', 'notes')}.json"
    path.parent.mkdir(mode=0o700)
    path.write_text("{")
    async with open_gateway(config, store) as gateway:
        assert str(tmp_path) not in "".join(everything(reply) for reply in await Chat(gateway, ANN).say(said))


async def test_trouble_with_the_store_names_no_file_to_a_member(tmp_path: Path, oauth: OAuthServer) -> None:
    config = configure(tmp_path, Server(name="notes", url=oauth.url, auth="oauth"), allow=(str(ANN),))
    (tmp_path / "sign-ins").write_text("no folder")
    async with open_gateway(config, FileStore(tmp_path)) as gateway:
        told = words((await Chat(gateway, ANN).say("auth notes"))[-1])
    assert "doctor" in told
    assert "sign-ins" not in told and str(tmp_path) not in told


async def test_news_is_read_before_it_goes_as_answers_are(tmp_path: Path, oauth: OAuthServer) -> None:
    """An authorization server repeats what it was asked for, with the key in it."""
    server = Server(name="notes", url=f"{oauth.url}?key={KEY}", auth="oauth")
    oauth.knobs.authorize_error = {"error": "server_error", "error_description": f"no rights at {oauth.url}?key={KEY}"}
    async with public_gateway(tmp_path, server, allow=(str(ANN),), verify="none") as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await link_of(chat)))
        await browser.open(await browser.authorize(page))
        await chat.notice("no rights at")
        await chat.edit("no rights at")
    told = "".join(everything(notice.reply) for notice in chat.notices)
    assert oauth.origin.removeprefix("http://") in told
    assert KEY not in told and "/mcp?" not in told


async def test_the_answer_to_a_key_is_read_before_it_goes(tmp_path: Path, oauth: OAuthServer) -> None:
    server = Server(name="notes", url=f"{oauth.origin}/team/red", headers={"X-Key": "${MY_KEY}"})
    oauth.knobs.gone = {"/team/red": 301}
    oauth.knobs.gone_to = {"/team/red": f"{oauth.origin}/team/red/"}
    config = configure(tmp_path, server, allow=(str(ANN),), platforms={"telegram": {"secrets_in_chat": True}})
    async with open_gateway(config) as gateway:
        asked = Chat(gateway, ANN)
        prompt = prompt_of((await asked.say("key notes"))[-1])
        told = everything(await gateway.submit_secret(ANN, prompt.id, "sk-typed-0123456789"))
    assert "redirects to" in told
    assert oauth.origin.removeprefix("http://") in told
    assert "team/red" not in told
