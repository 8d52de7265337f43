"""API keys: which are needed, tried before they are stored, kept where they belong."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse

from mcp_auth.config.models import GatewayOptions
from mcp_auth.errors import KeyInvalid, KeyMissing
from mcp_auth.keys import Verdict
from mcp_auth.links.policy import ConfigPolicy
from mcp_auth.outcome import Next
from mcp_auth.status import AuthState, ConnectionState
from tests.homes import open_auth
from tests.servers.oauth import OAuthServer

KEY = "sk-0123456789abcdef"
ME_AND_ANN = ("cli:local", "telegram:1")


def api(oauth: OAuthServer, **more: object) -> dict[str, object]:
    return {"api": {"url": oauth.url, "headers": {"Authorization": "Bearer ${MCP_API_KEY}"}, **more}}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch, oauth: OAuthServer) -> None:
    monkeypatch.delenv("MCP_API_KEY", raising=False)
    oauth.knobs.api_key = KEY


async def test_the_variables_a_server_needs_are_known(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, api(oauth)) as auth:
        (variable,) = await auth.key_variables("api")
        assert (variable.name, variable.where, variable.is_set) == ("MCP_API_KEY", "Authorization", False)
        status = await auth.status("api")
        assert (status.auth, status.variables, status.next) == (
            AuthState.KEY_MISSING,
            ("MCP_API_KEY",),
            Next("key", "api"),
        )


async def test_a_key_that_works_is_accepted_and_stored_for_its_owner_alone(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, api(oauth)) as auth:
        assert (await auth.try_keys("api", {"MCP_API_KEY": KEY})).verdict is Verdict.ACCEPTED
        assert not auth.config.env_file.exists()
        await auth.set_keys("api", {"MCP_API_KEY": f"  Bearer {KEY}\n"})
        assert auth.config.env_file.read_text().strip().endswith(KEY) or KEY in auth.config.env_file.read_text()
        assert stat.S_IMODE(auth.config.env_file.stat().st_mode) == 0o600
        assert (await auth.status("api")).auth is AuthState.KEY_SET
        assert (await auth.headers("api"))["Authorization"] == f"Bearer {KEY}"
        assert (await auth.probe("api")).state is ConnectionState.READY


async def test_a_refused_key_is_called_so(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, api(oauth)) as auth:
        assert (await auth.try_keys("api", {"MCP_API_KEY": "wrong"})).verdict is Verdict.REFUSED
        assert (await auth.status("api")).auth is AuthState.KEY_MISSING


async def test_a_key_that_makes_no_difference_is_called_so(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.api_key, oauth.knobs.protected = None, False
    async with open_auth(tmp_path, api(oauth)) as auth:
        assert (await auth.try_keys("api", {"MCP_API_KEY": "x" * 20})).verdict is Verdict.NO_DIFFERENCE


async def test_an_unreachable_server_is_called_so(tmp_path: Path, oauth: OAuthServer) -> None:
    servers = {"api": {"url": "http://127.0.0.1:9/mcp", "headers": {"Authorization": "Bearer ${MCP_API_KEY}"}}}
    async with open_auth(tmp_path, servers) as auth:
        assert (await auth.try_keys("api", {"MCP_API_KEY": KEY})).verdict is Verdict.UNREACHABLE


async def test_a_key_is_tried_at_the_configured_origin_only(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.responses import RedirectResponse

    with OAuthServer().running() as other:
        oauth.knobs.mcp_answers = [RedirectResponse(other.url, 307), RedirectResponse(other.url, 307)]
        async with open_auth(tmp_path, api(oauth)) as auth:
            await auth.try_keys("api", {"MCP_API_KEY": KEY})
        assert other.seen == []


async def test_pain_18_a_placeholder_is_never_sent(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, api(oauth)) as auth:
        with pytest.raises(KeyMissing):
            async with auth.session("api"):
                pass
        assert (await auth.probe("api")).state is ConnectionState.NOT_CHECKED
    assert oauth.seen == []


async def test_pain_18_a_rotated_key_is_seen_without_a_restart(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, api(oauth)) as auth:
        await auth.set_keys("api", {"MCP_API_KEY": "old-key-00000000"})
        assert (await auth.probe("api")).state is ConnectionState.REFUSED
        # When somebody else edits the file
        auth.config.env_file.write_text(f"MCP_API_KEY={KEY}\n")
        assert (await auth.probe("api")).state is ConnectionState.READY


async def test_pain_18_bearer_is_not_doubled(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_API_KEY", f"Bearer {KEY}")
    async with open_auth(tmp_path, api(oauth)) as auth:
        assert (await auth.headers("api"))["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("value", ["", "   ", "a\nb", "${OTHER}", "x${Y}"])
async def test_values_that_cannot_be_kept_are_refused(tmp_path: Path, oauth: OAuthServer, value: str) -> None:
    async with open_auth(tmp_path, api(oauth)) as auth:
        with pytest.raises(KeyInvalid) as caught:
            await auth.set_keys("api", {"MCP_API_KEY": value})
        assert not value.strip() or value not in str(caught.value)
        assert not auth.config.env_file.exists()


async def test_a_key_that_no_header_can_carry_is_said_to_be_one(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, api(oauth)) as auth:
        with pytest.raises(KeyInvalid, match="no header can carry") as caught:
            await auth.try_keys("api", {"MCP_API_KEY": "schl\u00fcssel-0123456789"})
        assert "ssel" not in str(caught.value) and caught.value.next_step
        # One that somebody wrote into the file by hand
        auth.config.env_file.write_text("MCP_API_KEY=schl\u00fcssel-0123456789\n")
        found = await auth.probe("api")
        assert (found.state, "no header can carry" in (found.detail or "")) == (ConnectionState.NOT_CHECKED, True)
    assert oauth.seen == []


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "SLASH_MCP_HOME", "HERMES_HOME", "PYTHONPATH", "OTHER"])
async def test_only_the_variables_of_the_entry_can_be_stored(tmp_path: Path, oauth: OAuthServer, name: str) -> None:
    entry = {"api": {"url": oauth.url, "headers": {"X-Key": f"${{{name}}}" if name != "OTHER" else "${MCP_API_KEY}"}}}
    async with open_auth(tmp_path, entry) as auth:
        with pytest.raises(KeyInvalid):
            await auth.set_keys("api", {name: "value-value"})


async def test_pain_5_a_persons_keys_resolve_from_their_own_and_from_nowhere_else(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_API_KEY", "the-operators-key")
    async with open_auth(tmp_path, api(oauth, identity="per_user")) as auth:
        assert (await auth.status("api", "person:ann")).auth is AuthState.KEY_MISSING
        await auth.set_keys("api", {"MCP_API_KEY": KEY}, "person:ann")
        assert (await auth.headers("api", "person:ann"))["Authorization"] == f"Bearer {KEY}"
        assert not auth.config.env_file.exists()
        with pytest.raises(KeyMissing):
            await auth.headers("api", "person:bob")


@pytest.mark.parametrize(
    ("with_key", "without", "verdict"),
    [
        *[(401, 401, Verdict.REFUSED), (403, 401, Verdict.REFUSED), (403, 200, Verdict.REFUSED)],
        *[(429, 401, Verdict.UNREACHABLE), (500, 401, Verdict.UNREACHABLE), (503, 200, Verdict.UNREACHABLE)],
        *[(302, 401, Verdict.UNREACHABLE), (200, 401, Verdict.ACCEPTED), (200, 403, Verdict.ACCEPTED)],
        *[(404, 401, Verdict.ACCEPTED), (499, 401, Verdict.ACCEPTED)],
        *[(200, 200, Verdict.NO_DIFFERENCE), (200, 404, Verdict.NO_DIFFERENCE), (200, 402, Verdict.NO_DIFFERENCE)],
    ],
)
async def test_a_key_is_judged_by_what_the_server_says_with_it_and_without(
    tmp_path: Path, oauth: OAuthServer, with_key: int, without: int, verdict: Verdict
) -> None:
    headers = {"Location": "/elsewhere"}
    oauth.knobs.mcp_answers = [PlainTextResponse("", one, headers) for one in (with_key, without)]
    async with open_auth(tmp_path, api(oauth)) as auth:
        trial = await auth.try_keys("api", {"MCP_API_KEY": KEY})
    assert trial.verdict is verdict
    assert trial.detail.startswith("api") and KEY not in trial.detail
    first, second = oauth.requests("/mcp")
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in second.headers


@pytest.mark.parametrize("owner", ["shared", "person:ann"])
async def test_of_several_keys_those_that_are_stored_go_along_with_the_one_that_is_tried(
    tmp_path: Path, oauth: OAuthServer, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = "shared" if owner == "shared" else "per_user"
    headers = {"Authorization": "Bearer ${MCP_API_KEY}", "X-Project": "${PROJECT}", "X-Plain": "1", "X-Or": "${OR:-2}"}
    async with open_auth(tmp_path, {"api": {"url": oauth.url, "headers": headers, "identity": identity}}) as auth:
        with pytest.raises(KeyMissing, match="PROJECT"):
            await auth.try_keys("api", {"MCP_API_KEY": KEY}, owner)
        await auth.set_keys("api", {"PROJECT": "p1", "MCP_API_KEY": "of-before-00000"}, owner)
        # What is in the environment is nobody's own
        monkeypatch.setenv("OR", "3")
        trial = await auth.try_keys("api", {"MCP_API_KEY": KEY}, owner)
        assert (await auth.headers("api", owner))["Authorization"] == "Bearer of-before-00000"
    assert trial.verdict is Verdict.ACCEPTED
    first, second = oauth.requests("/mcp")
    names = ("authorization", "x-project", "x-plain", "x-or")
    own = "3" if owner == "shared" else "2"
    assert [first.headers.get(name) for name in names] == [f"Bearer {KEY}", "p1", "1", own]
    assert [second.headers.get(name) for name in names] == [None, None, "1", None]


async def test_what_no_request_would_show_is_not_tried(tmp_path: Path, oauth: OAuthServer) -> None:
    servers = {
        "run": {"command": "x", "env": {"TOKEN": "${TOKEN}"}},
        "api": {"url": oauth.url, "auth": "oauth", "oauth": {"client_id": "c", "client_secret": "${SECRET}"}},
    }
    async with open_auth(tmp_path, servers) as auth:
        for server, name in (("run", "TOKEN"), ("api", "SECRET")):
            (variable,) = await auth.key_variables(server)
            assert (variable.name, variable.is_set, variable.has_default) == (name, False, False)
            trial = await auth.try_keys(server, {name: KEY})
            assert trial.verdict is Verdict.NOT_TRIED and "not tried" in trial.detail
            await auth.set_keys(server, {name: KEY})
            (variable,) = await auth.key_variables(server)
            assert variable.is_set
    assert oauth.requests("/mcp") == []


async def test_the_operator_may_try_keys_as_often_as_it_takes_and_nobody_else(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    files = {"files": {"command": "nothing-of-this-name", "env": {"K": "${MCP_API_KEY}"}}}
    policy = ConfigPolicy(GatewayOptions(), operators={"cli:local"})
    async with open_auth(tmp_path, files, policy=policy) as auth:
        said = {by: [await auth.try_keys("files", {"MCP_API_KEY": KEY}, by=by) for _ in range(25)] for by in ME_AND_ANN}
    assert {one.verdict for one in said["cli:local"]} == {Verdict.NOT_TRIED}
    assert Verdict.TOO_OFTEN in {one.verdict for one in said["telegram:1"]}
