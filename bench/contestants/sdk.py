"""`OAuthClientProvider` of the MCP SDK, with tokens kept in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
from common import main
from mcp.client.auth import OAuthClientProvider
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from provider import Works


class FileStorage:
    """The SDK's `TokenStorage` over one JSON file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def _read(self) -> dict[str, Any]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}

    def _write(self, **changes: Any) -> None:
        temporary = self._file.with_suffix(f".{id(changes)}")
        temporary.write_text(json.dumps({**self._read(), **changes}))
        temporary.replace(self._file)

    async def get_tokens(self) -> OAuthToken | None:
        known = self._read().get("tokens")
        return OAuthToken.model_validate(known) if known else None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._write(tokens=tokens.model_dump(mode="json"))

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        known = self._read().get("client")
        return OAuthClientInformationFull.model_validate(known) if known else None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._write(client=client_info.model_dump(mode="json"))


def make(url: str, name: str, folder: str) -> OAuthClientProvider:
    metadata = OAuthClientMetadata.model_validate(
        {
            "client_name": "bench",
            "redirect_uris": ["http://127.0.0.1:8765/callback"],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        }
    )
    return OAuthClientProvider(url, metadata, FileStorage(Path(folder) / f"{name}.json"))


def answer(code: str, state: str) -> AuthorizationCodeResult:
    return AuthorizationCodeResult(code=code, state=state)


if __name__ == "__main__":
    main(Works(make, httpx2, answer).all())
