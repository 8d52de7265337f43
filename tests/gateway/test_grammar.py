"""The grammar: what people type, and what it means."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import grammar
from gateway.commands import VERBS, detail_for, parse
from gateway.grammar import (
    Allow,
    Ambiguous,
    ArgumentMissing,
    Auth,
    Cancel,
    Confirm,
    Deny,
    Detail,
    Help,
    Key,
    KeyExposed,
    KeyStoreAnyway,
    ListServers,
    Logout,
    Paste,
    ShowPeople,
    Suggestion,
    Test,
    WholeNameNeeded,
    command_for,
)

SERVERS = ["supabase", "my-api", "GitHub", "gitlab", "status", "people", "My Notes"]
REDIRECT = "http://127.0.0.1:8765/callback?code=SECRETCODE&state=slot.random"


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        ("", ListServers()),
        ("   ", ListServers()),
        ("list", ListServers()),
        ("STATUS", ListServers()),
        ("/mcp", ListServers()),
        ("/mcp@my_bot", ListServers()),
        ("/mcp@my_bot auth github", Auth(("GitHub",))),
        ("!mcp auth", Auth()),
        ("supabase", Detail("supabase")),
        ("SUPA", Detail("supabase")),
        ("status status", Detail("status")),
        ("status my-api", Detail("my-api")),
        ("allow ACDE-FGHJ", Allow("ACDE-FGHJ")),
        ("Deny telegram:123", Deny("telegram:123")),
        ("people", ShowPeople()),
        ("allow", ArgumentMissing("allow")),
        ("deny", ArgumentMissing("deny")),
        ("status people", Detail("people")),
        ("auth", Auth()),
        ("login", Auth()),
        ("Login GITHUB", Auth(("GitHub",))),
        ("auth supabase gith", Auth(("supabase", "GitHub"))),
        ('auth "my notes" supabase', Auth(("My Notes", "supabase"))),
        ("auth my notes", Auth(("My Notes",))),
        ("auth “My Notes”", Auth(("My Notes",))),
        ("auth 'my notes", Auth(("My Notes",))),
        ("key", Key()),
        ("key my-api", Key("my-api")),
        ("key-store Ab3-_defgh12", KeyStoreAnyway("Ab3-_defgh12")),
        (f"paste {REDIRECT}", Paste(REDIRECT)),
        (f"paste <{REDIRECT}>", Paste(REDIRECT)),
        ("paste code=abc&state=def", Paste("code=abc&state=def")),
        (REDIRECT, Paste(REDIRECT)),
        (f"/mcp {REDIRECT}", Paste(REDIRECT)),
        (f"<{REDIRECT}>", Paste(REDIRECT)),
        ("http://127.0.0.1:8765/callback?error=access_denied&state=x.y", Paste),
        ("confirm 123 456", Confirm("123 456")),
        ("cancel", Cancel()),
        ("cancel supabase", Cancel("supabase")),
        ("logout SUPABASE", Logout("supabase")),
        ("test sup", Test("supabase")),
        ("help", Help()),
        ("help me", Help()),
    ],
)
def test_what_is_typed_means(typed: str, command: object) -> None:
    parsed = parse(typed, SERVERS)

    if isinstance(command, type):
        assert isinstance(parsed, command)
    else:
        assert parsed == command


def test_a_beginning_shared_by_two_servers_names_both() -> None:
    assert parse("git", SERVERS) == Ambiguous(("GitHub", "gitlab"))
    assert parse("auth git", SERVERS) == Ambiguous(("auth GitHub", "auth gitlab"))


@pytest.mark.parametrize("verb", ["logout", "cancel"])
def test_logout_and_cancel_want_the_whole_name(verb: str) -> None:
    assert parse(f"{verb} supa", SERVERS) == WholeNameNeeded((f"{verb} supabase",))


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("lsit", "list"),
        ("autj", "auth"),
        ("autj github", "auth GitHub"),
        ("hepl", "help"),
        ("supabsae", "supabase"),
        ("auth supabsae", "auth supabase"),
        ("logout supabas3", "logout supabase"),
        ("github auth", "auth GitHub"),
    ],
)
def test_unknown_words_get_the_nearest_command(typed: str, first: str) -> None:
    command = parse(typed, SERVERS)

    assert isinstance(command, Suggestion)
    assert command.commands[0] == first


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("atuh", "auth"),
        ("statsu", "status"),
        ("hlep", "help"),
        ("paset", "paste"),
        ("tst", "test"),
        ("logouut", "logout"),
    ],
)
def test_one_slip_of_the_finger_has_one_nearest_command(slip: str, meant: str) -> None:
    assert parse(slip, ["supabase"]) == Suggestion((meant,))


def test_words_that_resemble_nothing_are_answered_too() -> None:
    assert parse("qqqqqqqq zzzz", SERVERS) == Suggestion(())


@pytest.mark.parametrize("verb", ["paste", "confirm", "logout", "test"])
def test_a_verb_without_its_argument_says_so(verb: str) -> None:
    command = parse(verb, ["a"])

    assert isinstance(command, ArgumentMissing)
    assert command.verb == verb


@pytest.mark.parametrize(
    "typed",
    [
        "key supabase sk-live-1234567890",
        "key unknown sk-live-1234567890",
        "key sk-live-1234567890abcdef",
        "KEY my-api  two words here",
    ],
)
def test_a_key_typed_into_the_chat_is_noticed_and_not_carried_along(typed: str) -> None:
    command = parse(typed, SERVERS)

    assert isinstance(command, KeyExposed)
    assert "sk-live" not in repr(command)
    assert "words" not in repr(command)


def test_a_pasted_address_is_not_in_the_repr() -> None:
    assert "SECRETCODE" not in repr(parse(REDIRECT, SERVERS))


def test_other_urls_are_not_taken_for_a_redirect() -> None:
    assert not grammar.looks_like_redirect("https://example.com/docs?page=2")
    assert not grammar.looks_like_redirect("see http://127.0.0.1:1/callback?code=a&state=b please")
    assert not grammar.looks_like_redirect("http://[::1/callback?code=a")


def test_a_server_named_like_a_verb_has_its_own_way_in() -> None:
    assert detail_for("status") == "status status"
    assert detail_for("supabase") == "supabase"
    assert detail_for("My Notes") == '"My Notes"'


NAMES = st.lists(
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
    | st.from_regex(r"[a-z]{1,5} [a-z\"']{1,5}", fullmatch=True),
    max_size=5,
)


def test_only_a_leading_mcp_is_taken_off() -> None:
    assert parse("/mcp auth /MCP", ["/MCP"]) == Auth(("/MCP",))
    assert parse("logout !mcp", ["!mcp"]) == Logout("!mcp")


# Half surrogate pairs too: JSON carries them, so chats do.
TYPED = st.text(max_size=300) | st.text(st.characters(), max_size=40)


@given(TYPED, NAMES)
def test_no_text_raises(text: str, servers: list[str]) -> None:
    assert isinstance(parse(text, servers), grammar.Command)


@given(st.sampled_from(sorted(VERBS)), st.text(max_size=60), NAMES)
def test_no_argument_raises(verb: str, text: str, servers: list[str]) -> None:
    assert isinstance(parse(f"{verb} {text}", servers), grammar.Command)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20))
def test_every_single_server_is_reached_by_the_command_made_for_it(name: str) -> None:
    assert parse(command_for("auth", name), [name]) == Auth((name,))
    assert parse(command_for("logout", name), [name]) == Logout(name)
    assert parse(detail_for(name), [name]) == Detail(name)


@given(st.text("sk-live0123456789ABCDEF", min_size=12, max_size=40), st.sampled_from(SERVERS))
def test_a_typed_secret_is_never_in_the_command(secret: str, server: str) -> None:
    assert secret not in repr(parse(f"key {command_for('', server).strip()} {secret}", SERVERS))


@given(st.lists(st.sampled_from(sorted({*VERBS, "/mcp", "!mcp", *SERVERS, '"', "<", "?"})), max_size=5), TYPED)
def test_words_that_mean_something_never_raise_together(words: list[str], text: str) -> None:
    assert isinstance(parse(" ".join([*words, text]), SERVERS), grammar.Command)


CODES = st.from_regex(r"[A-Za-z0-9._~/+-]{1,40}", fullmatch=True)


@given(CODES, CODES, st.sampled_from(["paste {}", "{}", "<{}>", "paste <{}>", "/mcp paste {}", "  {}  "]))
def test_a_redirect_comes_through_whole(code: str, state: str, typed: str) -> None:
    url = f"http://127.0.0.1:8765/callback?{urlencode({'code': code, 'state': state})}"
    assert parse(typed.format(url), SERVERS) == Paste(url)


@pytest.mark.parametrize("filler", ["a", "a ", '"', "é", "/mcp ", "notes ", "“", "\n", "\u202e"])
@pytest.mark.parametrize("verb", ["", "auth ", "key ", "logout ", "confirm ", "test notes "])
def test_attack_only_the_beginning_of_a_line_is_looked_at(verb: str, filler: str) -> None:
    line = verb + filler * (1_000 // len(filler))

    assert parse(line + filler * 200_000, ["notes", "note two"]) == parse(line[:1_000], ["notes", "note two"])


@pytest.mark.parametrize("before", ["", "paste ", "/mcp paste "])
def test_the_answer_of_an_authorization_server_may_be_longer(before: str) -> None:
    url = f"http://127.0.0.1:8765/callback?state=x&code={'c' * 7_000}"

    assert parse(before + url, ["notes"]) == Paste(url)
    assert len(parse(before + url + "c" * 5_000_000, ["notes"]).text) < 10_100  # type: ignore[union-attr]
