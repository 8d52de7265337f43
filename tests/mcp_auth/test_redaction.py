from __future__ import annotations

import msgspec
import pytest

import gateway.people
import mcp_auth.config.models
import mcp_auth.records
from gateway.people import Pending
from mcp_auth.config.models import Server
from mcp_auth.outcome import Next
from mcp_auth.records import BrowserBinding, Grant, Registration, Requester, ServerProfile, SignIn, Tokens
from mcp_auth.redaction import Redacted

MODULES = (mcp_auth.records, mcp_auth.config.models, gateway.people)
KINDS = [
    kind
    for module in MODULES
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Redacted) and issubclass(kind, msgspec.Struct)
]


def test_a_secret_field_shows_stars_and_an_empty_one_that_it_is_empty() -> None:
    assert "access_token=***, refresh_token=None" in repr(Tokens(access_token="at-1"))
    registration = Registration(client_id="c", issuer="i", source="dynamic", redirect_uri="", client_secret="s3cret")
    assert "client_secret=***" in repr(registration) and "s3cret" not in str(registration)


def test_pretty_printers_get_the_same() -> None:
    shown = dict(Tokens(access_token="at-1").__rich_repr__())
    assert (shown["access_token"], shown["token_type"]) == ("***", "'Bearer'")
    assert "key" not in str(Server(name="a", url="https://a.example", headers={"X": "key"}).__rich_repr__())


def test_the_query_of_a_url_may_hold_a_key() -> None:
    shown = repr(ServerProfile(server_url="https://a.example/mcp?api_key=7"))
    assert "server_url='https://a.example/mcp?***'" in shown


def test_a_chat_s_reference_may_hold_a_response_url() -> None:
    shown = repr(Requester(principal="slack:T/U", chat={"response_url": "https://hooks.example/secret"}))
    assert "hooks" not in shown and "slack:T/U" in shown


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_called_a_secret_is_a_field(kind: type[Redacted]) -> None:
    assert kind.__secret__ <= set(kind.__struct_fields__)


@pytest.mark.parametrize(
    ("kind", "secrets"),
    [
        (Registration, {"client_secret"}),
        (Tokens, {"access_token", "refresh_token"}),
        (Grant, {"keys"}),
        (Requester, {"chat", "message"}),
        (BrowserBinding, {"tickets", "opened", "browser", "code", "code_nonce", "answer", "voided"}),
        (SignIn, {"state", "code_verifier", "authorization_url"}),
        (Pending, {"code_sha256"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_no_stored_secret_is_shown(kind: type[Redacted], secrets: set[str]) -> None:
    assert kind.__secret__ == secrets


def test_a_code_in_a_next_step_is_for_one_person() -> None:
    step = Next("allow", arguments=("9HNGP67G",), is_secret=True, around="the operator runs {}")
    assert "9HNG" not in repr(step) + str(step) + str(step.__rich_repr__())
    assert str(step) == "the operator runs allow ***"
    assert "arguments=('CODE',)" in repr(Next("confirm", arguments=("CODE",)))
