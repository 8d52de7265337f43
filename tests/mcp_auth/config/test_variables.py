"""Placeholders, and what they resolve to."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_auth.config.env_file import write
from mcp_auth.config.models import OAuthOptions, Server
from mcp_auth.config.variables import Reference, Variables, is_malformed, references
from mcp_auth.errors import KeyInvalid, KeyMissing, StoreError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KEY", "OTHER", "BOT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def variables(home: Path, env_file: str | None = None, reserved: frozenset[str] = frozenset()) -> Variables:
    if env_file is not None:
        (home / ".env").write_text(env_file, encoding="utf-8")
    return Variables(home / ".env", reserved)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("Bearer ${KEY}", (Reference("KEY"),)),
        ("${env:KEY}", (Reference("KEY"),)),
        ("${KEY:-a b}", (Reference("KEY", "a b"),)),
        ("${KEY:-}", (Reference("KEY", ""),)),
        ("${A}-${B:-2}${A}", (Reference("A"), Reference("B", "2"), Reference("A"))),
        ("$KEY $ {KEY} $$ ${} ${1A} ${ä}", ()),
    ],
)
def test_placeholders_are_found(template: str, found: tuple[Reference, ...]) -> None:
    assert references(template) == found


@pytest.mark.parametrize("template", ["${input:key}", "${A", "${A-b}", "${A:-${B}}", "${}", "${A }", "${A}${"])
def test_a_placeholder_of_another_form_is_malformed(home: Path, template: str) -> None:
    assert is_malformed(template)
    with pytest.raises(KeyMissing):
        variables(home, "A=1\nB=2\n").resolve(template)


@pytest.mark.parametrize("template", ["", "$", "$KEY", "$${A}{", "${A}", "{A}", "a$"])
def test_a_dollar_without_a_brace_is_text(template: str) -> None:
    assert not is_malformed(template)


def test_the_env_file_comes_before_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "from environment")
    monkeypatch.setenv("OTHER", "only here")
    found = variables(home, "KEY=from-file\n")
    assert found.resolve("${KEY}|${env:OTHER}|$KEY|$") == "from-file|only here|$KEY|$"


def test_an_empty_value_counts_as_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "")
    monkeypatch.setenv("BOT", "fallback")
    found = variables(home, "KEY=\nBOT=\n")
    assert [found.lookup(name) for name in ("KEY", "OTHER", "BOT")] == [None, None, "fallback"]
    assert found.resolve("${KEY:-default}") == "default"


def test_a_missing_variable_is_named_and_nothing_half_resolved_comes_back(home: Path) -> None:
    with pytest.raises(KeyMissing) as caught:
        variables(home, "KEY=abc\n").resolve("${KEY} ${OTHER} ${BOT} ${OTHER}")
    assert caught.value.variables == ("OTHER", "BOT")
    assert "abc" not in str(caught.value)


def test_what_is_missing_is_told_in_order_and_once(home: Path) -> None:
    found = variables(home, "KEY=abc\n", reserved=frozenset({"BOT"}))
    wanted = ["${BOT} ${OTHER}", "${KEY} ${OTHER} ${D:-x}", "${SLASH_MCP_KEY:-x}"]
    assert found.missing(wanted) == ("BOT", "OTHER", "SLASH_MCP_KEY")
    assert found.missing(["${KEY}"], keys={}) == ("KEY",)
    assert found.missing(["${KEY}"], keys={"KEY": "x"}) == ()


@pytest.mark.parametrize("name", ["BOT", "SLASH_MCP_SECRET", "slash_mcp_secret"])
@pytest.mark.parametrize("form", ["${%s}", "${%s:-default}", "${env:%s}"])
def test_the_gateways_variables_never_resolve_in_a_servers_entry(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str
) -> None:
    monkeypatch.setenv(name, "bot-token")
    found = variables(home, f"{name}=bot-token\n", reserved=frozenset({"BOT"}))
    for keys in (None, {name: "bot-token"}):
        with pytest.raises(KeyMissing, match="reserved for the gateway") as caught:
            found.resolve(form % name, keys=keys)
        assert caught.value.variables == (name,)
        assert "bot-token" not in str(caught.value)
    assert found.resolve_gateway(form % name) == "bot-token"


def test_with_keys_of_an_owner_nothing_else_is_looked_at(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "operator's")
    found = variables(home, "KEY=operator's\n")
    assert found.resolve("${KEY}", keys={"KEY": "ann's"}) == "ann's"
    with pytest.raises(KeyMissing) as caught:
        found.resolve("${KEY} ${OTHER}", keys={"KEY": ""})
    assert caught.value.variables == ("KEY", "OTHER")


def test_a_rotated_key_is_seen_without_a_restart(home: Path) -> None:
    found = variables(home, "KEY=old\n")
    assert found.resolve("${KEY}") == "old"
    (home / "new").write_text("KEY=new\n")
    (home / "new").replace(home / ".env")
    assert found.resolve("${KEY}") == "new"
    (home / ".env").unlink()
    assert found.lookup("KEY") is None


@pytest.mark.parametrize(
    ("template", "value", "sent"),
    [
        ("Bearer ${KEY}", "Bearer abc", "Bearer abc"),
        ("Bearer ${KEY}", "bearer  abc", "Bearer abc"),
        ("Bearer ${KEY}", "abc", "Bearer abc"),
        ("Bearer ${KEY}", "bearerabc", "Bearer bearerabc"),
        ("${KEY}", "Bearer abc", "Bearer abc"),
        ("Token ${KEY}", "Bearer abc", "Token Bearer abc"),
    ],
)
def test_bearer_is_never_doubled(home: Path, template: str, value: str, sent: str) -> None:
    assert variables(home).resolve(template, keys={"KEY": value}) == sent


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a ${OTHER}"])
def test_a_value_that_would_break_a_header_or_is_a_placeholder_is_not_sent(home: Path, value: str) -> None:
    with pytest.raises(KeyInvalid, match="KEY") as caught:
        variables(home).resolve("${KEY}", keys={"KEY": value})
    assert value not in str(caught.value)


def test_values_of_the_env_file_are_not_expanded(home: Path) -> None:
    assert variables(home, "KEY='a$OTHER'\nOTHER=x\n").resolve("${KEY}") == "a$OTHER"


def test_a_damaged_env_file_is_an_error_that_names_it(home: Path) -> None:
    (home / ".env").write_bytes("KEY=x\n".encode("utf-16"))
    with pytest.raises(StoreError, match=r"\.env is not UTF-8"):
        variables(home).lookup("KEY")
    (home / ".env").unlink()
    (home / ".env").mkdir()
    with pytest.raises(StoreError, match="not a regular file"):
        variables(home).lookup("KEY")
    (home / ".env").rmdir()
    os.mkfifo(home / ".env")
    with pytest.raises(StoreError, match="not a regular file"):
        variables(home).lookup("KEY")


def test_a_broken_line_does_not_hide_the_others(home: Path) -> None:
    assert variables(home, "BROKEN='abc\nKEY=x\n???\n").lookup("KEY") == "x"


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        (b"A=a\nKEY='abc\nB=b\n", ["2: this is no line of the form NAME=value, and it is left out."]),
        (b"A=a\n\n\n=what is this\nB=b\n", ["4: this is no line of the form NAME=value, and it is left out."]),
        (b"A=a\n# caf\xe9\nKEY=caf\xe9\nB=b\n", ["3: KEY is not UTF-8 text and counts as missing."]),
        (b"A=a\r\nKEY='x\xff'\r\nB=b\r\n", ["2: KEY is not UTF-8 text and counts as missing."]),
        (b"A=a\nK\xe9Y=x\nB=b", ["2: this is no line of the form NAME=value, and it is left out."]),
        (b"A=a\n# caf\xe9\nB=b # \xff\n", []),
        (b"\xef\xbb\xbfA=a\nKEY=\x80\nB=b\n", ["2: KEY is not UTF-8 text and counts as missing."]),
    ],
)
def test_a_bad_byte_costs_its_line_and_is_said_with_file_and_line(
    home: Path, text: bytes, warned: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # What the environment holds is of before, and is not sent in place of a line that cannot be read.
    monkeypatch.setenv("KEY", "old")
    (home / ".env").write_bytes(text)
    heard: list[str] = []
    read = Variables(home / ".env", warn=heard.append)
    assert (read.lookup("A"), read.lookup("B")) == ("a", "b")
    assert heard == [f"{home / '.env'}:{one}" for one in warned]
    if "KEY" in "".join(warned):
        assert read.lookup("KEY") is None
    # And a key can be set beside it; every other byte stays
    write(home / ".env", {"NEW": "n"})
    assert (home / ".env").read_bytes().startswith(text)
    assert read.lookup("NEW") == "n"
    # Nothing comes from the library, raw
    assert "python-dotenv" not in caplog.text


def test_every_text_of_an_entry_that_may_hold_placeholders_is_known_by_its_place() -> None:
    server = Server(
        name="a",
        url="u",
        command="c",
        args=("x", "y"),
        env={"E": "e"},
        headers={"H": "h"},
        cwd="d",
        oauth=OAuthOptions(client_secret="s"),
    )
    assert server.templates() == {
        "url": "u",
        "command": "c",
        "cwd": "d",
        "oauth.client_secret": "s",
        "args[0]": "x",
        "args[1]": "y",
        "headers.H": "h",
        "env.E": "e",
    }


_many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_many
@given(
    template=st.text(alphabet="${}:-ABenv xä", max_size=40),
    keys=st.dictionaries(st.sampled_from(["A", "B", "AB", "e"]), st.text(max_size=10)),
)
def test_a_resolved_text_never_holds_a_placeholder(tmp_path: Path, template: str, keys: dict[str, str]) -> None:
    try:
        resolved = variables(tmp_path).resolve(template, keys=keys)
    except (KeyMissing, KeyInvalid):
        return
    assert not references(resolved) or "$" in "".join(keys.values())
    if "${" not in template:
        assert resolved == template
    assert all(reference.default is not None or keys.get(reference.name) for reference in references(template))


PLAIN = ["", "#", "# KEY=1", "KEY=plain-1.2/3", "KEY=", "OTHER=a=b==", "_X9=%41,~@+:"]
NOT_PLAIN = ["KEY=two words", "KEY='q'", 'KEY="q"', "KEY=a#b", "KEY=a #b", " KEY=1", "KEY =1", "export KEY=1", "KEY"]
NOT_PLAIN += ["KEY=$A", "KEY=a\\b", "9=1", "KEY=\u00e4", "\x0c", "KEY=1\r"]
LINES = st.sampled_from([*PLAIN, *NOT_PLAIN])


@given(st.lists(st.one_of(LINES, st.text("KO=#-.\n\r '$a", max_size=8)), max_size=5), st.sampled_from(["", "\n"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
def test_a_file_is_read_as_python_dotenv_reads_it_with_and_without_its_parser(
    home: Path, lines: list[str], end: str
) -> None:
    text = "\n".join(lines) + end
    (home / ".env").write_text(text, newline="")

    read = dotenv_values(stream=StringIO(text, newline=""), interpolate=False)
    values = {name: value or None for name, value in read.items() if name not in os.environ}

    found = variables(home)
    assert {name: found.lookup(name) for name in values} == values


def test_a_plain_file_needs_no_parser(home: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from mcp_auth.config.variables import Variables;"
        "found = Variables(Path(sys.argv[1]) / '.env').lookup('KEY');"
        "print(found, 'dotenv' in sys.modules)"
    )
    for text, said in (("# keys\nKEY=sk-1\n", "sk-1 False"), ("KEY='sk 1'\n", "sk 1 True")):
        (home / ".env").write_text(text)
        shown = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == said
