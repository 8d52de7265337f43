"""Metadata as real servers write it (RFC 8414): only what is used is required, and only that can be wrong. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mcp_auth.records import ServerMetadata

REQUIRED = ("issuer", "authorization_endpoint", "token_endpoint")
_NO = frozenset({"", "false", "no", "off", "0", "null", "none"})


def missing(document: Mapping[str, Any]) -> list[str]:
    """The required members that a document does not have."""
    return [name for name in REQUIRED if text(document.get(name)) is None]


def server_metadata(document: Mapping[str, Any]) -> ServerMetadata:
    """What we act on in a document that has the required members. A member of a wrong type counts as absent."""
    return ServerMetadata(
        issuer=document["issuer"],
        authorization_endpoint=document["authorization_endpoint"],
        token_endpoint=document["token_endpoint"],
        registration_endpoint=text(document.get("registration_endpoint")),
        revocation_endpoint=text(document.get("revocation_endpoint")),
        scopes_supported=texts(document.get("scopes_supported")),
        token_endpoint_auth_methods_supported=texts(document.get("token_endpoint_auth_methods_supported")),
        code_challenge_methods_supported=texts(document.get("code_challenge_methods_supported")),
        client_id_metadata_document_supported=_flag(document.get("client_id_metadata_document_supported")),
        authorization_response_iss_parameter_supported=_promise(
            document.get("authorization_response_iss_parameter_supported")
        ),
    )


def text(value: object) -> str | None:
    """A text with something in it that can be stored: JSON can spell half a character."""
    if not isinstance(value, str) or not value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def texts(value: object) -> list[str] | None:
    """A list of texts; a text where a list is meant is split. None: it is neither."""
    if isinstance(value, str):
        value = re.split(r"[\s,]+", value)
        return list(filter(text, value)) or None
    return list(filter(text, value)) if isinstance(value, list) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _promise(value: object) -> bool | None:
    """A promise that is written oddly is taken for given: the check that hangs on it must not fall away."""
    if isinstance(value, str):
        return value.strip().lower() not in _NO
    return None if value is None else bool(value)
