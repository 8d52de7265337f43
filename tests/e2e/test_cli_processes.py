"""The command line end to end, every step in a process of its own."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest

from tests.e2e.processes import Running, listed, slash_mcp
from tests.homes import write_home
from tests.servers.oauth import OAuthServer, authorize, visit

pytestmark = pytest.mark.service


@pytest.fixture
def home(tmp_path: Path, oauth: OAuthServer) -> Path:
    return write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}})


def link_of(stdout: str) -> str:
    return next(line for line in stdout.splitlines() if line.startswith("http"))


def test_auth_here_callback_there_with_a_restart_between_expiry_refresh_and_logout(
    home: Path, oauth: OAuthServer
) -> None:
    # Given a link from a process that is gone
    begun = slash_mcp(home, "auth", "notes", "--no-wait")
    assert begun.returncode == 0, begun.stderr
    assert "slash-mcp paste" in begun.stderr
    redirect = authorize(link_of(begun.stdout))
    assert listed(home, "notes")["auth"]["state"] == "sign_in_open"

    # When a service is started, restarted, and receives the redirect
    for _ in range(2):
        with Running(home, "serve") as serve:
            serve.wait_for_error("callback endpoint")
    with Running(home, "serve") as serve:
        serve.wait_for_error("callback endpoint")
        page = visit(redirect)
        assert (page.status_code, "notes is signed in" in page.text) == (200, True)

    # Then every other process knows
    assert listed(home, "notes")["auth"]["state"] == "signed_in"
    tested = slash_mcp(home, "test", "notes", "--json")
    assert json.loads(tested.stdout)["state"] == "ready"

    # And an expired token is refreshed, once
    oauth.expire_access_tokens()
    assert slash_mcp(home, "test", "notes").returncode == 0
    assert (oauth.refreshes, oauth.families_killed) == (1, 0)

    # And a logout revokes and deletes
    out = slash_mcp(home, "logout", "notes")
    assert (out.returncode, "revoked" in out.stdout) == (0, True)
    assert len(oauth.requests("/revoke")) == 2
    assert [token for token in oauth.refresh.values() if not token["used"]] == []
    assert listed(home, "notes")["auth"]["state"] == "sign_in_needed"


def test_a_link_is_finished_by_paste_in_another_process(home: Path, oauth: OAuthServer) -> None:
    redirect = authorize(link_of(slash_mcp(home, "auth", "notes", "--no-wait").stdout))
    pasted = slash_mcp(home, "paste", "-", stdin=f"{redirect}\n")
    assert (pasted.returncode, "Signed in to notes" in pasted.stdout) == (0, True), pasted.stderr
    again = slash_mcp(home, "paste", redirect)
    assert (again.returncode, "signed notes in already" in again.stderr) == (1, True)


def test_auth_waits_receives_the_redirect_and_tells(home: Path, oauth: OAuthServer) -> None:
    with Running(home, "auth", "--json") as auth:
        event = json.loads(auth.line("authorization_url"))
        assert set(event) == {"event", "server", "url", "expires_at"}
        assert visit(authorize(event["url"])).status_code == 200
        done = json.loads(auth.line("signed_in"))
        assert done == {"event": "signed_in", "server": "notes", "account": None, "expires_at": None}
        assert auth.end() == 0


def test_auth_takes_a_pasted_address_while_it_waits(home: Path, oauth: OAuthServer) -> None:
    with Running(home, "auth", "notes") as auth:
        link = auth.line("http")
        auth.type("nonsense with spaces")
        auth.wait_for_error("not the address")
        auth.type(authorize(link))
        auth.line("signed in, 3 tools")
        assert auth.end() == 0


def test_auth_uses_the_listener_of_a_running_service(home: Path, oauth: OAuthServer) -> None:
    with Running(home, "serve") as serve:
        serve.wait_for_error("callback endpoint")
        with Running(home, "auth", "notes") as auth:
            assert visit(authorize(auth.line("http"))).status_code == 200
            auth.line("signed in")
            assert auth.end() == 0


def test_an_interrupted_auth_ends_with_130_and_the_link_lives_on(home: Path, oauth: OAuthServer) -> None:
    with Running(home, "auth", "notes") as auth:
        link = auth.line("http")
        auth.process.send_signal(signal.SIGINT)
        assert auth.end() == 130
        assert not any("Traceback" in line for line in auth.errors)
    again = slash_mcp(home, "auth", "notes", "--no-wait")
    assert link_of(again.stdout) == link


def test_a_refused_consent_is_a_failure_with_the_next_command(home: Path, oauth: OAuthServer) -> None:
    oauth.knobs.authorize_error = {"error": "access_denied"}
    with Running(home, "auth", "notes", "--json") as auth:
        visit(authorize(json.loads(auth.line("authorization_url"))["url"]))
        failed = json.loads(auth.line("failed"))
        assert set(failed) == {"event", "server", "reason", "next"}
        assert failed["next"] == "slash-mcp auth notes"
        assert auth.end() == 1


def test_a_timeout_leaves_the_link_alive(home: Path, oauth: OAuthServer) -> None:
    done = slash_mcp(home, "auth", "notes", "--timeout", "0")
    assert (done.returncode, "still works" in done.stderr) == (1, True)
    assert visit_is_refused(authorize(link_of(done.stdout)))
    assert listed(home, "notes")["auth"]["state"] == "sign_in_open"


def visit_is_refused(redirect: str) -> bool:
    import httpx2

    try:
        visit(redirect)
    except httpx2.ConnectError:
        return True
    return False


def test_serve_says_whose_port_it_cannot_have(home: Path, oauth: OAuthServer) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        done = slash_mcp(home, "serve", "--port", str(port))
    assert done.returncode == 1
    assert str(port) in done.stderr and "gateway.callback.port" in done.stderr


def test_serve_stops_quickly_on_sigterm(home: Path, oauth: OAuthServer) -> None:
    with Running(home, "serve") as serve:
        serve.wait_for_error("callback endpoint")
        serve.process.terminate()
        assert serve.end(5) == 0
