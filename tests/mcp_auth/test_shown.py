"""What is shown of an address, in chats and at the terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mcp_auth import shown
from mcp_auth.config import variables
from mcp_auth.config.models import Config, GatewayOptions, NetworkOptions, OAuthOptions, Server
from mcp_auth.shown import brief_address, literal_gateway_secrets, literal_secrets, masked_address, secrets_in

ZAPIER = "NDk0MjU5ZjktMTIzNC00YWJjLTlkZWYtYWJjZGVmMDEyMzQ1"
KEY = "sk-canary-0123456789"

# An entry, what chats are shown, what the terminal is shown.
SHAPES: list[tuple[dict[str, Any], str, str]] = [
    ({"url": "https://mcp.notion.com/mcp"}, "mcp.notion.com", "https://mcp.notion.com/mcp"),
    ({"url": "https://mcp.example.com:8443/v1/sse"}, "mcp.example.com:8443", "https://mcp.example.com:8443/v1/sse"),
    ({"url": f"https://mcp.example.com/mcp?api_key={KEY}"}, "mcp.example.com", "https://mcp.example.com/mcp"),
    ({"url": f"https://ann:{KEY}@mcp.example.com/mcp"}, "mcp.example.com", "https://mcp.example.com/mcp"),
    (
        {"url": f"https://mcp.zapier.com/api/mcp/s/{ZAPIER}/mcp"},
        "mcp.zapier.com",
        "https://mcp.zapier.com/api/mcp/s/***/mcp",
    ),
    ({"url": f"https://x.test/{KEY}/sse"}, "x.test", "https://x.test/***/sse"),
    ({"url": "https://x.test/3f2504e0-4f89-11d3-9a0c-0305e82c3301"}, "x.test", "https://x.test/***"),
    ({"url": "https://x.test/${MY_PATH}/mcp"}, "x.test", "https://x.test/${MY_PATH}/mcp"),
    ({"url": "http://[::1]:9/mcp"}, "[::1]:9", "http://[::1]:9/mcp"),
    ({"url": "https://x.test/api/v2/organizations/mcp"}, "x.test", "https://x.test/api/v2/organizations/mcp"),
    ({"command": "npx", "args": ("-y", "srv", "--api-key", KEY)}, "npx", "npx -y srv --api-key ***"),
    ({"command": "npx", "args": ("-y", "srv", f"--api-key={KEY}")}, "npx", "npx -y srv --api-key=***"),
    ({"command": "npx", "args": ("srv", "--token", "hunter2")}, "npx", "npx srv --token ***"),
    ({"command": "npx", "args": ("srv", "--password=hunter2")}, "npx", "npx srv --password=***"),
    ({"command": "npx", "args": ("srv", "--token", "${MY_TOKEN}")}, "npx", "npx srv --token ${MY_TOKEN}"),
    ({"command": "npx", "args": ("srv", KEY)}, "npx", "npx srv ***"),
    ({"command": "npx", "args": ("srv", "ghp_0123456789abcdefghijABCDEFGHIJ012345")}, "npx", "npx srv ***"),
    (
        {"command": "npx", "args": ("mcp-remote", "https://x.test/mcp", "--header", f"Authorization: Bearer {KEY}")},
        "npx",
        "npx mcp-remote https://x.test/mcp --header Authorization: ***",
    ),
    (
        {"command": "npx", "args": ("mcp-remote", f"https://x.test/mcp?key={KEY}")},
        "npx",
        "npx mcp-remote https://x.test/mcp",
    ),
    (
        {"command": "docker", "args": ("run", "-e", "GITHUB_TOKEN=hunter2", "ghcr.io/github/server")},
        "docker",
        "docker run -e GITHUB_TOKEN=*** ghcr.io/github/server",
    ),
    (
        {"command": "psql-mcp", "args": ("postgresql://ann:hunter2@db.test/app",)},
        "psql-mcp",
        "psql-mcp postgresql://db.test/app",
    ),
    (
        {"command": "npx", "args": ("-y", "@modelcontextprotocol/server-filesystem", "/srv/files")},
        "npx",
        "npx -y @modelcontextprotocol/server-filesystem /srv/files",
    ),
    ({"command": "npx", "args": ("-y", "chrome-devtools-mcp@latest")}, "npx", "npx -y chrome-devtools-mcp@latest"),
    ({"command": "/home/ann/secret-project/bin/server"}, "server", "/home/ann/secret-project/bin/server"),
    ({"command": f"npx -y srv --api-key {KEY}"}, "npx", "npx -y srv --api-key ***"),
    ({"command": f"API_KEY={KEY} npx srv"}, "API_KEY", "API_KEY=*** npx srv"),
    ({"command": "C:\\tools\\npx.cmd"}, "npx.cmd", "C:\\tools\\npx.cmd"),
    ({"command": KEY}, "a command", "***"),
    ({}, "a command", ""),
]


@pytest.mark.parametrize(("entry", "chat", "terminal"), SHAPES, ids=range(len(SHAPES)))
def test_a_chat_is_shown_a_host_or_a_name_and_the_terminal_no_secret(
    entry: dict[str, Any], chat: str, terminal: str
) -> None:
    server = Server(name="notes", **entry)
    assert brief_address(server) == chat
    assert masked_address(server) == terminal


@pytest.mark.parametrize(
    ("entry", "places"),
    [
        ({"url": "https://mcp.notion.com/mcp"}, []),
        ({"url": f"https://mcp.example.com/mcp?api_key={KEY}"}, ["url"]),
        ({"url": "https://mcp.example.com/mcp?api_key=${MY_KEY}"}, []),
        ({"url": "https://mcp.example.com/mcp?project=one"}, []),
        ({"url": f"https://ann:{KEY}@mcp.example.com/mcp"}, ["url"]),
        ({"url": f"https://mcp.zapier.com/api/mcp/s/{ZAPIER}/mcp"}, ["url"]),
        ({"url": "https://x.test/mcp", "headers": {"Authorization": f"Bearer {KEY}"}}, ["headers.Authorization"]),
        ({"url": "https://x.test/mcp", "headers": {"Authorization": "Bearer hunter2"}}, ["headers.Authorization"]),
        ({"url": "https://x.test/mcp", "headers": {"Authorization": "Bearer ${MY_KEY}"}}, []),
        ({"url": "https://x.test/mcp", "headers": {"X-Api-Key": "hunter2", "X-Team": "red"}}, ["headers.X-Api-Key"]),
        ({"url": "https://x.test/mcp", "headers": {"X-Team": KEY}}, ["headers.X-Team"]),
        ({"command": "npx", "args": ("srv", "--api-key", KEY)}, ["args[2]"]),
        ({"command": f"npx srv --api-key {KEY}"}, ["command"]),
        ({"command": "npx", "args": ("srv", "--api-key", "${MY_KEY}")}, []),
        ({"command": "npx", "env": {"API_TOKEN": "hunter2", "DEBUG": "1", "KEY_FILE": "/etc/key"}}, ["env.API_TOKEN"]),
        ({"command": "npx", "env": {"API_TOKEN": "${API_TOKEN}"}}, []),
        ({"url": "https://x.test/mcp", "oauth": OAuthOptions(client_secret="hunter2")}, ["oauth.client_secret"]),
        ({"url": "https://x.test/mcp", "oauth": OAuthOptions(client_secret="${MY_SECRET}")}, []),
    ],
    ids=range(18),
)
def test_secrets_that_stand_in_the_configuration_are_found(entry: dict[str, Any], places: list[str]) -> None:
    assert list(literal_secrets(Server(name="notes", **entry))) == places


def test_so_are_those_of_the_gateway() -> None:
    gateway = GatewayOptions(
        store="postgresql://ann:hunter2@db.test/app",
        network=NetworkOptions(proxy="http://ann:${PROXY_PASSWORD}@proxy.test:3128"),
        platforms={"telegram": {"token": "123:hunter2"}, "slack": {"bot_token": "${SLACK}", "port": 1}},
    )
    found = list(literal_gateway_secrets(Config(home=Path("/x"), path=None, servers={}, gateway=gateway)))
    assert found == ["gateway.store", "gateway.telegram.token"]


def test_what_no_sentence_may_hold() -> None:
    server = Server(name="x", command="npx", args=("--api-key", KEY, "--token=hunter2", "-y", "srv"))
    assert set(secrets_in(server)) >= {KEY, "hunter2"}
    assert "srv" not in secrets_in(server)


_LETTERS = "abcdefghijklmnopqrstuvwxyzAB"
# The shortest of each kind, and one character less.
SHORTEST = {
    "a prefix of two": ("sk" + "abcde1", "sk" + "abcd1"),
    "a prefix of three": ("lin_api" + "12345a", "lin_api" + "1234a"),
    "digits of another script": ("hf" + "abcde\u0663", "hf" + "abcdef"),
    "letters and digits": ("1a2b3c4d5e6f7g8h", "1a2b3c4d5e6f7g8"),
    "letters alone": (_LETTERS, _LETTERS[1:]),
    "a UUID": ("00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-00000000000"),
    "a UUID of letters": ("abcdefab-cdef-abcd-efab-cdefabcdefab", "abcdefab-cdef-abcd-efab-cdefabcdefa"),
}


@pytest.mark.parametrize(("secret", "plain"), SHORTEST.values(), ids=SHORTEST)
def test_the_shortest_that_looks_like_a_key_is_masked(secret: str, plain: str) -> None:
    def shown(word: str) -> tuple[str, str]:
        url = masked_address(Server(name="one", url=f"https://one.example/{word}/mcp"))
        return url, masked_address(Server(name="one", command="run", args=(word, f"${{A}}{word}", "${A}")))

    assert shown(secret) == ("https://one.example/***/mcp", "run *** *** ${A}")
    assert shown(plain) == (f"https://one.example/{plain}/mcp", f"run {plain} ${{A}}{plain} ${{A}}")


@pytest.mark.parametrize("option", ["-key", "-pwd", "-dsn", "-pat", "--KEY", "-p", "-k", "-H"])
def test_the_shortest_option_that_names_a_key_hides_what_follows(option: str) -> None:
    assert (
        masked_address(Server(name="one", command="run", args=(option, "plain", "words"))) == f"run {option} *** words"
    )
    assert masked_address(Server(name="one", command="run", args=("-y", "plain"))) == "run -y plain"


def test_no_pattern_is_compiled_before_it_is_needed() -> None:
    """`slash-mcp list` loads these; which of their patterns it needs depends on the configuration."""
    assert [
        name for module in (shown, variables) for name, one in vars(module).items() if isinstance(one, re.Pattern)
    ] == []
