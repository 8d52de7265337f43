"""Members of metadata as they are written, and what is made of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_auth.metadata import missing, server_metadata
from mcp_auth.records import ServerMetadata, ServerProfile, decode, encode

AS = "https://as.example"
LEAST: dict[str, Any] = {"issuer": AS, "authorization_endpoint": f"{AS}/a", "token_endpoint": f"{AS}/t"}


@pytest.mark.parametrize(
    ("value", "promised"),
    [
        (True, True),
        (False, False),
        (None, None),
        # Text counts by its word
        ("true", True),
        ("True ", True),
        ("yes", True),
        ("false", False),
        (" FALSE", False),
        ("no", False),
        ("0", False),
        ("", False),
        # Whatever else is truthy: the check must not fall away
        (1, True),
        (0, False),
        (["x"], True),
        ({"supported": False}, True),
        (0.5, True),
    ],
)
def test_a_promise_of_iss_that_is_written_oddly_is_taken_for_given(value: object, promised: bool | None) -> None:
    metadata = server_metadata({**LEAST, "authorization_response_iss_parameter_supported": value})
    assert metadata.authorization_response_iss_parameter_supported is promised


@pytest.mark.parametrize(
    ("value", "listed"),
    [
        (["S256", "plain"], ["S256", "plain"]),
        ("S256", ["S256"]),
        ("plain S256", ["plain", "S256"]),
        ("plain,S256 , x", ["plain", "S256", "x"]),
        (["S256", 5, None, ["x"], ""], ["S256"]),
        ([], []),
        ("", None),
        (" , ", None),
        (5, None),
        (True, None),
        ({"S256": True}, None),
        (None, None),
    ],
)
def test_a_list_is_read_from_what_is_there(value: object, listed: list[str] | None) -> None:
    assert (
        server_metadata({**LEAST, "code_challenge_methods_supported": value}).code_challenge_methods_supported == listed
    )


@pytest.mark.parametrize("value", [None, "", 5, True, [], [f"{AS}/r"], {"url": f"{AS}/r"}])
def test_a_url_of_another_type_counts_as_absent(value: object) -> None:
    metadata = server_metadata({**LEAST, "registration_endpoint": value, "revocation_endpoint": value})
    assert (metadata.registration_endpoint, metadata.revocation_endpoint) == (None, None)
    assert missing({**LEAST, "token_endpoint": value}) == ["token_endpoint"]


def test_no_server_says_what_its_id_tokens_must_be_issued_by() -> None:
    assert server_metadata({**LEAST, "id_token_issuer": "https://evil.example"}).id_token_issuer is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*LEAST, *ServerMetadata.__struct_fields__]), json_values))
def test_whatever_a_document_holds_can_be_stored_and_read_again(members: dict[str, Any]) -> None:
    document = {**LEAST, **members}
    if missing(document):
        return
    connection = ServerProfile(server_url="https://server.example/mcp", metadata=server_metadata(document))
    assert decode(ServerProfile, encode(connection)).metadata == connection.metadata
