"""What an agent uses: authentication for its HTTP client, and sessions."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse

from mcp_auth.errors import (
    CredentialsNeeded,
    KeyMissing,
    NotAllowed,
    ReauthorizationNeeded,
    ServerRefused,
    SignInError,
    SignInNeeded,
    Unreachable,
)
from mcp_auth.net.rules import NetworkRules
from mcp_auth.outcome import Next
from mcp_auth.status import AuthState, ConnectionState
from tests.homes import ME, open_auth, query_of, signed_in
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer
from tests.servers.sse import sse_server


def entry(oauth: OAuthServer, **more: object) -> dict[str, object]:
    return {"notes": {"url": oauth.url, "auth": "oauth", **more}}


def call() -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}


async def test_duty_the_bearer_stands_in_the_header_of_every_request_and_never_in_a_query(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        oauth.forget()
        async with auth.session("notes") as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == list(oauth.knobs.tools)
            await client.call_tool("add", {})
        token = await auth.access_token("notes")
    assert all(s.headers["authorization"] == f"Bearer {token}" for s in oauth.requests("/mcp"))
    assert all(token not in str(s.query) for s in oauth.seen)


async def test_duty_a_token_is_not_sent_to_another_server(tmp_path: Path, oauth: OAuthServer) -> None:
    with OAuthServer().running() as other:
        async with open_auth(tmp_path, entry(oauth)) as auth:
            await signed_in(auth)
            oauth.forget()
            foreign = [
                other.url,
                f"http://127.0.0.1:{oauth.port}@127.0.0.1:{other.port}/mcp",
                f"http://localhost:{oauth.port}/mcp",
                *(f"{oauth.origin}{path}" for path in ("/", "/other/mcp", "/mcpx", "/MCP", "//mcp", "/mcp/../admin")),
                *(
                    f"{oauth.origin}/mcp{path}"
                    for path in ("/%2e%2e/admin", "/..%2fadmin", "%2f..%2fadmin", "/x/%2E./a")
                ),
            ]
            async with httpx2.AsyncClient(
                auth=auth.http_auth("notes"), verify=False, follow_redirects=True, timeout=PATIENCE
            ) as client:
                for url in foreign:
                    await client.post(url, json=call())
                assert len(other.seen) == 2
                assert len(oauth.seen) == len(foreign) - 2
                assert not any("authorization" in seen.headers for seen in (*oauth.seen, *other.seen))
                # And when the server itself sends the client there
                oauth.knobs.mcp_answers = [RedirectResponse(other.url, 307)]
                await client.post(oauth.url, json=call())
                assert len(other.seen) == 3
                assert not any("authorization" in seen.headers for seen in other.seen)
                assert [seen.path for seen in oauth.seen if "authorization" in seen.headers] == ["/mcp"]
                # Whose 401 says nothing of our token
                assert oauth.refreshes == 0
                assert (await auth.status("notes")).auth is AuthState.SIGNED_IN
                assert (await client.post(oauth.url, json=call())).status_code == 200


async def test_defect_3_concurrent_requests_never_wait_for_each_other(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        answered = oauth.knobs.mcp_gate = threading.Event()
        async with httpx2.AsyncClient(auth=auth.http_auth("notes"), verify=False, timeout=PATIENCE) as client:
            requests = [asyncio.create_task(client.post(oauth.url, json=call())) for _ in range(20)]
            async with asyncio.timeout(PATIENCE):
                # None is answered before all have arrived.
                while oauth.in_flight < 20:
                    await asyncio.sleep(0.005)
            answered.set()
            answers = await asyncio.gather(*requests)
    assert all(answer.status_code == 200 for answer in answers)


async def test_defect_3_requests_do_not_wait_for_an_open_sign_in(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        await auth.sign_in("notes", "shared", ME)
        async with asyncio.timeout(PATIENCE), auth.session("notes") as client:
            await client.list_tools()


async def test_defect_4_a_session_closed_by_another_task_leaves_nothing_locked(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        answered = oauth.knobs.mcp_gate = threading.Event()
        task = asyncio.create_task(auth.probe("notes"))
        async with asyncio.timeout(PATIENCE):
            while not oauth.in_flight:
                await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        answered.set()
        async with asyncio.timeout(PATIENCE):
            assert (await auth.probe("notes")).state is ConnectionState.READY


async def test_a_401_leads_to_one_refresh_and_one_retry(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        oauth.expire_access_tokens()
        async with auth.session("notes") as client:
            assert len((await client.list_tools()).tools) == 3
    assert oauth.refreshes == 1


async def test_a_token_that_is_refused_again_needs_a_person(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        oauth.knobs.mcp_answers = [PlainTextResponse("", 401) for _ in range(20)]
        with pytest.raises(ReauthorizationNeeded):
            async with auth.session("notes") as client:
                await client.list_tools()
        assert oauth.refreshes <= 2
        assert (await auth.status("notes")).auth is AuthState.REAUTHORIZATION_NEEDED
        # And when the server has come to its senses, so does the status
        oauth.knobs.mcp_answers = []
        assert (await auth.probe("notes")).state is ConnectionState.READY
        assert (await auth.status("notes")).auth is AuthState.SIGNED_IN


async def test_a_key_that_is_refused_is_not_sent_a_second_time(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTES_KEY", "sk-old-0123456789")
    oauth.knobs.api_key = "sk-new-0123456789"
    servers = {"notes": {"url": oauth.url, "headers": {"Authorization": "Bearer ${NOTES_KEY}"}}}
    async with (
        open_auth(tmp_path, servers) as auth,
        httpx2.AsyncClient(auth=auth.http_auth("notes"), verify=False, timeout=PATIENCE) as client,
    ):
        assert (await client.post(oauth.url, json=call())).status_code == 401
        sent = [seen.headers["authorization"] for seen in oauth.requests("/mcp")]
        assert sent == ["Bearer sk-old-0123456789"]
        # One that the operator has rotated is
        monkeypatch.setenv("NOTES_KEY", "sk-new-0123456789")
        assert (await client.post(oauth.url, json=call())).status_code == 200


async def test_a_refused_key_is_called_so_and_an_open_server_that_says_no_is_not(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTES_KEY", "sk-old-0123456789")
    oauth.knobs.prm_path, oauth.knobs.well_known, oauth.knobs.challenge = None, "none", "Bearer"
    servers = {
        "keyed": {"url": oauth.url, "headers": {"Authorization": "Bearer ${NOTES_KEY}"}},
        "bare": {"url": f"{oauth.url}?bare=1"},
    }
    async with open_auth(tmp_path, servers) as auth:
        with pytest.raises(ServerRefused, match="refused the key") as key:
            async with auth.session("keyed") as client:
                await client.list_tools()
        with pytest.raises(ServerRefused, match="without a credential") as credential:
            async with auth.session("bare") as client:
                await client.list_tools()
    assert key.value.next_step == Next("key", "keyed")
    assert "headers" in str(credential.value.next_step)


async def test_a_server_that_asks_for_more_access_is_told_of_once(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.challenge_scope = "read"
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        told: list[tuple[str, str, str]] = []
        auth.on_change(lambda change: told.append((change.kind, change.server, change.owner)))
        oauth.knobs.need_scope = "write"
        for _ in range(3):
            with pytest.raises(ReauthorizationNeeded, match="write"):
                async with auth.session("notes") as client:
                    await client.list_tools()
    assert told == [("reauthorization_needed", "notes", "shared")]


async def test_duty_step_up_asks_for_the_union_of_scopes(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.challenge_scope = "read"
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        oauth.knobs.need_scope = "write"
        with pytest.raises(ReauthorizationNeeded, match="write"):
            async with auth.session("notes") as client:
                await client.list_tools()
        assert (await auth.status("notes")).auth is AuthState.REAUTHORIZATION_NEEDED
        started = await auth.sign_in("notes", "shared", ME)
        assert query_of(started.link)["scope"] == "read write"
        await signed_in(auth)
        async with auth.session("notes") as client:
            await client.list_tools()


async def test_a_server_that_asks_for_endless_access_gets_a_short_sentence(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        oauth.knobs.need_scope = " ".join(f"scope-{number}" for number in range(300))
        found = await auth.probe("notes")
        status = await auth.status("notes")
    for text in (found.detail or "", status.detail or ""):
        assert "scope-0 scope-1" in text and len(text) < 250


async def test_duty_a_refused_upgrade_is_remembered(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.challenge_scope = "read"
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        oauth.knobs.need_scope = "admin"
        oauth.knobs.scope_answer = "read"
        with pytest.raises(ReauthorizationNeeded):
            async with auth.session("notes") as client:
                await client.list_tools()
        await signed_in(auth)
        with pytest.raises(CredentialsNeeded):
            async with auth.session("notes") as client:
                await client.list_tools()
        with pytest.raises(SignInError, match="did not grant"):
            await auth.sign_in("notes", "shared", ME)
        # Few retries: each call was sent once, and no refresh was tried for what only a person can grant
        refused = [s for s in oauth.requests("/mcp") if "authorization" in s.headers]
        assert len({(s.headers["authorization"], s.body) for s in refused}) == len(refused) <= 4
        assert oauth.refreshes == 0


async def test_a_pinned_scope_is_a_ceiling(tmp_path: Path, oauth: OAuthServer) -> None:
    """A server cannot talk a person into more than the operator allows, however it asks."""
    servers = entry(oauth)
    servers["notes"]["oauth"] = {"scope": "read"}
    async with open_auth(tmp_path, servers) as auth:
        await signed_in(auth)
        oauth.knobs.need_scope = oauth.knobs.challenge_scope = "admin"
        with pytest.raises(ServerRefused, match=r"more access than oauth\.scope allows: admin") as caught:
            async with auth.session("notes") as client:
                await client.list_tools()
        assert "oauth.step_up: true" in str(caught.value.next_step)
        # What it may do goes on working, and a new sign-in asks for no more.
        assert (await auth.status("notes")).auth is AuthState.SIGNED_IN
        started = await auth.sign_in("notes", "shared", ME, listen=False)
        assert started.sign_in.scope == "read"


async def test_a_ceiling_that_came_later_holds_for_what_was_asked_before_it(tmp_path: Path, oauth: OAuthServer) -> None:
    # Given a server that asked for more while the operator allowed it
    servers = entry(oauth)
    servers["notes"]["oauth"] = {"scope": "read", "step_up": True}
    async with open_auth(tmp_path, servers) as auth:
        await signed_in(auth)
        oauth.knobs.need_scope = "admin"
        with pytest.raises(ReauthorizationNeeded):
            async with auth.session("notes") as client:
                await client.list_tools()

    # When the operator takes that back
    servers["notes"]["oauth"] = {"scope": "read"}
    async with open_auth(tmp_path, servers) as auth:
        started = await auth.sign_in("notes", "shared", ME, listen=False)

    # Then the next sign-in asks for what is allowed
    assert started.sign_in.scope == "read"
    assert started.sign_in.step_up_scope is None


async def test_step_up_lifts_the_ceiling(tmp_path: Path, oauth: OAuthServer) -> None:
    servers = entry(oauth)
    servers["notes"]["oauth"] = {"scope": "read", "step_up": True}
    async with open_auth(tmp_path, servers) as auth:
        await signed_in(auth)
        oauth.knobs.need_scope = "admin"
        with pytest.raises(ReauthorizationNeeded, match="asks for more access: admin"):
            async with auth.session("notes") as client:
                await client.list_tools()
        started = await auth.sign_in("notes", "shared", ME, listen=False)
        assert started.sign_in.scope == "read admin"


async def test_a_403_for_scopes_that_were_granted_is_no_reason_to_sign_in_again(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    oauth.knobs.challenge_scope = "read"
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        header = {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="read"'}
        oauth.knobs.mcp_answers = [PlainTextResponse("", 403, headers=header) for _ in range(9)]
        with pytest.raises(ServerRefused):
            async with auth.session("notes") as client:
                await client.list_tools()
        assert (await auth.status("notes")).auth is AuthState.SIGNED_IN


async def test_without_a_grant_a_session_says_so_before_any_request(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, entry(oauth)) as auth:
        with pytest.raises(SignInNeeded) as caught:
            async with auth.session("notes"):
                pass
    assert caught.value.next_step == Next("auth", "notes")
    assert oauth.seen == []


async def test_an_error_of_the_caller_comes_out_as_it_is(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        with pytest.raises(ZeroDivisionError):
            async with auth.session("notes"):
                _ = 1 / 0


async def test_a_server_without_auth_and_headers_is_looked_at_once_and_the_finding_kept(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with open_auth(tmp_path, {"notes": {"url": oauth.url}}) as auth:
        assert (await auth.status("notes")).auth is AuthState.NONE_NEEDED
        assert (await auth.probe("notes")).state is ConnectionState.REFUSED
        assert (await auth.status("notes")).auth is AuthState.SIGN_IN_NEEDED
        await signed_in(auth)
        assert (await auth.probe("notes")).state is ConnectionState.READY


async def test_an_open_server_needs_nothing(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.protected, oauth.knobs.prm_path, oauth.knobs.well_known = False, None, "none"
    async with open_auth(tmp_path, {"notes": {"url": oauth.url}}) as auth:
        assert (await auth.probe("notes")).state is ConnectionState.READY
        assert (await auth.status("notes")).auth is AuthState.NONE_NEEDED
        with pytest.raises(NotAllowed):
            await auth.sign_in("notes", "shared", ME)


async def test_duty_stdio_servers_take_their_environment_and_no_oauth(tmp_path: Path) -> None:
    servers = {
        "clock": {
            "command": sys.executable,
            "args": ["-m", "gateway.demo.stdio_server"],
            "env": {"CLOCK_TOKEN": "${CLOCK_TOKEN}", "PYTHONPATH": str(Path(__file__).parents[2])},
        }
    }
    async with open_auth(tmp_path, servers) as auth:
        status = await auth.status("clock")
        assert (status.auth, status.variables) == (AuthState.KEY_MISSING, ("CLOCK_TOKEN",))
        with pytest.raises(KeyMissing):
            async with auth.session("clock"):
                pass
        with pytest.raises(NotAllowed):
            await auth.sign_in("clock", "shared", ME)
        await auth.set_keys("clock", {"CLOCK_TOKEN": "t0ken"})
        assert (await auth.probe("clock")).state is ConnectionState.NOT_CHECKED
        result = await auth.probe("clock", insist=True)
        assert (result.state, result.tools) == (ConnectionState.READY, ("now",))


async def test_a_command_that_ends_or_speaks_something_else_is_no_mcp_server(tmp_path: Path) -> None:
    servers = {"clock": {"command": sys.executable, "args": ["-c", "pass"]}}
    async with open_auth(tmp_path, servers) as auth:
        result = await auth.probe("clock", insist=True)
    assert result.state is ConnectionState.UNREACHABLE
    assert result.detail == "it does not answer as an MCP server does; check the command"


async def test_a_command_gets_its_own_environment_and_none_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told.json"
    program = f"import json, os, pathlib; pathlib.Path({str(told)!r}).write_text(json.dumps(dict(os.environ)))"
    env = {"CLOCK_TOKEN": "Bearer ${CLOCK_TOKEN}", "PLAIN": "1"}
    servers = {"clock": {"command": sys.executable, "args": ["-c", program], "env": env}}
    monkeypatch.setenv("CLOCK_TOKEN", "t0ken")
    monkeypatch.setenv("SOMEBODY_ELSES_SECRET", "s3cret")
    async with open_auth(tmp_path, servers) as auth:
        assert (await auth.probe("clock", insist=True)).state is ConnectionState.UNREACHABLE
    found = json.loads(told.read_text())
    assert (found["CLOCK_TOKEN"], found["PLAIN"]) == ("Bearer t0ken", "1")
    assert "SOMEBODY_ELSES_SECRET" not in found and "s3cret" not in str(found)


async def test_a_late_refusal_of_an_older_token_leaves_the_newer_one_alone(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        flow = auth.http_auth("notes").async_auth_flow(httpx2.Request("POST", oauth.url))
        oauth.expire_access_tokens()
        request = await anext(flow)
        again = await flow.asend(httpx2.Response(401, request=request))
        assert again.headers["Authorization"] != "" and oauth.refreshes == 1
        # Somebody signs in anew while the second request is under way
        await signed_in(auth)
        newest = await auth.access_token("notes")
        with pytest.raises(StopAsyncIteration):
            await flow.asend(httpx2.Response(401, request=again))
        assert (await auth.status("notes")).auth is AuthState.SIGNED_IN
        assert await auth.access_token("notes") == newest


async def test_a_refusal_that_says_less_forgets_nothing_of_the_challenge(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.prm_path, oauth.knobs.challenge_scope = "header", "read"
    async with open_auth(tmp_path, {"notes": {"url": oauth.url}}) as auth:
        await auth.parts.profiles.probe(auth.config.servers["notes"])
        await signed_in(auth)
        before = await auth.store.profiles.get(oauth.url)
        oauth.knobs.challenge = 'Bearer error="invalid_token"'
        oauth.knobs.token_answers = [JSONResponse({"error": "invalid_grant"}, 400)]
        oauth.expire_access_tokens()
        async with httpx2.AsyncClient(auth=auth.http_auth("notes"), trust_env=False, timeout=PATIENCE) as client:
            assert (await client.post(oauth.url, json={})).status_code == 401
        after = await auth.store.profiles.get(oauth.url)
    assert before is not None and after is not None and before.challenge_metadata_url and before.challenge_scope
    assert after.challenge_metadata_url == before.challenge_metadata_url
    assert after.challenge_scope == before.challenge_scope


async def test_a_session_over_sse_is_signed_in_too(tmp_path: Path, oauth: OAuthServer) -> None:
    with sse_server(oauth) as url:
        # Given an entry that leaves open whether the server wants a sign-in
        async with open_auth(tmp_path, {"old": {"url": url, "transport": "sse"}}) as auth:
            assert (await auth.probe("old")).state is ConnectionState.REFUSED
            assert (await auth.status("old")).auth is AuthState.SIGN_IN_NEEDED
            await signed_in(auth, "old")
            found = await auth.probe("old", insist=True)
            assert (found.state, found.tools) == (ConnectionState.READY, ("greet",))
            async with auth.session("old") as client:
                result = await client.call_tool("greet", {"name": "Ada"})
                assert [getattr(part, "text", "") for part in result.content] == ["Hello, Ada."]
            # A token that the server no longer takes is renewed once here as well
            oauth.access.clear()
            assert (await auth.probe("old")).state is ConnectionState.READY
    assert oauth.refreshes == 1


async def test_a_command_that_does_not_start_is_unreachable(tmp_path: Path) -> None:
    async with open_auth(tmp_path, {"nope": {"command": "/nonexistent/program"}}) as auth:
        result = await auth.probe("nope", timeout=PATIENCE, insist=True)
        assert result.state is ConnectionState.UNREACHABLE
        with pytest.raises(Unreachable):
            async with auth.session("nope"):
                pass


async def test_tools_are_selected_by_globs(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, entry(oauth, tools={"include": ["read_*", "search"]})) as auth:
        await signed_in(auth)
        assert (await auth.probe("notes")).tools == ("search", "read_file")


async def test_a_probe_is_bounded_in_time(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        oauth.knobs.mcp_gate = threading.Event()
        result = await auth.probe("notes", timeout=0.5)
    assert (result.state, result.detail) == (ConnectionState.UNREACHABLE, "no answer within 0 seconds")


async def test_defect_10_one_tls_context_serves_all_servers(tmp_path: Path) -> None:
    servers = {f"s{n}": {"url": f"https://s{n}.example.com/mcp"} for n in range(50)}
    async with open_auth(tmp_path, servers) as auth:
        http = auth.parts.http
        contexts = {
            id(http.transport(NetworkRules.for_url(one.url or ""))._tls()) for one in auth.config.servers.values()
        }
    assert len(contexts) == 1


async def test_the_auth_layer_costs_little(tmp_path: Path, oauth: OAuthServer) -> None:
    """Counted, because the same work takes longer on a busy machine: the calls for one request with a good token."""
    calls: list[str] = []

    def count(frame: Any, event: str, called: Any) -> None:
        if event in ("call", "c_call"):
            calls.append(frame.f_code.co_qualname if event == "call" else called.__qualname__)

    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        layer = auth.http_auth("notes")
        for _ in range(2):
            flow = layer.async_auth_flow(httpx2.Request("POST", oauth.url))
            calls.clear()
            sys.setprofile(count)
            try:
                await flow.__anext__()
            finally:
                sys.setprofile(None)
            await flow.aclose()
    assert len(calls) < 100, calls


async def test_a_key_in_the_query_of_the_url_reaches_the_server_and_no_log(
    tmp_path: Path, oauth: OAuthServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    oauth.knobs.protected = False
    servers = {"notes": {"url": f"{oauth.url}?tenant=a%20b&key=url-secret"}}
    async with open_auth(tmp_path, servers) as auth, auth.session("notes") as client:
        assert len((await client.list_tools()).tools) == 3
    assert {tuple(s.query.items()) for s in oauth.requests("/mcp") if s.method == "POST"} == {
        (("tenant", "a b"), ("key", "url-secret"))
    }
    assert [r.name for r in caplog.records if "url-secret" in r.getMessage() and r.name != "uvicorn.access"] == []
