"""What a terminal shows, from data to text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from adapters.terminal.render import render
from adapters.text import clean, cut, width, wrap
from gateway.replies import Button, Checklist, ChecklistItem, ItemState, Reply, ServerDetail, ServerList, Table, Text
from gateway.surfaces import shell_command
from mcp_auth.outcome import Next, Outcome, Shell
from mcp_auth.status import AuthState, ConnectionState, ConnectionStatus, ServerStatus

NOW = 1_800_000_000.0
SUPABASE = ServerStatus("supabase", "http", "https://mcp.supabase.com/mcp", "all", AuthState.SIGN_IN_NEEDED)
MY_API = ServerStatus(
    "my-api",
    "http",
    "https://api.example.com/mcp",
    "2 selected",
    AuthState.KEY_MISSING,
    variables=("MCP_MY_API_API_KEY",),
)
DEVTOOLS = ServerStatus("chrome-devtools", "stdio", "npx -y chrome-devtools-mcp", "all", AuthState.NONE_NEEDED)
HINT = "Use /mcp auth to authenticate servers"
LINK = f"https://as.example/authorize?{'x' * 600}&state=abc%20def"


def shown(*servers: ServerStatus, columns: int = 120, color: bool = False, hint: str | None = HINT) -> str:
    return render(Reply((ServerList(servers, hint),)), columns=columns, color=color, now=NOW)


def test_the_list_has_its_form() -> None:
    assert shown(SUPABASE, MY_API, DEVTOOLS) == (
        "MCP Servers:\n"
        "\n"
        "  Name             Transport                      Tools        Status\n"
        "  ──────────────── ────────────────────────────── ──────────── ─────────────────────────────────\n"
        "  supabase         https://mcp.supabase.com/mcp   all          ! sign-in needed\n"
        "  my-api           https://api.example.com/mcp    2 selected   ✗ key missing: MCP_MY_API_API_KEY\n"
        "  chrome-devtools  npx -y chrome-devtools-mcp     all          ✓ none needed\n"
        "\n"
        "  Use /mcp auth to authenticate servers"
    )


def test_long_cells_are_cut() -> None:
    long = replace(DEVTOOLS, name="n" * 40, target=f"npx {'arg ' * 40}")
    (row,) = (line for line in shown(long).splitlines() if "nnn" in line)
    assert row.startswith(f"  {'n' * 21}... npx arg")
    assert row.count("...") == 2


@pytest.mark.parametrize("columns", range(70, 130))
def test_no_line_of_the_table_is_wider_than_the_terminal(columns: int) -> None:
    reason = replace(SUPABASE, auth=AuthState.MISCONFIGURED, detail="a reason that goes on " * 10)
    text = shown(SUPABASE, MY_API, replace(DEVTOOLS, target="npx " * 30), reason, columns=columns)
    assert max(width(line) for line in text.splitlines()) <= columns
    assert "✗ key missing: MCP_MY_A" in text


def test_in_eighty_columns_the_address_gives_way_and_the_status_stays_whole() -> None:
    text = shown(SUPABASE, MY_API, DEVTOOLS, columns=80)
    assert "✗ key missing: MCP_MY_API_API_KEY" in text
    assert "chrome-devtools " in text
    assert "https://mcp.su..." in text
    assert "2 selected" in text


def test_an_empty_column_gives_its_room_to_the_address() -> None:
    text = shown(SUPABASE, DEVTOOLS, columns=64 + 16)
    assert "https://mcp.supabase.com/mcp " in text


def test_a_narrow_screen_gets_a_card_per_server() -> None:
    assert shown(SUPABASE, MY_API, columns=50) == (
        "MCP Servers:\n"
        "\n"
        "supabase\n"
        "  ! sign-in needed\n"
        "  https://mcp.supabase.com/mcp\n"
        "  tools: all\n"
        "\n"
        "my-api\n"
        "  ✗ key missing: MCP_MY_API_API_KEY\n"
        "  https://api.example.com/mcp\n"
        "  tools: 2 selected\n"
        "\n"
        "  Use /mcp auth to authenticate servers"
    )


def test_two_hundred_servers_get_a_line_each() -> None:
    text = shown(*(replace(DEVTOOLS, name=f"server-{number}") for number in range(200)), hint=None)
    assert len(re.findall(r"^  server-\d+ .*✓ none needed$", text, re.MULTILINE)) == 200


def test_a_live_result_stands_beside_the_status() -> None:
    ready = replace(DEVTOOLS, connection=ConnectionStatus(ConnectionState.READY, ("a", "b"), 41))
    assert "✓ none needed, ready (2 tools, 41 ms)" in shown(ready)


@pytest.mark.parametrize(
    ("state", "mark", "words"),
    [
        (AuthState.NONE_NEEDED, "✓", "none needed"),
        (AuthState.SIGNED_IN, "✓", "signed in"),
        (AuthState.SIGN_IN_NEEDED, "!", "sign-in needed"),
        (AuthState.SIGN_IN_OPEN, "⋯", "sign-in open"),
        (AuthState.REAUTHORIZATION_NEEDED, "!", "reauthorization needed"),
        (AuthState.KEY_SET, "✓", "key set"),
        (AuthState.KEY_MISSING, "✗", "key missing"),
        (AuthState.CLIENT_REGISTRATION_NEEDED, "!", "client registration needed"),
        (AuthState.DISABLED, "·", "disabled"),
        (AuthState.MISCONFIGURED, "✗", "misconfigured"),
    ],
)
def test_every_state_has_a_mark_and_its_words(state: AuthState, mark: str, words: str) -> None:
    assert f"{mark} {words}" in shown(replace(SUPABASE, auth=state))


def test_every_state_is_in_the_table_above() -> None:
    (mark,) = (one for one in test_every_state_has_a_mark_and_its_words.pytestmark if one.name == "parametrize")
    assert {state for state, *_ in mark.args[1]} == set(AuthState)


@pytest.mark.parametrize("columns", [48, 80, None])
def test_a_link_stands_alone_flush_left_and_whole(columns: int | None) -> None:
    items = (
        ChecklistItem("notes", ItemState.LINK, "open this link within 10 minutes", link=LINK),
        ChecklistItem("weather", ItemState.KEY, "needs a key: WEATHER_KEY", command="key weather"),
        ChecklistItem("old", ItemState.DONE, "signed in as ada", link=LINK),
    )
    text = render(Reply((Checklist(items, "A note."),)), columns=columns, color=True, now=NOW)
    assert text.splitlines().count(LINK) == 1
    plain = re.sub(r"\x1b\[\d+m", "", text).splitlines()
    assert plain == [
        "! notes: open this link within 10 minutes",
        LINK,
        "! weather: needs a key: WEATHER_KEY",
        "  /mcp key weather",
        "✓ old: signed in as ada",
        "",
        "A note.",
    ]


def test_a_link_cannot_smuggle_a_second_line_or_an_escape_sequence() -> None:
    item = ChecklistItem("notes", ItemState.LINK, "open", link="https://as.example/\n\x1b]0;owned\x07 x")
    lines = render(Reply((Checklist((item,)),)), columns=80, color=False, now=NOW).splitlines()
    assert len(lines) == 2
    assert "\x1b" not in lines[1]
    assert "\x07" not in lines[1]


HOSTILE = "a\x1b[31m\x1b]0;title\x07b\r\nc\u202egnp\u2066.\u200bexe\x9b2J"


@pytest.mark.parametrize("columns", [50, 120])
@pytest.mark.parametrize("field", ["name", "target", "tools", "detail", "account"])
def test_no_text_of_a_server_reaches_the_terminal_as_a_command(field: str, columns: int) -> None:
    for state in (AuthState.SIGNED_IN, AuthState.MISCONFIGURED):
        server = replace(SUPABASE, **{"auth": state, field: HOSTILE})
        detail = Reply((ServerDetail(server, (("Account", HOSTILE),)), Text(HOSTILE), Table((("/mcp", HOSTILE),))))
        for text in (shown(server, columns=columns), render(detail, columns=columns, color=False, now=NOW)):
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]", text)


def test_colour_marks_the_status_and_changes_no_words() -> None:
    plain, colored = shown(SUPABASE, MY_API), shown(SUPABASE, MY_API, color=True)
    assert "\x1b" not in plain
    assert "\x1b[31m✗ key missing" in colored
    assert [line.rstrip() for line in re.sub(r"\x1b\[\d+m", "", colored).splitlines()] == plain.splitlines()


def test_wide_characters_keep_the_columns_straight() -> None:
    lines = shown(replace(SUPABASE, name="東京サーバー"), replace(SUPABASE, name="e\u0301te\u0301")).splitlines()
    ends = [width(line[: line.index("https")]) for line in lines if "https" in line]
    assert ends == [19, 19]


def test_what_can_be_pressed_elsewhere_can_be_typed_here() -> None:
    reply = Reply((Text("Store it anyway?", tone="warning"),), buttons=(Button("Store it", command="key-store abc"),))
    text = render(reply, columns=80, color=False, now=NOW)
    assert text == "! Store it anyway?\n  Store it: /mcp key-store abc"


def test_facts_are_aligned() -> None:
    reply = Reply((ServerDetail(SUPABASE, (("Auth", "sign-in needed"), ("Connection", "not checked"))),))
    assert render(reply, columns=80, color=False, now=NOW) == (
        "supabase\n  Auth        sign-in needed\n  Connection  not checked"
    )


class TestText:
    def test_it_is_one_line_and_bounded(self) -> None:
        assert clean("one\ntwo\tthree") == "one two three"
        assert clean("x" * 50, 10) == "xxxxxxx..."

    def test_right_to_left_letters_stay_and_their_overrides_go(self) -> None:
        assert clean("שלום \u202eabc\u202c") == "שלום abc"

    @pytest.mark.parametrize("columns", range(3, 14))
    def test_cutting_never_overshoots(self, columns: int) -> None:
        assert width(cut("東京abc東京abc", columns)) <= columns

    def test_what_fits_is_left_alone(self) -> None:
        assert cut("exactly", 7) == "exactly"


def test_sentences_are_broken_between_words_and_links_and_next_steps_are_not() -> None:
    dead = Outcome("unreachable", "it cannot be reached.", next_step=Next("auth", "dead"))
    items = (
        ChecklistItem("notes", ItemState.LINK, "open this link within 10 minutes", link=LINK),
        ChecklistItem.failed("dead", dead, "auth dead"),
    )
    text = render(Reply((Checklist(items, "Open it here, or elsewhere."),)), columns=26, color=False, now=NOW)
    assert text.splitlines() == [
        "! notes: open this link",
        "  within 10 minutes",
        LINK,
        "✗ dead: it cannot be",
        "  reached.",
        "  Next: /mcp auth dead",
        "",
        "Open it here, or",
        "elsewhere.",
    ]


def test_the_second_column_of_a_table_is_broken_under_its_beginning() -> None:
    table = Reply(
        (
            Table(
                (("/mcp", "every server and its status"), ("/mcp paste ADDRESS", "finish a sign-in")),
            ),
        )
    )
    assert render(table, columns=42, color=False, now=NOW).splitlines() == [
        "  /mcp                every server and its",
        "                      status",
        "  /mcp paste ADDRESS  finish a sign-in",
    ]
    assert render(table, columns=32, color=False, now=NOW).splitlines() == [
        "  /mcp",
        "    every server and its status",
        "  /mcp paste ADDRESS",
        "    finish a sign-in",
    ]
    assert len(render(table, columns=None, color=False, now=NOW).splitlines()) == 2


def test_a_next_step_that_is_a_command_stays_whole_and_a_sentence_is_broken() -> None:
    step = Next("auth", "a-server-with-a-long-name")
    assert wrap("It failed for a reason", 30, "  ", step, shell_command).splitlines() == [
        "It failed for a reason.",
        "  Next: slash-mcp auth a-server-with-a-long-name",
    ]
    assert wrap("It failed for a reason.", 30, "  ", Shell("chmod 700 /home/somebody/slash-mcp")).splitlines() == [
        "It failed for a reason.",
        "  Next: chmod 700 /home/somebody/slash-mcp",
    ]
    assert wrap("It failed for a reason.", 30, "  ", "give its entry headers with its API key").splitlines() == [
        "It failed for a reason.",
        "  Next: give its entry headers",
        "  with its API key",
    ]


def test_the_hint_of_a_list_is_broken_between_words() -> None:
    listed = Reply((ServerList((SUPABASE,), "Use slash-mcp auth to authenticate servers"),))
    assert render(listed, columns=40, color=False, now=NOW).splitlines()[-2:] == [
        "  Use slash-mcp auth to authenticate",
        "  servers",
    ]


@given(st.text(st.characters(codec="utf-8"), max_size=200), st.integers(4, 60))
@settings(deadline=None)
def test_breaking_lines_loses_no_word(text: str, columns: int) -> None:
    words = clean(text).split()
    lines = wrap(" ".join(words), columns, indent="  ").splitlines()
    assert " ".join(lines).split() == words
    assert all(width(line) <= columns or len(line.split()) == 1 or "Next: " in line for line in lines)
