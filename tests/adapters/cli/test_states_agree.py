"""Every state of a server's credentials, through `list`, `doctor`, `test` and `auth`: all four say the same."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mcp_auth import McpAuth
from mcp_auth.records import RefreshMark, Tokens, sha256
from tests.adapters.cli.typed import Run
from tests.homes import ME, signed_in, write_home
from tests.servers.oauth import OAuthServer

Prepare = Callable[[McpAuth, OAuthServer], Awaitable[None]]


async def nothing(auth: McpAuth, oauth: OAuthServer) -> None:
    pass


async def sign_in(auth: McpAuth, oauth: OAuthServer) -> None:
    await signed_in(auth)


async def begin(auth: McpAuth, oauth: OAuthServer) -> None:
    await auth.sign_in("notes", "shared", ME, listen=False)


def grant(*, ends_in: float | None = None, drop_refresh_token: bool = False, **changes: Any) -> Prepare:
    """Signed in, and then changed: when the access ends in seconds from now, and members of the record."""

    async def prepare(auth: McpAuth, oauth: OAuthServer) -> None:
        await signed_in(auth)
        stored = await auth.store.grants.get("shared", "notes", oauth.url)
        assert stored is not None and stored.tokens is not None
        tokens: Tokens = stored.tokens
        if ends_in is not None:
            # Had for an hour, so that a refresh is due.
            tokens = msgspec.structs.replace(
                tokens, expires_at=time.time() + ends_in, obtained_at=time.time() + ends_in - 3600
            )
        if drop_refresh_token:
            tokens = msgspec.structs.replace(tokens, refresh_token=None)
        made = {name: value(tokens) if callable(value) else value for name, value in changes.items()}
        changed = msgspec.structs.replace(stored, tokens=tokens, **made)
        assert await auth.store.grants.put_if(changed) is not None

    return prepare


def tried(**how: Any) -> Prepare:
    """As `grant`, and then somebody wanted the server."""

    async def prepare(auth: McpAuth, oauth: OAuthServer) -> None:
        answers, oauth.knobs.token_answers = oauth.knobs.token_answers, []
        await grant(**how)(auth, oauth)
        oauth.knobs.token_answers = answers
        await auth.probe("notes")

    return prepare


async def no_client(auth: McpAuth, oauth: OAuthServer) -> None:
    from mcp_auth.errors import ClientRegistrationNeeded

    with pytest.raises(ClientRegistrationNeeded):
        await auth.sign_in("notes", "shared", ME, listen=False)


def lost_twice(tokens: Tokens) -> RefreshMark:
    return RefreshMark(token_sha256=sha256(tokens.refresh_token or ""), count=2)


@dataclass(frozen=True)
class State:
    """A state: how it comes about, its mark, its words, and what is next."""

    mark: str
    words: str
    next: str | None
    prepare: Prepare = nothing
    entry: dict[str, Any] = field(default_factory=lambda: {"auth": "oauth"})
    # What the token endpoint answers all the while, and whether the server still works.
    answer: Response | None = None
    knobs: dict[str, Any] = field(default_factory=dict)
    works: bool = False
    why: str = ""


TROUBLE = PlainTextResponse("", 503)
INVALID_REQUEST = JSONResponse({"error": "invalid_request"}, 400)
INVALID_GRANT = JSONResponse({"error": "invalid_grant"}, 400)
INVALID_CLIENT = JSONResponse({"error": "invalid_client"}, 401)
KEYED = {"headers": {"Authorization": "Bearer ${MCP_NOTES_API_KEY}"}}
OVER = {"refresh_refused_at": 1.0, "refresh_refused": True, "refresh_failures": 3, "last_error": "invalid_request"}

STATES = {
    "open-server": State(
        "✓", "none needed", "test", entry={}, knobs={"protected": False, "prm_path": None}, works=True
    ),
    "disabled": State("·", "disabled", None, entry={"auth": "oauth", "enabled": False}),
    "misconfigured": State("✗", "misconfigured", None, entry={"auth": "oath"}),
    "key-missing": State("✗", "key missing: MCP_NOTES_API_KEY", "key", entry=KEYED),
    "key-set": State(
        "✓", "key set", "test", entry={"headers": {"Authorization": "Bearer k"}}, knobs={"api_key": "k"}, works=True
    ),
    "no-grant": State("!", "sign-in needed", "auth"),
    "open": State("⋯", "sign-in open", "auth", begin),
    "no-client": State(
        "!", "client registration needed", "auth", no_client, knobs={"metadata": {"registration_endpoint": None}}
    ),
    "signed-in": State("✓", "signed in", "test", sign_in, works=True),
    "signed-in-without-an-end": State("✓", "signed in", "test", sign_in, knobs={"expires_in": None}, works=True),
    "no-refresh-token": State("✓", "signed in until", "test", grant(ends_in=900, drop_refresh_token=True), works=True),
    "ended": State("!", "reauthorization needed", "auth", grant(ends_in=-1, drop_refresh_token=True)),
    "due-and-refreshed": State("✓", "signed in", "test", grant(ends_in=-1), works=True),
    "trouble": State("!", "signed in, not renewable since", "test", tried(ends_in=-1), answer=TROUBLE),
    "trouble-ahead-of-the-end": State("✓", "signed in", "test", tried(ends_in=60), answer=TROUBLE, works=True),
    "no-token-endpoint": State(
        "!", "signed in, not renewable since", "auth", tried(ends_in=-1), answer=PlainTextResponse("", 404)
    ),
    "401-without-a-body": State(
        "!", "signed in, not renewable since", "auth", tried(ends_in=-1), answer=PlainTextResponse("", 401)
    ),
    "refused-once": State("!", "signed in, not renewable since", "auth", tried(ends_in=-1), answer=INVALID_REQUEST),
    "refused-ahead-of-the-end": State(
        "!", "signed in, not renewable since", "auth", tried(ends_in=60), answer=INVALID_REQUEST, works=True
    ),
    "refused-twice": State(
        "!", "reauthorization needed", "auth", tried(ends_in=-1, **OVER), answer=INVALID_REQUEST
    ),
    "over": State("!", "reauthorization needed", "auth", tried(ends_in=-1), answer=INVALID_GRANT),
    "over-ahead-of-the-end": State(
        "!",
        "signed in until",
        "auth",
        tried(ends_in=60),
        answer=INVALID_GRANT,
        why="not renewable: the authorization server ended",
        works=True,
    ),
    "client-forgotten": State("!", "reauthorization needed", "auth", tried(ends_in=-1), answer=INVALID_CLIENT),
    "client-forgotten-ahead-of-the-end": State(
        "!",
        "signed in until",
        "auth",
        tried(ends_in=60),
        answer=INVALID_CLIENT,
        why="not renewable: the authorization server no longer",
        works=True,
    ),
    "answers-lost-twice": State(
        "!", "reauthorization needed", "auth", grant(ends_in=-1, refresh_mark=lost_twice)
    ),
    "access-refused-and-trouble": State(
        "!",
        "signed in, not renewable since",
        "test",
        tried(),
        answer=TROUBLE,
        knobs={"mcp_answers": [PlainTextResponse("", 401)] * 60},
    ),
    "access-refused-for-good": State(
        "!", "reauthorization needed", "auth", tried(), knobs={"mcp_answers": [PlainTextResponse("", 401)] * 60}
    ),
    "more-access": State("!", "reauthorization needed", "auth", tried(), knobs={"need_scope": "write"}),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_list_doctor_test_and_auth_agree(run: Run, tmp_path: Path, oauth: OAuthServer, name: str) -> None:
    state = STATES[name]
    home = write_home(tmp_path, {"notes": {"url": oauth.url, **state.entry}})
    for knob, value in state.knobs.items():
        setattr(oauth.knobs, knob, value)

    async def prepare() -> None:
        async with McpAuth.open(home=home) as auth:
            if state.prepare in (sign_in, begin, nothing, no_client):
                await state.prepare(auth, oauth)
                return
            oauth.knobs.mcp_answers, answers = [], oauth.knobs.mcp_answers
            oauth.knobs.token_answers = [state.answer] * 30 if state.answer is not None else []
            saved, oauth.knobs.token_answers = oauth.knobs.token_answers, []
            await grant()(auth, oauth)
            oauth.knobs.token_answers, oauth.knobs.mcp_answers = saved, answers
            await state.prepare(auth, oauth)

    asyncio.run(prepare())
    oauth.knobs.token_answers = [state.answer] * 30 if state.answer is not None else []
    next_step = f"slash-mcp {state.next} notes" if state.next else None
    act = f"Next: {next_step}"

    # The list: mark, words, next step
    listed = run("--home", home, "list").out
    assert f"{state.mark} {state.words}" in listed and state.why in listed, listed
    (shown,) = json.loads(run("--home", home, "list", "--json").out)["servers"]
    assert shown["auth"]["next"] == next_step

    # The doctor: the same mark and words, and what to do unless all is well
    checked = run("--home", home, "doctor").out
    if state.words not in ("none needed", "disabled", "misconfigured"):
        (line,) = [line for line in checked.splitlines() if line.startswith(f"{state.mark} notes: {state.words}")]
        assert state.why in line and (act in line) is (state.mark != "✓"), line
    assert state.mark != "✓" or not any(line.startswith(("✗ notes", "! notes")) for line in checked.splitlines())

    # The test: what works works, and what wants a person says so
    tested = run("--home", home, "test", "notes")
    assert (tested.code == 0) is state.works, tested
    if state.next not in ("test", None):
        assert act in tested.err, tested
    (shown,) = json.loads(run("--home", home, "list", "--json").out)["servers"]
    assert shown["auth"]["next"] == next_step

    # And a sign-in is begun where one is next, and nowhere else; nothing is called well that is not
    begun = run("--home", home, "auth", "--no-wait", "--json")
    offered = {event["event"] for event in begun.events if event["server"] == "notes"}
    if state.next == "auth":
        assert offered == ({"failed"} if name == "no-client" else {"authorization_url"}), begun
    elif state.next == "key":
        assert offered == {"key_needed"}
    elif state.mark == "!":
        assert offered == {"failed"} and begun.code == 1
        assert state.words in begun.out
    else:
        assert offered == set() and begun.code == 0
