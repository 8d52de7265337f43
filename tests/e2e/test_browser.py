"""A real browser signs in at the demo's authorization server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from gateway.demo.run import Demo
from tests.e2e.background import Background
from tests.e2e.processes import Running, slash_mcp

pytestmark = pytest.mark.service

PHONE = {"width": 390, "height": 844}


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Path]:
    """A home that is configured for the demo's servers, which run beside the test."""
    with Background() as background:
        yield background.enter(Demo()).write_home(tmp_path / "home")


def open_page(chromium: Browser, *, dark: bool = False, javascript: bool = True) -> Page:
    context = chromium.new_context(
        viewport=PHONE,
        color_scheme="dark" if dark else "light",
        java_script_enabled=javascript,
        ignore_https_errors=False,
    )
    return context.new_page()


@pytest.mark.parametrize("javascript", [True, False])
def test_a_person_signs_in_with_a_browser_and_the_agent_can_use_the_server(
    chromium: Browser, demo: Path, tmp_path: Path, javascript: bool
) -> None:
    with Running(demo, "auth", "notes", "--json", "--no-browser") as auth:
        link = json.loads(auth.line("authorization_url"))["url"]
        page = open_page(chromium, javascript=javascript)
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(link)
        assert page.get_by_role("heading").inner_text() == "Allow slash-mcp?"
        page.screenshot(path=tmp_path / "consent.png")
        page.get_by_role("button", name="Allow").click()
        page.wait_for_url("**/callback?**")
        assert page.get_by_role("heading").inner_text() == "notes is signed in"
        page.screenshot(path=tmp_path / "signed-in.png")
        assert errors == []
        assert json.loads(auth.line("signed_in"))["server"] == "notes"
        assert auth.end() == 0
    tested = slash_mcp(demo, "test", "notes", "--json")
    assert json.loads(tested.stdout)["tools"] == ["list_notes", "add_note", "whoami"]


def test_a_person_who_denies_is_told_so_and_the_terminal_too(chromium: Browser, demo: Path) -> None:
    with Running(demo, "auth", "notes", "--json", "--no-browser") as auth:
        page = open_page(chromium, dark=True)
        page.goto(json.loads(auth.line("authorization_url"))["url"])
        page.get_by_role("button", name="Deny").click()
        page.wait_for_url("**/callback?**")
        assert page.get_by_role("heading").inner_text() == "Not signed in"
        assert "/mcp auth notes" in page.content()
        assert json.loads(auth.line("failed"))["server"] == "notes"
        assert auth.end() == 1


def test_a_second_visit_an_unknown_path_and_a_forged_answer_are_said_plainly(chromium: Browser, demo: Path) -> None:
    with Running(demo, "serve") as serve:
        serve.wait_for_error("callback endpoint")
        with Running(demo, "auth", "notes", "--json", "--no-browser") as auth:
            page = open_page(chromium)
            page.goto(json.loads(auth.line("authorization_url"))["url"])
            page.get_by_role("button", name="Allow").click()
            page.wait_for_url("**/callback?**")
            assert auth.end() == 0
        page.reload()
        assert page.get_by_role("heading").inner_text() == "This link was used before"
        base = page.url.partition("/callback")[0]
        answer = page.goto(f"{base}/favicon.ico")
        assert answer is not None and answer.status == 404
        answer = page.goto(f"{base}/callback?code=x&state=<script>alert(1)</script>")
        assert answer is not None and answer.status == 400
        assert page.locator("script").count() == 0
