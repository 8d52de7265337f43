"""The words of the pages, and how names get into them."""

from __future__ import annotations

import json

from gateway.surfaces import in_chat
from mcp_auth.outcome import Next
from mcp_auth.records import KeyForm, Requester
from mcp_auth.web import page_texts, pages


def test_the_time_left_is_rounded_up() -> None:
    assert page_texts.until(1_000_061.0, 1_000_000.0) == ("2 minutes", "until 13:47 UTC")
    assert page_texts.until(1_000_001.0, 1_000_000.0)[0] == "1 minute"


def test_a_next_step_in_words_is_a_sentence_and_a_command_is_set_apart() -> None:
    command = pages.message_page(pages.Message("H", ("Why.",), "bad", command=Next("auth", "notes"))).document(in_chat)
    words = pages.message_page(pages.Message("H", ("Why.",), "bad", command="ask again")).document()
    assert b'<code dir="ltr">/mcp auth notes</code>' in command.body
    assert b"Ask again." in words.body
    assert b"<code" not in words.body


def test_names_are_escaped_and_isolated() -> None:
    page = pages.message_page(pages.Message("{server} is connected", (), "good", names={"server": "<b>ش"}))
    assert "<bdi>&lt;b&gt;ش</bdi> is connected</h1>" in bytes(page.document().body).decode()
    assert "<title>&lt;b&gt;ش is connected</title>" in bytes(page.document().body).decode()
    told = json.loads(bytes(page.fragment().body))
    assert told["title"] == "<b>ش is connected"
    assert "<bdi>&lt;b&gt;ش</bdi> is connected</h1>" in told["main"]
    assert "<html" not in told["main"]


def test_a_page_allows_its_own_style_and_nothing_else() -> None:
    page = pages.message_page(pages.Message("H", (), "note")).document()
    policy = page.headers["content-security-policy"]
    assert "script-src" not in policy
    assert "form-action 'none'" in policy
    form = KeyForm(
        id="0" * 32,
        server="notes",
        owner="shared",
        status="opened",
        origin=Requester(principal="telegram:1"),
        created_at=1000.0,
        expires_at=2000.0,
    )
    policy = pages.shell_page(form, "page").document().headers["content-security-policy"]
    assert "script-src 'sha256-" in policy
    assert "connect-src 'self'" in policy
    assert "form-action 'none'" in policy
    assert "unsafe" not in policy


def test_the_button_names_the_chat_into_which_it_carries_the_code() -> None:
    assert page_texts.confirm_in("whatsapp:1") == "Confirm in WhatsApp"
    assert page_texts.confirm_in("telegram:1") == "Confirm in Telegram"
