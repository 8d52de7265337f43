"""Configuration files of every kind, good and bad, through `load`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mcp_auth.config.load import find_home, load
from mcp_auth.config.models import Config, ToolFilter, mirror_name
from mcp_auth.errors import ConfigError

SECRET = "s3cr3t-canary-value"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SLASH_MCP_HOME", raising=False)
    return tmp_path


def read(home: Path, text: str, name: str = "config.yaml") -> Config:
    file = home / name
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return load(file, home)


def problem(home: Path, entry: str) -> str:
    """What is wrong with the only server `bad`, whose entry is the flow mapping `entry`."""
    config = read(home, f"mcp_servers:\n  bad: {entry}\n  good: {{url: https://good.example/mcp}}\n")
    assert config.servers["good"].problem is None
    found = config.servers["bad"].problem
    assert found is not None
    return found


# What is read.


def test_the_servers_of_the_design_are_read(home: Path) -> None:
    config = read(
        home,
        """
        mcp_servers:
          supabase: {url: https://mcp.supabase.com/mcp, auth: oauth}
          my-api:
            url: https://api.example.com/mcp
            headers: {Authorization: "Bearer ${MCP_MY_API_API_KEY}"}
            tools: {include: [read_*, search]}
            identity: per_user
          github:
            url: https://api.githubcopilot.com/mcp/
            auth: oauth
            oauth:
              client_id: abc
              client_secret: ${GITHUB_MCP_SECRET}
              scope: repo read:user
              authorize_params: {prompt: consent}
              redirect_uri: https://bot.example.com/cb
              token_endpoint_auth_method: client_secret_basic
              resource: false
          files:
            command: npx
            args: [-y, "@modelcontextprotocol/server-filesystem", /srv]
            env: {TOKEN: "${FILES_TOKEN}"}
          old: {url: https://old.example/sse, transport: sse, enabled: false, timeout: 120, connect_timeout: 2.5}
        gateway:
          allow: [telegram:123456789, discord:42]
          admins: [telegram:123456789]
          people: {ann: [telegram:123456789, discord:42]}
          telegram: {token: "${TELEGRAM_BOT_TOKEN}"}
        """,
    )
    assert [server.problem for server in config.servers.values()] == [None] * 5
    assert config.warnings == ()
    assert config.servers["supabase"].auth == "oauth"
    assert config.servers["my-api"].headers == {"Authorization": "Bearer ${MCP_MY_API_API_KEY}"}
    assert config.servers["my-api"].tools.include == ("read_*", "search")
    github = config.servers["github"].oauth
    assert (github.client_secret, github.resource, github.authorize_params) == (
        "${GITHUB_MCP_SECRET}",
        False,
        {"prompt": "consent"},
    )
    assert config.servers["files"].transport == "stdio"
    assert config.servers["files"].args == ("-y", "@modelcontextprotocol/server-filesystem", "/srv")
    old = config.servers["old"]
    assert (old.transport, old.enabled, old.timeout, old.connect_timeout) == ("sse", False, 120.0, 2.5)
    assert config.gateway.platforms == {"telegram": {"token": "${TELEGRAM_BOT_TOKEN}"}}
    assert config.gateway.people == {"ann": ("telegram:123456789", "discord:42")}
    assert config.gateway_variables == {"TELEGRAM_BOT_TOKEN"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [("http", "http"), ("streamable-http", "http"), ("streamable_http", "http"), ("SSE", "sse")],
)
@pytest.mark.parametrize("key", ["transport", "type"])
def test_transports_have_the_names_that_hermes_and_others_use(home: Path, key: str, written: str, meant: str) -> None:
    config = read(home, f"mcp_servers:\n  a: {{url: https://a.example/mcp, {key}: {written}}}\n")
    assert (config.servers["a"].problem, config.servers["a"].transport) == (None, meant)


def test_keys_without_a_value_count_as_absent(home: Path) -> None:
    config = read(
        home,
        """
        mcp_servers:
          a:
            url: https://a.example/mcp
            headers:
            auth:
            oauth:
            tools:
              include:
        gateway:
        include:
        """,
    )
    assert config.servers["a"].problem is None
    assert config.servers["a"].headers == {}


def test_a_merged_anchor_is_followed_and_own_keys_win(home: Path) -> None:
    config = read(
        home,
        """
        defaults: &d {timeout: 5, headers: {X-Team: one}}
        mcp_servers:
          a: {<<: *d, url: https://a.example/mcp, timeout: 9}
        """,
    )
    server = config.servers["a"]
    assert (server.problem, server.timeout, server.headers) == (None, 9.0, {"X-Team": "one"})


def test_a_date_as_header_value_is_the_text_it_looks_like(home: Path) -> None:
    config = read(
        home, "mcp_servers:\n  a: {url: https://a.example/mcp, headers: {MCP-Protocol-Version: 2026-07-28}}\n"
    )
    assert config.servers["a"].headers == {"MCP-Protocol-Version": "2026-07-28"}


def test_names_that_yaml_takes_for_numbers_or_booleans_stay_text(home: Path) -> None:
    config = read(home, "mcp_servers:\n  123: {url: https://a.example/x}\n  on: {url: https://b.example/x}\n")
    assert list(config.servers) == ["123", "on"]
    assert all(server.problem is None for server in config.servers.values())


def test_disabled_of_other_clients_disables(home: Path) -> None:
    config = read(home, json.dumps({"mcpServers": {"a": {"command": "x", "disabled": True}}}), "x.mcp.json")
    assert config.servers["a"].enabled is False


@pytest.mark.parametrize("section", ["mcpServers", "servers", "mcp_servers"])
def test_an_mcp_json_is_read(home: Path, section: str) -> None:
    entries = {
        "a": {"type": "http", "url": "https://a.example/mcp", "headers": {"X-Key": "${K}"}},
        "b": {"command": "uvx", "args": ["thing"], "env": {"T": "${T:-x}"}},
    }
    config = read(home, json.dumps({section: entries, "inputs": []}, indent="\t"), ".mcp.json")
    assert [(s.problem, s.transport) for s in config.servers.values()] == [(None, "http"), (None, "stdio")]
    assert config.warnings == ()


def test_comments_and_trailing_commas_of_vs_code_are_accepted(home: Path) -> None:
    text = '{\n  // mine\n  "servers": {\n    "a": {"url": "https://a.example/mcp?x=//y",}, /* two */\n  },\n}\n'
    config = read(home, text, "mcp.json")
    assert config.servers["a"].url == "https://a.example/mcp?x=//y"


def test_an_error_in_json_names_the_line_of_the_key(home: Path) -> None:
    text = '{\n  "mcpServers": {\n    "a": {"url": "https://a.example"},\n    "b": {\n      "url": 5\n    }\n  }\n}'
    config = read(home, text, ".mcp.json")
    assert config.servers["a"].problem is None
    assert (
        config.servers["b"].problem
        == ".mcp.json:5: mcpServers.b.url must be text, not a whole number; put it in quotes"
    )


# Where it is read from.


def test_a_missing_default_file_is_an_empty_configuration(home: Path) -> None:
    config = load(home=home)
    assert (config.path, config.servers, config.home) == (None, {}, home)
    assert config.env_file == home / ".env"


def test_a_missing_named_file_is_an_error(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: there is no such file\."):
        load(home / "nothing.yaml", home)


def test_the_home_is_the_argument_then_the_variable_then_the_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert find_home() == Path("/home/somebody/.slash-mcp")
    monkeypatch.setenv("SLASH_MCP_HOME", str(home))
    assert find_home() == home
    assert find_home("~/other") == Path("/home/somebody/other")
    (home / "config.yaml").write_text("mcp_servers: {a: {url: https://a.example}}")
    assert list(load().servers) == ["a"]


def test_included_files_add_servers_and_never_override(home: Path) -> None:
    (home / "team").mkdir()
    (home / "team" / "more.yaml").write_text(
        "include: deep.json\nmcp_servers:\n  a: {url: https://evil.example}\n  b: {url: https://b.example}\n"
    )
    (home / "team" / "deep.json").write_text('{"mcpServers": {"c": {"url": "https://c.example"}}}')
    config = read(home, "include: [team/more.yaml]\nmcp_servers:\n  a: {url: https://a.example}\n")
    assert {name: server.url for name, server in config.servers.items()} == {
        "a": "https://a.example",
        "b": "https://b.example",
        "c": "https://c.example",
    }
    assert len(config.warnings) == 1
    assert "mcp_servers.a is ignored" in config.warnings[0]
    assert "config.yaml:3" in config.warnings[0]


def test_files_that_include_each_other_end(home: Path) -> None:
    (home / "b.yaml").write_text("include: config.yaml\nmcp_servers: {b: {url: https://b.example}}\n")
    assert list(read(home, "include: b.yaml\n").servers) == ["b"]


def test_an_included_file_with_a_gateway_section_is_left_out(home: Path) -> None:
    (home / "b.yaml").write_text("x: 1\ngateway: {verify: none}\nmcp_servers: {b: {command: x}}\n")
    config = read(home, "mcp_servers: {a: {command: x}}\ninclude: b.yaml\n")
    assert (list(config.servers), config.gateway.verify) == (["a"], "auto")
    (warning,) = config.warnings
    assert "b.yaml:2: gateway is in an included file" in warning


def test_an_included_file_that_is_missing_is_left_out(home: Path) -> None:
    config = read(home, "mcp_servers: {a: {command: x}}\ninclude: [gone.yaml, gone/too.yaml]\n")
    assert list(config.servers) == ["a"]
    assert [warning.split(": ")[0] for warning in config.warnings] == [f"{home / 'config.yaml'}:2"] * 2


@pytest.mark.parametrize("include", ["[1]", "{a: b}", '""'])
def test_a_wrong_include_names_file_and_line(home: Path, include: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml:2: include"):
        read(home, f"mcp_servers:\ninclude: {include}\n")


# Files that are no configuration.


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null\n", "mcp_servers:\n"])
def test_an_empty_file_has_no_servers(home: Path, text: str) -> None:
    assert read(home, text).servers == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mcp_servers:\n\ta: 1\n", ":2: YAML needs spaces here, not a tab"),
        ("- a\n", ":1: the file must be a mapping"),
        ("just text\n", ":1: the file must be a mapping"),
        ("a: [1\n", "this is not valid YAML"),
        ("a: 1\n---\nb: 2\n", ":2: the file contains several documents"),
        ("a: *b\n", ":1: an alias has no anchor"),
        ("a: \x07\n", "characters that YAML does not allow"),
        ("mcp_servers: [a]\n", ":1: mcp_servers must be a mapping of names to servers, not a list"),
        ("mcp_servers: 5\n", ":1: mcp_servers must be"),
        ("mcp_servers: {}\nmcp_servers: {}\n", r":2: mcp_servers is defined twice \(lines 1 and 2\)"),
        ("gateway: {}\ngateway: {}\n", ":2: gateway is defined twice"),
        ("a: {b: ${C}}\n", r"put \$\{VAR\} in quotes"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_with_its_line(home: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        read(home, text)


@pytest.mark.parametrize("text", ["[1]", '"a"', '{"a": 1', '{"a": 1} x', "{'a': 1}"])
def test_a_json_file_that_is_none_is_refused(home: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"\.mcp\.json:1: "):
        read(home, text, ".mcp.json")


def test_text_in_another_encoding_is_refused_with_its_line(home: Path) -> None:
    (home / "config.yaml").write_bytes("a: 1\nb: ä\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config\.yaml:2: the file is not UTF-8"):
        load(home=home)


def test_a_byte_order_mark_is_no_part_of_the_text(home: Path) -> None:
    (home / "config.yaml").write_bytes(b"\xef\xbb\xbfmcp_servers: {a: {url: https://a.example}}\n")
    assert list(load(home=home).servers) == ["a"]


def test_a_folder_a_pipe_and_an_unreadable_file_are_refused_at_once(home: Path) -> None:
    os.mkfifo(home / "pipe.yaml")
    for file in (home, home / "pipe.yaml", Path("/dev/zero"), Path("/proc/self/mem"), Path("a\0b")):
        with pytest.raises(ConfigError):
            load(file, home)


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "{a: " * 50_000, "? " * 50_000], ids=range(4))
def test_deep_nesting_is_refused_and_does_not_end_the_process(home: Path, text: str) -> None:
    # Newer libyaml has a limit of its own; the person reads the same sentence.
    with pytest.raises(ConfigError, match="nesting is deeper than 60"):
        read(home, "mcp_servers:\n  " + text)


def test_deep_nesting_in_json_is_refused(home: Path) -> None:
    with pytest.raises(ConfigError):
        read(home, '{"mcpServers": ' + "[" * 100_000 + "]" * 100_000 + "}", ".mcp.json")
    config = read(home, '{"mcpServers": {"a": ' + "[" * 100 + "]" * 100 + "}}", ".mcp.json")
    assert config.servers["a"].problem is not None


@pytest.mark.parametrize("section", ["mcp_servers", "gateway"])
def test_billion_laughs_are_refused_before_they_are_expanded(home: Path, section: str) -> None:
    lines = ["a0: &a0 {url: https://a.example/mcp}"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    # Expanded, they would be 10**29: no machine would get to the end.
    with pytest.raises(ConfigError, match="aliases of this file expand to too much"):
        read(home, "\n".join([*lines, f"{section}: {{x: *a29}}"]))


def test_a_mapping_that_merges_itself_or_holds_itself_is_a_problem(home: Path) -> None:
    config = read(home, "mcp_servers:\n  a: &a {<<: *a, url: https://a.example}\n  b: &b {env: *b, command: x}\n")
    assert config.servers["a"].problem is not None
    assert config.servers["b"].problem is not None


def test_a_legitimate_file_of_ten_megabytes_loads(home: Path) -> None:
    servers = "".join(
        f"  s{i}: {{url: https://h{i}.example/mcp, headers: {{X: '{'k' * 900}'}}}}\n" for i in range(11_000)
    )
    (home / "config.yaml").write_text("mcp_servers:\n" + servers)
    assert (home / "config.yaml").stat().st_size > 10_000_000
    assert len(load(home=home).servers) == 11_000


def test_a_larger_file_is_refused(home: Path) -> None:
    (home / "config.yaml").write_text("a: " + "x" * 20_000_000)
    with pytest.raises(ConfigError, match="larger than 20 MB"):
        load(home=home)


# One bad server.


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{}", "needs a url or a command"),
        ("", "mcp_servers.bad must be a mapping, but it is empty"),
        ("text", "mcp_servers.bad must be a mapping, not text"),
        ("[url]", "mcp_servers.bad must be a mapping, not a list"),
        ("{url: https://a.example, command: x}", "has both url and command"),
        ("{url: ftp://a.example}", "mcp_servers.bad.url must begin with https:// or http://"),
        ("{url: a.example/mcp}", "mcp_servers.bad.url must begin with https://"),
        ("{url: 'https://'}", "mcp_servers.bad.url has no host"),
        ("{url: 'https://a b'}", "mcp_servers.bad.url is not a "),
        ("{url: 'https://a.example:99999'}", "mcp_servers.bad.url is not a "),
        ("{url: 'https://[::1'}", "mcp_servers.bad.url is not a "),
        ("{url: 'https://u:p@a.example/'}", "mcp_servers.bad.url contains a user name"),
        ("{url: 'https://a.example/#x'}", "mcp_servers.bad.url must not have a fragment"),
        ("{url: http://a.example/mcp}", "is plain http beyond loopback"),
        ("{url: http://127.0.0.1.example/mcp}", "is plain http beyond loopback"),
        ("{url: http://a.example, allow_http: true, auth: oauth}", "OAuth needs https"),
        ("{url: https://a.example, auth: bearer}", "mcp_servers.bad.auth must be oauth"),
        ("{url: https://a.example, auth: 5}", "mcp_servers.bad.auth must be oauth, not a whole number"),
        ("{command: x, auth: oauth}", "mcp_servers.bad.auth is oauth, but this server is a command"),
        ("{command: ''}", "mcp_servers.bad.command is empty"),
        ("{command: x, transport: http}", "there is none"),
        ("{url: https://a.example, type: stdio}", "there is none"),
        ("{url: https://a.example, type: ws}", "mcp_servers.bad.type must be http"),
        ("{url: https://a.example, type: sse, transport: http}", "contradict"),
        ("{url: https://a.example, auth: oauth, headers: {authorization: x}}", "cannot be combined with auth: oauth"),
        ("{url: https://a.example, headers: [a]}", "mcp_servers.bad.headers must be a mapping, not a list"),
        (
            "{url: https://a.example, headers: {A: ok, X-Id: 5}}",
            "mcp_servers.bad.headers.X-Id must be text, not a whole number",
        ),
        ("{url: https://a.example, headers: {A: }}", "mcp_servers.bad.headers.A must be text, but it is empty"),
        ("{url: https://a.example, headers: {'a b': x}}", "is not a valid header name"),
        ('{url: https://a.example, headers: {A: "x\\ny"}}', "mcp_servers.bad.headers.A contains a line break"),
        (
            "{url: https://a.example, headers: {A: '${input:key}'}}",
            "mcp_servers.bad.headers.A has a malformed placeholder",
        ),
        ("{url: https://a.example, enabled: maybe}", "mcp_servers.bad.enabled must be true or false, not text"),
        ("{url: https://a.example, timeout: -1}", "mcp_servers.bad.timeout must be a number greater than 0"),
        ("{url: https://a.example, timeout: .nan}", "mcp_servers.bad.timeout must be a number"),
        ("{url: https://a.example, timeout: .inf}", "mcp_servers.bad.timeout must be a number"),
        ("{url: https://a.example, timeout: true}", "mcp_servers.bad.timeout must be a number, not true or false"),
        ("{url: https://a.example, tools: {include: {a: b}}}", "mcp_servers.bad.tools.include must be"),
        ("{url: https://a.example, tools: {include: [a, 1]}}", "mcp_servers.bad.tools.include[1] must be"),
        ("{url: https://a.example, identity: mine}", "must be shared or per_user"),
        ("{url: https://a.example, url: https://b.example}", "mcp_servers.bad.url is defined twice"),
        ("{url: !!python/object:os.system x}", "has a YAML tag"),
        ("{url: !!int x}", "does not match its YAML tag"),
        ("{[a]: b}", "has a key that is not a plain word"),
        ("{command: x, args: text}", "mcp_servers.bad.args must be a list, not text"),
        (
            "{command: x, args: [a, 8080]}",
            "mcp_servers.bad.args[1] must be text, not a whole number; put it in quotes",
        ),
        ("{command: x, env: {A: true}}", "mcp_servers.bad.env.A must be text, not true or false; put it in quotes"),
        ("{command: x, env: {'A=B': x}}", "mcp_servers.bad.env has an invalid variable name"),
    ],
)
def test_a_bad_entry_is_misconfigured_and_the_others_work(home: Path, entry: str, expected: str) -> None:
    found = problem(home, entry)
    assert expected in found
    assert found.startswith("config.yaml:2: mcp_servers.bad")


@pytest.mark.parametrize(
    ("oauth", "expected"),
    [
        ("true", "oauth must be a mapping, not true or false"),
        ("{client_id: 5}", "oauth.client_id must be"),
        ("{client_id: '${ID}'}", "oauth.client_id contains a placeholder"),
        ("{redirect_uri: http://bot.example/cb}", "oauth.redirect_uri is plain http beyond loopback"),
        ("{redirect_uri: myapp://cb}", "oauth.redirect_uri must begin with https://"),
        ("{redirect_port: 70000}", "oauth.redirect_port must be a whole number of at most 65535"),
        ("{redirect_host: 0.0.0.0}", "oauth.redirect_host must be loopback"),
        ("{client_metadata_url: https://a.example}", "oauth.client_metadata_url is not an https URL with a path"),
        ("{client_metadata_url: http://127.0.0.1/x}", "oauth.client_metadata_url is not an https URL with a path"),
        ("{application_type: phone}", "must be native or web"),
        ("{token_endpoint_auth_method: jwt}", "must be none, client_secret_post or client_secret_basic"),
        ("{resource: 5}", "oauth.resource must be"),
        ("{resource: 'a b'}", "oauth.resource must be an absolute URI"),
        ("{resource: 'https://a.example/#f'}", "oauth.resource must be an absolute URI"),
        ("{scope: [a]}", "oauth.scope must be"),
        ("{authorize_params: {state: null}}", "oauth.authorize_params.state cannot be set"),
        ("{issuer: http://as.example}", "oauth.issuer is not an https URL"),
        ("{issuer: as.example}", "oauth.issuer must begin with https://"),
        ("{issuer: 'https://as.example/?a=1'}", "oauth.issuer contains a query"),
        ("{issuer: 'https://as.example/#a'}", "oauth.issuer must not have a fragment"),
        ("{issuer: 'https://as.example/{tenant}'}", "oauth.issuer contains braces"),
        ("{issuer: 'https://as.example/${TENANT}'}", "oauth.issuer contains a placeholder"),
        ("{issuer: true}", "oauth.issuer must be"),
        ("{cimd: 1}", "oauth.cimd must be"),
        ("{authorize_params: {a: 1}}", "oauth.authorize_params.a must be"),
        *(
            (f"{{authorize_params: {{{name}: x}}}}", f"oauth.authorize_params.{name} cannot be set")
            for name in [
                "state",
                "redirect_uri",
                "client_id",
                "code_challenge",
                "code_challenge_method",
                "response_type",
                "response_mode",
                "request",
                "request_uri",
                "resource",
                "scope",
                "STATE",
            ]
        ),
    ],
)
def test_a_bad_oauth_block_is_misconfigured(home: Path, oauth: str, expected: str) -> None:
    assert expected in problem(home, f"{{url: https://a.example, auth: oauth, oauth: {oauth}}}")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/mcp", "http://localhost/mcp", "http://[::1]:1/mcp"])
def test_oauth_over_http_is_for_loopback(home: Path, url: str) -> None:
    config = read(home, f"mcp_servers:\n  a: {{url: '{url}', auth: oauth, oauth: {{redirect_port: 0}}}}\n")
    assert config.servers["a"].problem is None
    assert config.servers["a"].oauth.redirect_port is None


@pytest.mark.parametrize(
    "entry",
    ["{url: '${URL}'}", "{url: 'https://${HOST}/mcp'}", "{url: 'https://a.example/?k=${K:-x}'}", "{command: '${CMD}'}"],
)
def test_a_placeholder_where_nothing_resolves_it_is_misconfigured_and_never_sent(home: Path, entry: str) -> None:
    assert "contains a placeholder, but this key cannot use variables" in problem(home, entry)


def test_plain_http_in_the_home_network_needs_allow_http(home: Path) -> None:
    config = read(home, "mcp_servers:\n  a: {url: http://10.0.0.5/mcp, allow_http: true}\n")
    assert config.servers["a"].problem is None


def test_a_server_name_with_control_characters_is_misconfigured_and_shown_without_them(home: Path) -> None:
    config = read(home, '{"mcpServers": {"a\\n\\u001b[31mb": {"url": "https://a.example"}}}', ".mcp.json")
    (server,) = config.servers.values()
    assert server.problem is not None
    assert server.problem.isprintable()


def test_half_a_surrogate_pair_is_a_problem_and_no_crash(home: Path) -> None:
    config = read(home, '{"mcpServers": {"a": {"url": "https://a.example/\\ud800"}}}', ".mcp.json")
    assert "half a surrogate pair" in (config.servers["a"].problem or "")


def test_a_server_that_stands_there_twice_is_misconfigured(home: Path) -> None:
    config = read(home, "mcp_servers:\n  a: {url: https://a.example}\n  b: {command: x}\n  a: {command: y}\n")
    assert "mcp_servers.a is defined twice (lines 2 and 4)" in (config.servers["a"].problem or "")
    assert config.servers["b"].problem is None


def test_names_that_share_a_hermes_file_are_misconfigured_and_name_each_other(home: Path) -> None:
    config = read(
        home,
        """
        mcp_servers:
          my api: {url: https://a.example, auth: oauth}
          My.API: {url: https://b.example}
          my/api: {command: x}
          my_api: {url: https://c.example, headers: {X-Key: k}}
        """,
    )
    assert "as My.API; rename" in (config.servers["my api"].problem or "")
    assert "as my api; rename" in (config.servers["My.API"].problem or "")
    assert config.servers["my/api"].problem is None
    assert config.servers["my_api"].problem is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a b", "a_b"), ("__x__", "x"), ("", "default"), ("///", "default"), ("ü-1", "ü-1"), ("a" * 200, "a" * 128)],
)
def test_mirror_names_are_those_of_hermes(name: str, expected: str) -> None:
    assert mirror_name(name) == expected


def test_unknown_keys_are_warned_about_once(home: Path) -> None:
    config = read(
        home,
        """
        mcp_servers:
          a:
            url: https://a.example
            nonsense: 1
            more: 2
            oauth: {scopes: x}
            tools: {only: [a], prompts: false}
        model: {default: x}
        gateway: {colour: red, matrx: {a: b}, my_platform: {token: x}}
        """,
    )
    assert config.servers["a"].problem is None
    text = "\n".join(config.warnings)
    assert "mcp_servers.a has unknown keys, which are ignored: more, nonsense" in text
    assert "mcp_servers.a.oauth has unknown keys, which are ignored: scopes" in text
    assert "mcp_servers.a.tools has unknown keys, which are ignored: only" in text
    assert "gateway has unknown keys, which are ignored: colour" in text
    assert "gateway.matrx is not a known key and counts as a platform; did you mean matrix?" in text
    assert len(config.warnings) == 5
    assert set(config.gateway.platforms) == {"matrx", "my_platform"}


def test_a_section_of_another_name_is_hinted_at(home: Path) -> None:
    config = read(home, "mcpServers: {a: {url: https://a.example}}\n")
    assert config.servers == {}
    assert "write mcp_servers" in config.warnings[0]


# The gateway section.


@pytest.mark.parametrize(
    ("gateway", "expected"),
    [
        ("[a]", "gateway must be a mapping, not a list"),
        ("{callback: {port: x}}", "gateway.callback.port must be a whole number, not text"),
        ("{callback: {port: 0}}", "gateway.callback.port must be a whole number of at least 1"),
        ("{callback: 8765}", "gateway.callback must be a mapping, not a whole number"),
        ("{public_url: http://bot.example}", "gateway.public_url is plain http beyond loopback"),
        ("{public_url: bot.example}", "gateway.public_url must begin with https://"),
        ("{public_url: 'https://bot.example/?a=b'}", "gateway.public_url must not have a query"),
        ("{store: sqlite}", "gateway.store must be files; this version has no other store."),
        ("{store: memory}", "gateway.store must be files; this version has no other store."),
        ("{store: 'postgresql://u:p@db/x'}", "gateway.store must be files; this version has no other store"),
        ("{store: '${DATABASE_URL}'}", "gateway.store must be files; this version has no other store"),
        ("{identity: own}", "gateway.identity must be shared or per_user"),
        ("{allow: [1]}", r"gateway.allow\[0\] must be text, not a whole number"),
        ("{allow: [ann]}", r"gateway.allow\[0\] is not an account"),
        ("{allow: ['telegram:']}", r"gateway.allow\[0\] is not an account"),
        ("{allow: ['telegram:${ME}']}", r"gateway.allow\[0\] is not an account"),
        ("{allow: ['telegram:1 2']}", r"gateway.allow\[0\] is not an account"),
        ("{admins: [ann]}", r"gateway.admins\[0\] is not an account"),
        ("{people: {ann: [1]}}", r"gateway.people.ann\[0\] must be text"),
        ("{people: {ann: [bob]}}", r"gateway.people.ann\[0\] is not an account"),
        ("{people: {'a:b': []}}", "is not a valid name for a person"),
        ("{people: {a: ['x:1'], b: ['x:1']}}", r"gateway.people.b\[0\] already belongs to a"),
        ("{verify: maybe}", "gateway.verify must be auto"),
        ("{network: {allow: [5]}}", r"gateway.network.allow\[0\] must be text"),
        ("{telegram: abc}", "gateway.telegram must be a mapping, not text"),
        ("{telegram: {token: '${A-b}'}}", "gateway.telegram.token has a malformed placeholder"),
        ("{store: files, store: memory}", "gateway.store is defined twice"),
        ("{telegram: {token: a, token: b}}", "gateway.telegram.token is defined twice"),
    ],
)
def test_a_bad_gateway_section_refuses_to_start(home: Path, gateway: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"config\.yaml:3: {expected}" if expected[0] == "g" else expected) as caught:
        read(home, f"mcp_servers:\n  a: {{url: https://a.example}}\ngateway: {gateway}\n")
    assert caught.value.line == 3


@pytest.mark.parametrize(
    "gateway",
    [
        "{allow: ['telegram:1'], verify: none}",
        "{allow: ['telegram:1', 'cli:local'], verify: none}",
        "{allow: ['telegram:1', 'discord:2'], people: {ann: ['telegram:1', 'discord:2']}, verify: none}",
        "{allow: ['telegram:1', 'discord:2'], identity: per_user}",
        "{allow: ['telegram:1', 'discord:2'], admins: ['telegram:1']}",
        "{allow: telegram:1}",
        "{public_url: 'http://127.0.0.1:8000/base/'}",
        "{store: files}",
        "{telegram: }",
    ],
)
def test_a_gateway_that_one_person_uses_or_that_names_admins_starts(home: Path, gateway: str) -> None:
    config = read(home, f"mcp_servers:\n  a: {{url: https://a.example}}\ngateway: {gateway}\n")
    assert config.servers["a"].problem is None


def test_several_people_on_a_shared_server_without_admins_refuse_to_start(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.admins is missing"):
        read(home, "mcp_servers: {a: {url: https://a.example}}\ngateway: {allow: ['telegram:1', 'telegram:2']}\n")
    with pytest.raises(ConfigError, match=r"gateway\.admins is missing"):
        read(
            home,
            "mcp_servers: {a: {url: https://a.example, identity: shared}}\n"
            "gateway: {identity: per_user, allow: ['telegram:1', 'telegram:2'], people: {ann: ['telegram:1']}}\n",
        )


def test_no_proof_with_several_people_refuses_to_start(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.verify is none while several people"):
        read(home, "gateway: {allow: ['a:1', 'b:2'], admins: ['a:1'], verify: none}\n")


def test_every_variable_that_the_gateway_mentions_is_reserved(home: Path) -> None:
    config = read(
        home,
        """
        gateway:
          network: {proxy: "http://u:${DB_PASSWORD}@proxy/"}
          slack: {bot_token: "${env:SLACK_BOT}", nested: [{deep: "a ${DEEP:-x} b"}]}
        """,
    )
    assert config.gateway_variables == {"DB_PASSWORD", "SLACK_BOT", "DEEP"}


# What never shows.


def test_values_never_show_in_errors_warnings_or_repr(home: Path) -> None:
    entries = [
        f"{{url: https://a.example, auth: {SECRET}}}",
        f"{{url: 'https://u:{SECRET}@a.example'}}",
        f"{{url: https://a.example, headers: [{SECRET}]}}",
        f"{{url: https://a.example, headers: {{A: '${{x:{SECRET}}}'}}}}",
        f"{{url: https://a.example, oauth: {{application_type: {SECRET}, client_secret: {SECRET}}}}}",
        f"{{url: https://a.example, transport: {SECRET}}}",
        f"{{url: https://a.example, timeout: {SECRET}}}",
        f"{{url: !!int {SECRET}}}",
        f"{{url: https://a.example, x: {SECRET}, enabled: {SECRET}}}",
    ]
    servers = "".join(f"  s{index}: {entry}\n" for index, entry in enumerate(entries))
    fine = (
        f"  ok: {{url: 'https://a.example/?key={SECRET}', headers: {{A: {SECRET}}}, "
        f"oauth: {{client_secret: {SECRET}}}}}\n"
        f"  run: {{command: x, args: [{SECRET}], env: {{A: {SECRET}}}}}\n"
    )
    config = read(home, f"mcp_servers:\n{servers}{fine}gateway: {{telegram: {{token: {SECRET}}}}}\n")
    assert sum(server.problem is not None for server in config.servers.values()) == len(entries)
    assert SECRET not in repr(config)
    assert SECRET not in str([config, *config.warnings])
    for gateway in (
        f"{{store: {SECRET}}}",
        f"{{verify: {SECRET}}}",
        f"{{telegram: {SECRET}}}",
        f"{{allow: [{SECRET}]}}",
    ):
        with pytest.raises(ConfigError) as caught:
            read(home, f"gateway: {gateway}\n")
        assert SECRET not in str(caught.value)
        assert caught.value.__context__ is None


# Filters.


def test_include_wins_over_exclude() -> None:
    tools = ToolFilter(include=("read_*", "search"), exclude=("read_secret",))
    assert [tools.selects(name) for name in ("read_secret", "search", "Search", "write")] == [True, True, False, False]
    assert [ToolFilter(exclude=("drop_*",)).selects(name) for name in ("drop_all", "read")] == [False, True]
    assert ToolFilter().selects("anything")


def test_reading_the_configuration_imports_nothing_heavy() -> None:
    code = "import sys, mcp_auth.config.load, mcp_auth.config.sections; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"mcp", "httpx2", "pydantic", "starlette", "asyncio", "dotenv", "filelock"} & set(loaded)


# Properties.

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
_server_keys = st.sampled_from(
    [
        "url",
        "command",
        "args",
        "env",
        "headers",
        "auth",
        "oauth",
        "enabled",
        "timeout",
        "connect_timeout",
        "tools",
        "transport",
        "type",
        "identity",
        "allow_http",
        "cwd",
        "disabled",
    ]
)
_gateway_keys = st.sampled_from(
    [
        "public_url",
        "callback",
        "store",
        "identity",
        "allow",
        "admins",
        "people",
        "verify",
        "allow_paste",
        "network",
        "telegram",
        "other",
    ]
)
_documents = st.fixed_dictionaries(
    {},
    optional={
        "mcp_servers": st.dictionaries(
            st.text(max_size=8), st.dictionaries(_server_keys, _values, max_size=5) | _values, max_size=4
        ),
        "gateway": st.dictionaries(_gateway_keys, _values, max_size=5) | _values,
        "other": _values,
    },
)
_many = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.parametrize(
    "people", ["{'0': [], x: [null]}", "{a: {}, b: [null]}", "{a: [telegram:1], b: 7}"], ids=range(3)
)
def test_a_wrong_value_is_found_beside_right_ones_of_another_shape(home: Path, people: str) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.people"):
        read(home, f"gateway:\n  people: {people}\n")


@_many
@given(document=_documents)
@example(document={"gateway": {"people": {"0": [], "": [None]}}})
def test_any_shape_loads_or_is_a_configuration_error(tmp_path: Path, document: dict[str, object]) -> None:
    for name, text in (("c.yaml", yaml.safe_dump(document, allow_unicode=True)), ("c.json", json.dumps(document))):
        (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            config = load(tmp_path / name, tmp_path)
        except ConfigError:
            continue
        for server in config.servers.values():
            assert server.problem is not None or (server.url is None) != (server.command is None)


@_many
@given(data=st.binary(max_size=200) | st.text(alphabet="{}[]&*!|>-?:,#'\"\t\n ab$~<", max_size=80).map(str.encode))
def test_any_bytes_load_or_are_a_configuration_error(tmp_path: Path, data: bytes) -> None:
    for name in ("c.yaml", "c.json"):
        (tmp_path / name).write_bytes(b"mcp_servers:\n  a: " + data if name == "c.yaml" else data)
        try:
            load(tmp_path / name, tmp_path)
        except ConfigError as error:
            assert error.file is not None


@_many
@given(
    headers=st.dictionaries(
        st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,10}", fullmatch=True),
        st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="$")),
        max_size=4,
    ),
    args=st.lists(
        st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="$")), max_size=4
    ),
)
def test_texts_come_back_as_written(tmp_path: Path, headers: dict[str, str], args: list[str]) -> None:
    document = {
        "mcp_servers": {"a": {"url": "https://a.example", "headers": headers}, "b": {"command": "x", "args": args}}
    }
    for name, text in (("c.yaml", yaml.safe_dump(document, allow_unicode=True)), ("c.json", json.dumps(document))):
        (tmp_path / name).write_text(text, encoding="utf-8")
        config = load(tmp_path / name, tmp_path)
        assert (config.servers["a"].headers, config.servers["b"].args) == (headers, tuple(args))


@pytest.mark.parametrize("proxies", ["[nginx]", "[10.0.0.0/99]", "['*']", "[10.0.0.1/8]"])
def test_trusted_proxies_are_addresses_and_networks(home: Path, proxies: str) -> None:
    text = f"gateway:\n  trusted_proxies: {proxies}\n"
    with pytest.raises(ConfigError, match=r"gateway\.trusted_proxies\[0\] must be an address or a network"):
        read(home, text)
