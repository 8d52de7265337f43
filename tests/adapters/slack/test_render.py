"""What Slack gets, from data to Block Kit. Everything is checked by the loopback server's own rules."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from msgspec.structs import replace

from adapters.slack.render import (
    Look,
    escape,
    key_view,
    message_of,
    problem_of,
    render,
    reply_view,
    text_view,
    working_view,
)
from gateway import sentences
from gateway.invocations import Principal
from gateway.replies import (
    Audience,
    Button,
    Checklist,
    ChecklistItem,
    ItemState,
    Reply,
    SecretPrompt,
    ServerDetail,
    ServerList,
    Table,
    Text,
)
from mcp_auth.outcome import Next
from mcp_auth.status import AuthState, ServerStatus
from tests.platforms.slack import Refusal, check_blocks, check_view, read

NOW = 1_800_000_000.0
ADA = Principal("slack", "T1/U1")
SUPABASE = ServerStatus("supabase", "http", "https://mcp.supabase.com/mcp", "all", AuthState.SIGN_IN_NEEDED)
FILES = ServerStatus("files", "stdio", "npx files", "2 selected", AuthState.NONE_NEEDED)
LOOK = Look(ADA, ("supabase", "files", "weather"), NOW)
PROMPT = SecretPrompt("p1", "weather", "WEATHER_KEY", "weather needs WEATHER_KEY (Authorization).", NOW + 600)


def drawn(reply: Reply, look: Look = LOOK) -> dict[str, Any]:
    """The payload, after Slack's rules were applied to a copy of it."""
    payload = render(reply, look, message="m1")
    check_blocks(json.loads(json.dumps(payload["blocks"])), 50, inputs=False)
    assert payload["text"]
    return payload


def shown(reply: Reply, look: Look = LOOK) -> str:
    return read(drawn(reply, look)["blocks"])


def buttons(payload: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for block in payload["blocks"] if block["type"] == "actions" for one in block["elements"]]


def link_item(server: str, link: str) -> ChecklistItem:
    return ChecklistItem(server, ItemState.LINK, "open this link within 10 minutes", link=link)


def test_the_list_has_its_form() -> None:
    reply = Reply(
        (ServerList((SUPABASE, FILES), sentences.HINT_AUTH),),
        buttons=(Button("Sign in", command="auth"),),
        title="MCP Servers",
    )

    assert drawn(reply) == {
        "text": "MCP Servers ! supabase    sign-in needed    https://mcp.supabase.com/mcp  tools: all "
        "✓ files    none needed    npx files  tools: 2 selected Use /mcp auth to authenticate servers",
        "blocks": [
            {
                "type": "rich_text",
                "elements": [
                    {
                        "type": "rich_text_section",
                        "elements": [
                            bold("MCP Servers"),
                            plain("\n"),
                            plain("\n"),
                            plain("! "),
                            bold("supabase"),
                            plain("\n"),
                            plain("   sign-in needed"),
                            plain("\n"),
                            plain("   "),
                            {"type": "text", "text": "https://mcp.supabase.com/mcp", "style": {"code": True}},
                            plain("  tools: all"),
                            plain("\n"),
                            plain("✓ "),
                            bold("files"),
                            plain("\n"),
                            plain("   none needed"),
                            plain("\n"),
                            plain("   "),
                            {"type": "text", "text": "npx files", "style": {"code": True}},
                            plain("  tools: 2 selected"),
                            plain("\n"),
                            plain("\n"),
                            plain("Use /mcp auth to authenticate servers"),
                        ],
                    }
                ],
            },
            {
                "type": "actions",
                "block_id": "slash-mcp:m1:0",
                "elements": [
                    {
                        "type": "button",
                        "action_id": "slash-mcp:0",
                        "text": {"type": "plain_text", "text": "Sign in", "emoji": False},
                        "value": "mcp:auth::29a17e",
                    }
                ],
            },
        ],
    }


def bold(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "style": {"bold": True}}


def plain(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize("length", [2999, 3000])
def test_a_link_that_fits_stands_on_a_button_and_nowhere_else(length: int) -> None:
    link = f"https://as.example/?{'x' * (length - 20)}"
    payload = drawn(Reply((Checklist((link_item("supabase", link),)),), audience=Audience.CALLER))

    (button,) = buttons(payload)
    assert button["url"] == link
    assert button["style"] == "primary"
    assert json.dumps(payload).count(link) == 1


@pytest.mark.parametrize("length", [3001, 7000])
def test_a_longer_link_stands_whole_in_the_text(length: int) -> None:
    link = f"https://as.example/?{'x' * (length - 20)}"
    payload = drawn(Reply((Checklist((link_item("supabase", link),)),), audience=Audience.CALLER))

    assert buttons(payload) == []
    assert link in read(payload["blocks"])
    assert link[:100] not in payload["text"]


def test_no_link_reaches_a_notification() -> None:
    items = (link_item("supabase", "https://as.example/?state=secret"), link_item("files", f"https://a/{'x' * 4000}"))
    payload = drawn(Reply((Checklist(items),), audience=Audience.CALLER))

    assert "https://a" not in payload["text"]
    assert [one.get("style") for one in buttons(payload)] == ["primary"]


def test_several_links_have_no_favourite() -> None:
    items = tuple(link_item(f"s{number}", f"https://as.example/{number}") for number in range(30))
    payload = drawn(Reply((Checklist(items),), audience=Audience.CALLER))

    assert [len(block["elements"]) for block in payload["blocks"] if block["type"] == "actions"] == [25, 5]
    assert not [one for one in buttons(payload) if "style" in one]


def test_two_hundred_servers_fit_and_the_rest_is_counted() -> None:
    servers = tuple(replace(SUPABASE, name=f"server-{number}") for number in range(200))

    text = shown(Reply((ServerList(servers, "hint"),), title="MCP Servers"))

    assert "server-0\n" in text
    assert "more" in text
    assert text.endswith("hint")
    assert len(text) <= 12_000


@pytest.mark.parametrize(
    "name",
    [
        "<!channel>",
        "<@U123>",
        "@everyone",
        "*bold* _line_ ~gone~ `code`",
        "a&b;&lt;",
        ":smile:",
        "<http://evil.example|click>",
        "https://evil.example",
    ],
)
def test_a_name_is_shown_as_it_is(name: str) -> None:
    payload = drawn(Reply((ServerList((replace(SUPABASE, name=name),)),)))

    assert name in read(payload["blocks"])
    assert '"mrkdwn"' not in json.dumps(payload)
    assert "<" not in payload["text"]


@pytest.mark.parametrize("name", ["a\u202egpj.exe", "a\x1b[31mb", "a\u2066b\u2069", "line\nbreak"])
def test_control_and_direction_characters_are_taken_out(name: str) -> None:
    text = json.dumps(drawn(Reply((ServerList((replace(SUPABASE, name=name),)),))), ensure_ascii=False)

    assert not {"\u202e", "\x1b", "\u2066", "\u2069"} & set(text)


def test_right_to_left_names_stay() -> None:
    assert "שרת" in shown(Reply((ServerList((replace(SUPABASE, name="שרת"),)),)))


def test_a_label_of_any_length_fits_a_button() -> None:
    payload = drawn(Reply((Text("x"),), buttons=(Button("l" * 200, command="auth"), Button("", command="help"))))

    assert [len(one["text"]["text"]) for one in buttons(payload)] == [75, 1]


@pytest.mark.parametrize("length", [1499, 1500, 1501, 20_000])
def test_a_long_text_is_cut(length: int) -> None:
    assert len(shown(Reply((Text("x" * length),)))) <= 1500


def test_a_detail_and_a_table() -> None:
    detail = ServerDetail(SUPABASE, (("Address", "https://mcp.supabase.com/mcp"), ("Next", "/mcp auth supabase")))

    assert shown(Reply((detail,), title="supabase")) == (
        "! supabase\nAddress: https://mcp.supabase.com/mcp\nNext: /mcp auth supabase"
    )
    assert shown(Reply((Table((("/mcp", "every server"), ("/mcp help", "this list"))),))) == (
        "/mcp  every server\n/mcp help  this list"
    )


def test_a_command_of_another_name_is_called_by_it() -> None:
    look = dataclasses.replace(LOOK, command="/tools")
    reply = Reply(
        (
            ServerList((SUPABASE,), sentences.HINT_AUTH),
            Text(("Next: ", Next("list", around="{}. ("), Next("help", around="{})"))),
        )
    )

    text = shown(reply, look)

    assert "Use /tools auth" in text
    assert "Next: /tools. (/tools help)" in text
    assert "https://mcp.supabase.com/mcp" in text


def test_a_prompt_in_a_message_has_the_button_that_opens_the_form() -> None:
    (button,) = buttons(drawn(Reply((PROMPT,), audience=Audience.CALLER)))

    assert button["text"]["text"] == "Enter the key for weather"
    assert button["value"].startswith("mcp:key:")


def test_the_form_for_a_key() -> None:
    view = key_view(PROMPT)
    check_view(view)

    assert view["submit"]["text"] == "Save"
    assert [block["type"] for block in view["blocks"]] == ["input"]
    assert view["blocks"][0]["label"]["text"] == "WEATHER_KEY"
    assert json.loads(view["private_metadata"])["prompt"] == "p1"


def test_the_form_says_why_it_asks_again() -> None:
    view = key_view(PROMPT, problem="weather: the server refuses this key; nothing was stored.")
    check_view(view)

    assert "refuses this key" in read(view["blocks"])


def test_the_form_holds_hostile_and_long_words() -> None:
    check_view(key_view(dataclasses.replace(PROMPT, server="s" * 5000, variable="V" * 5000, text="<!here> " * 1000)))


def test_the_form_ends_with_a_result_or_a_question() -> None:
    result = reply_view(Reply((Text("weather: the key works and is stored.", tone="good"),)), LOOK)
    question = Reply((Text("Store it anyway?"),), buttons=(Button("Store it anyway", command="key-store abc123"),))
    asked = reply_view(question, LOOK)
    for view in (result, asked, working_view(), text_view("paste"), text_view("confirm")):
        check_view(view)

    assert "submit" not in result
    assert asked["submit"]["text"] == "Store it anyway"
    assert json.loads(asked["private_metadata"])["command"].startswith("mcp:key-store:abc123:")


def test_why_a_key_is_asked_for_again() -> None:
    assert problem_of(Reply((Text("a"), Text("b"), PROMPT))) == "a b"
    assert problem_of(Reply((PROMPT,))) == "Nothing was entered."


def test_escaping_and_block_ids() -> None:
    assert escape("<a> & b") == "&lt;a&gt; &amp; b"
    assert message_of("slash-mcp:m1:25") == "m1"
    assert message_of("somebody-else") == ""


class TestTheRules:
    """The checks above mean something: the loopback server refuses what Slack refuses."""

    @pytest.mark.parametrize(
        "block",
        [
            {"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3001}},
            {"type": "section", "text": {"type": "mrkdwn", "text": "a < b"}},
            {"type": "section", "text": {"type": "mrkdwn", "text": "a & b"}},
            {"type": "section"},
            {"type": "header", "text": {"type": "plain_text", "text": "x" * 151}},
            {"type": "header", "text": {"type": "mrkdwn", "text": "x"}},
            {"type": "divider", "color": "red"},
            {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": [{"type": "text"}]}]},
            {"type": "actions", "elements": []},
            {"type": "input"},
        ],
        ids=range(10),
    )
    def test_of_blocks(self, block: dict[str, Any]) -> None:
        with pytest.raises(Refusal):
            check_blocks([block], 50, inputs=False)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"text": {"type": "plain_text", "text": "x" * 76}},
            {"action_id": "x" * 256},
            {"value": "x" * 2001},
            {"url": f"https://a.example/{'x' * 3000}"},
            {"url": "javascript:alert(1)"},
            {"style": "green"},
            {"tooltip": "x"},
        ],
        ids=range(7),
    )
    def test_of_buttons(self, wrong: dict[str, Any]) -> None:
        good = {"type": "button", "action_id": "a", "text": {"type": "plain_text", "text": "x"}}
        check_blocks([{"type": "actions", "elements": [dict(good)]}], 50, inputs=False)
        with pytest.raises(Refusal):
            check_blocks([{"type": "actions", "elements": [{**good, **wrong}]}], 50, inputs=False)

    def test_of_ids_and_counts(self) -> None:
        button = {"type": "button", "action_id": "a", "text": {"type": "plain_text", "text": "x"}}
        with pytest.raises(Refusal):
            check_blocks([{"type": "actions", "elements": [button, button]}], 50, inputs=False)
        with pytest.raises(Refusal):
            check_blocks([{"type": "divider"}] * 51, 50, inputs=False)
        with pytest.raises(Refusal):
            check_blocks([{"type": "divider", "block_id": "b"}] * 2, 50, inputs=False)

    @pytest.mark.parametrize("wrong", [{"title": "x" * 25}, {"submit": None}, {"private_metadata": "x" * 3001}])
    def test_of_modals(self, wrong: dict[str, Any]) -> None:
        view = key_view(PROMPT)
        for key, value in wrong.items():
            if value is None:
                del view[key]
            else:
                view[key] = {"type": "plain_text", "text": value} if key == "title" else value
        with pytest.raises(Refusal):
            check_view(view)
