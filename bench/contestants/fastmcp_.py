"""FastMCP's `OAuth`, with tokens kept in files."""

from __future__ import annotations

import warnings
from pathlib import Path

import httpx2
from common import main
from fastmcp.client.auth.oauth import OAuth
from key_value.aio.stores.filetree import (
    FileTreeStore,
    FileTreeV1CollectionSanitizationStrategy,
    FileTreeV1KeySanitizationStrategy,
)
from mcp.shared.auth import AuthorizationCodeResult
from provider import Works

warnings.simplefilter("ignore")


def _store(folder: str) -> FileTreeStore:
    place = Path(folder)
    return FileTreeStore(
        data_directory=place,
        key_sanitization_strategy=FileTreeV1KeySanitizationStrategy(place),
        collection_sanitization_strategy=FileTreeV1CollectionSanitizationStrategy(place),
    )


def make(url: str, name: str, folder: str) -> OAuth:
    return OAuth(url, token_storage=_store(folder), callback_port=8765)


def answer(code: str, state: str) -> AuthorizationCodeResult:
    return AuthorizationCodeResult(code=code, state=state)


if __name__ == "__main__":
    main(Works(make, httpx2, answer).all())
