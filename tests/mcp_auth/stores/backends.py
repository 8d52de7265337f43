"""Every store that the contract suite runs over, and records to put into them.

A new backend is one more class here: `open()` gives another store over the same data, as another process has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from mcp_auth.records import (
    Authorization,
    BrowserBinding,
    Grant,
    KeyField,
    KeyForm,
    RefreshMark,
    Registration,
    Requester,
    ServerMetadata,
    ServerProfile,
    SignIn,
    Tokens,
)
from mcp_auth.stores.base import Store
from mcp_auth.stores.files import FileBackend, FileStore
from mcp_auth.stores.memory import MemoryStore

URL = "https://notes.example/mcp"
ISSUER = "https://login.example"


class Backend(Protocol):
    def open(self) -> Store: ...


class Files:
    """Files, with the mirror for Hermes as every home has it."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"

    def open(self) -> Store:
        return FileStore(self.home)


class FilesAlone(Files):
    def open(self) -> Store:
        return Store(FileBackend(self.home))


class Memory:
    def __init__(self, folder: Path) -> None:
        self._store = MemoryStore()

    def open(self) -> MemoryStore:
        return self._store


BACKENDS = {"files": Files, "files-without-mirror": FilesAlone, "memory": Memory}

METADATA = ServerMetadata(
    issuer=ISSUER,
    authorization_endpoint=f"{ISSUER}/authorize",
    token_endpoint=f"{ISSUER}/token",
    registration_endpoint=f"{ISSUER}/register",
    revocation_endpoint=f"{ISSUER}/revoke",
    scopes_supported=["read", "write"],
    code_challenge_methods_supported=["S256"],
    authorization_response_iss_parameter_supported=True,
)
REGISTRATION = Registration(
    client_id="client-1",
    issuer=ISSUER,
    source="dynamic",
    redirect_uri="http://127.0.0.1:8765/callback",
    client_secret="client-secret",
    token_endpoint_auth_method="client_secret_post",
)


def tokens(name: str = "1", **fields: object) -> Tokens:
    values = {"refresh_token": f"rt-{name}", "expires_at": 2e9, "obtained_at": 1.9e9, "scope": "read", **fields}
    return Tokens(access_token=f"at-{name}", **values)  # type: ignore[arg-type]


def grant(server: str = "notes", owner: str = "shared", name: str = "1", **fields: object) -> Grant:
    values = {"issuer": ISSUER, "metadata": METADATA, "registration": REGISTRATION, "tokens": tokens(name), **fields}
    return Grant(server=server, owner=owner, server_url=URL, **values)  # type: ignore[arg-type]


def full_grant(owner: str = "person:ann") -> Grant:
    """Every field set to something that is not its default."""
    return grant(
        owner=owner,
        resource=URL,
        scope_requested="read write",
        account="ann@example.com",
        keys={"NOTES_KEY": "sk-notes"},
        signed_in_at=1.9e9,
        reauthorization="ended",
        reauthorization_now=True,
        registration_dead=True,
        step_up_scope="write",
        refresh_mark=RefreshMark(token_sha256="0" * 64, count=2),
        refresh_not_before=1.96e9,
        refresh_failures=3,
        last_error="HTTP 503",
        previous=Authorization(issuer=ISSUER, metadata=METADATA, registration=REGISTRATION, tokens=tokens("0")),
    )


def sign_in(slot: str, server: str = "notes", owner: str = "shared", **fields: object) -> SignIn:
    values = {"status": "started", "origin": Requester(principal="cli:local"), "state": f"{slot}.{'x' * 43}", **fields}
    return SignIn(
        id=slot,
        server=server,
        owner=owner,
        server_url=URL,
        created_at=1.9e9,
        expires_at=1.9e9 + 600,
        issuer=ISSUER,
        metadata=METADATA,
        registration=REGISTRATION,
        **values,  # type: ignore[arg-type]
    )


def key_form(slot: str) -> KeyForm:
    return KeyForm(
        id=slot,
        server="notes",
        owner="shared",
        status="started",
        origin=Requester(principal="telegram:1"),
        created_at=1.9e9,
        expires_at=1.9e9 + 600,
        binding=BrowserBinding(tickets=("0" * 64,)),
        fields=(KeyField(name="KEY", where="Authorization"),),
    )


def connection(url: str = URL, **fields: object) -> ServerProfile:
    return ServerProfile(server_url=url, **fields)  # type: ignore[arg-type]
