"""Installations and states of adding the app, over every store, and as version 0.1.0 kept them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from slack_sdk.oauth.installation_store.file import FileInstallationStore
from slack_sdk.oauth.installation_store.models.installation import Installation

from adapters.slack.installations import Installations, Installed, States
from mcp_auth.stores.base import Backend
from mcp_auth.stores.files import FileBackend
from mcp_auth.stores.memory import MemoryBackend

LOG = logging.getLogger("test")


@pytest.fixture(params=["files", "memory"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return FileBackend(tmp_path / "home") if request.param == "files" else MemoryBackend()


def given(user: str = "U1", token: str = "xoxb-1", **changes: str) -> Installation:
    values = {"app_id": "A1", "enterprise_id": "E1", "team_id": "T1", "user_id": user, "bot_token": token, **changes}
    return Installation(bot_id="B1", bot_user_id="UB", installed_at=1_800_000_000.0, **values)


async def token_of(store: Installations, team: str | None = "T1", *, org_wide: bool = False) -> str | None:
    bot = await store.async_find_bot(enterprise_id="E1", team_id=team, is_enterprise_install=org_wide)
    return None if bot is None else bot.bot_token


async def test_what_a_workspace_gave_is_found_and_taken_away(backend: Backend, tmp_path: Path) -> None:
    store = Installations(backend, tmp_path / "none", LOG)
    assert await token_of(store) is None
    await store.async_save(given())
    await store.async_save(given("U2", "xoxb-2"))
    other = Installations(backend, tmp_path / "none", LOG)
    assert await token_of(other) == "xoxb-2"
    assert await token_of(other, "T2") is None
    found = await other.async_find_installation(enterprise_id="E1", team_id="T1")
    assert found is not None and (found.user_id, found.installed_at) == ("U2", 1_800_000_000.0)
    assert await other.async_find_installation(enterprise_id="E1", team_id="T1", user_id="U1") is None
    await other.async_delete_all(enterprise_id="E1", team_id="T1")
    assert await token_of(store) is None
    assert await store.async_find_installation(enterprise_id="E1", team_id="T1") is None


async def test_an_organisation_is_one_place(backend: Backend, tmp_path: Path) -> None:
    store = Installations(backend, tmp_path / "none", LOG)
    installation = given()
    installation.team_id, installation.is_enterprise_install = None, True
    await store.async_save(installation)
    assert await token_of(store, "T9", org_wide=True) == "xoxb-1"
    assert await token_of(store, "T9") is None


async def test_what_version_0_1_0_kept_counts_until_it_is_taken_away(tmp_path: Path) -> None:
    before = tmp_path / "slack" / "installations"
    FileInstallationStore(base_dir=str(before)).save(given())
    store = Installations(FileBackend(tmp_path), before, LOG)
    assert await token_of(store) == "xoxb-1"
    found = await store.async_find_installation(enterprise_id="E1", team_id="T1", user_id="U1")
    assert found is not None
    await store.async_save(given(token="xoxb-new"))
    assert await token_of(store) == "xoxb-new"
    await store.async_delete_all(enterprise_id="E1", team_id="T1")
    assert await token_of(store) is None


def test_no_token_shows_in_a_record() -> None:
    assert "xoxb" not in repr(Installed(id="1", bot={"bot_token": "xoxb-1"}, installation={"bot_token": "xoxb-1"}))


async def test_a_state_counts_once_and_for_ten_minutes(backend: Backend) -> None:
    now = [1000.0]
    states, other = (States(backend, LOG, lambda: now[0]) for _ in range(2))
    first, second = await states.async_issue(), await states.async_issue()
    assert await other.async_consume(first) is True
    assert await states.async_consume(first) is False
    assert await states.async_consume("made up") is False
    now[0] += 601
    assert await states.async_consume(second) is False
    third = await states.async_issue()
    assert await states.async_consume(third) is True
