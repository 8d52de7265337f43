"""The mirror of shared grants in the files that Hermes reads and writes.

    <name>.json         tokens: OAuthToken without empty members, `expires_at` (epoch), `hermes_issuer`
    <name>.client.json  OAuthClientInformationFull
    <name>.meta.json    authorization server metadata

The truth is the grant. The mirror is written after it; tokens that Hermes wrote since are adopted.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from mcp_auth.config.models import mirror_name
from mcp_auth.errors import RecordDamaged, StoreError
from mcp_auth.metadata import missing, server_metadata
from mcp_auth.net.issuers import is_same
from mcp_auth.net.resources import resource_of
from mcp_auth.records import NO_TROUBLE, SHARED, Grant, Registration, ServerMetadata, Tokens, Untold, grant_key
from mcp_auth.small_files import read_small_file
from mcp_auth.stores.base import GRANTS, Backend, Grants, Held, Kind, Place, log, named
from mcp_auth.stores.durable import (
    POLL,
    Absent,
    Folder,
    in_thread,
    is_settled,
    make_folder,
    remove_file,
    replace_file,
    try_lock,
    until,
    version_of,
)


class TokenFile(msgspec.Struct, frozen=True):
    """What Hermes' token file of a server holds, and the SHA-256 of its bytes; all None: there is none to read."""

    sha256: str | None
    tokens: Tokens | None
    issuer: str | None


NO_FILE = TokenFile(None, None, None)
# Hermes holds its lock for one refresh; who only writes does not wait for all of it.
_MIRROR_WAIT = 2.0


class HermesGrant(Grant, kw_only=True):
    """A grant, and what its mirror was when it was written: that of shared grants, in a home."""

    # SHA-256 of the Hermes token file as we last wrote or adopted it.
    mirror_sha256: str | None = None
    # And as it was before that: found there still, it is our write that is missing, not Hermes' that is new.
    mirror_before_sha256: str | None = None


MIRRORED: Kind[Grant] = Kind(GRANTS.name, HermesGrant, GRANTS.key, GRANTS.columns, is_precious=True)


class MirroredGrants(Grants):
    """The grants of a home: the truth in its own folder, and after it the mirror, which Hermes changes too.

    Between two reads Hermes may write; whoever writes without having seen that loses, as against any other writer.
    """

    def __init__(self, backend: Backend, folder: Folder[Grant], write_news: Callable[..., None], tokens: Path) -> None:
        super().__init__(backend, MIRRORED)
        self._folder = folder
        self._write_news = write_news
        self._mirror = HermesMirror(tokens)
        self._absent = Absent(tokens)
        self._complained: set[str] = set()

    # -- without an event loop ---------------------------------------------------------------

    def read(self, owner: str, server: str, server_url: str) -> tuple[Grant | None, bool]:
        """The grant, and whether Hermes' token file is missing, torn, or of before. Writes nothing. Raises as `get`."""
        grant = self._folder.read(grant_key(owner, server))
        if owner != SHARED:
            return grant, False
        return self._adopted(grant, server, server_url, self._mirror.token_file(server))

    def read_many(self, places: Sequence[Place]) -> list[tuple[Grant | StoreError | None, bool]]:
        """Each as by `read`, errors in their places; one look at each folder tells what is still missing."""
        self._folder.absent.look()
        self._absent.look()
        return [self._read_one(*place) for place in places]

    def _read_one(self, owner: str, server: str, server_url: str) -> tuple[Grant | StoreError | None, bool]:
        grant = self._folder.read_unless_absent(grant_key(owner, server))
        if isinstance(grant, StoreError):
            return named(grant, server), False
        if owner != SHARED:
            return grant, False
        file = NO_FILE
        if server not in self._absent:
            file = self._mirror.token_file(server)
            if file is NO_FILE:
                self._absent.add(server, self._mirror.token_path(server))
        return self._adopted(grant, server, server_url, file)

    def _adopted(self, grant: Grant | None, server: str, server_url: str, file: TokenFile) -> tuple[Grant | None, bool]:
        grant = self._mirror.adopted(grant, server, server_url, file)
        if grant is None or grant.tokens is None or grant.version == 0:
            return grant, False
        return grant, self._mirror.is_behind(grant, file)

    def write(self, grant: Grant, untold: Untold | None = None) -> Grant | None:
        """As `put_if`. The truth first, then the mirror; one that cannot be written now is written by a later read."""
        stored = _noted(grant).__copy__()
        mirror, key = self._mirror, grant_key(grant.owner, grant.server)
        # Where the tokens stay the same the mirror does, and nobody waits for Hermes.
        stays = grant.owner != SHARED or mirror.has_tokens_of(grant)
        with self._held(grant.server, None if stays else _MIRROR_WAIT) as held, self._folder.locked(key):
            before = self._folder.read(key)
            if version_of(before) != grant.version:
                return None
            stored.version += 1
            if grant.owner == SHARED:
                if mirror.is_newer(before, stored):
                    return None
                mirror.stamp(stored)
            self._write_news(untold, synced=True)
            self._folder.replace(key, stored)
            if held:
                self._write_mirror(stored)
        return stored

    def _remove(self, grant: Grant) -> bool:
        key = grant_key(grant.owner, grant.server)
        with self._held(grant.server, _MIRROR_WAIT), self._folder.locked(key):
            before = self._folder.read(key)
            if version_of(before) != grant.version:
                return False
            # First the mirror: the other way round a crash would bring the grant back from it.
            was_mirrored = self._mirror.delete(grant.server)
            if before is not None:
                self._folder.remove(key)
        return before is not None or was_mirrored

    def _repair(self, grant: Grant) -> None:
        """Write the mirror again, unless the grant has changed meanwhile."""
        key, mirror = grant_key(grant.owner, grant.server), self._mirror
        with self._held(grant.server, 0) as held, self._folder.locked(key):
            if not held or version_of(self._folder.read_if_possible(key)) != grant.version:
                return
            if mirror.is_behind(grant, mirror.token_file(grant.server)):
                self._write_mirror(grant)

    # -- the view ----------------------------------------------------------------------------

    async def get(self, owner: str, server: str, server_url: str) -> Grant | None:
        try:
            grant, is_behind = self.read(owner, server, server_url)
        except RecordDamaged as error:
            raise named(error, server) from None
        if grant is not None and is_behind:
            await in_thread(lambda: self._repair(grant))
        return grant

    async def get_many(self, places: Sequence[Place]) -> list[Grant | StoreError | None]:
        return [await self._repaired(grant) if is_behind else grant for grant, is_behind in self.read_many(places)]

    async def _repaired(self, grant: Grant | StoreError | None) -> Grant | StoreError | None:
        try:
            if isinstance(grant, Grant):
                await in_thread(lambda: self._repair(grant))
        except StoreError as error:
            return error
        return grant

    async def _put(self, grant: Grant, untold: Untold | None) -> Grant | None:
        return await in_thread(lambda: self.write(grant, untold))

    async def _delete(self, grant: Grant) -> bool:
        if grant.owner != SHARED:
            return await super()._delete(grant)
        return await in_thread(lambda: self._remove(grant))

    @asynccontextmanager
    async def lease(self, owner: str, server: str, *, ttl: float, wait: float) -> AsyncIterator[Held]:
        """As of every store; of a shared grant with the lock that newer Hermes takes around its own refresh."""
        deadline = time.monotonic() + wait
        async with super().lease(owner, server, ttl=ttl, wait=wait) as held:
            if owner != SHARED:
                yield held
                return
            await until(lambda: self._mirror.try_hold(server) or None, deadline, server)
            try:
                yield held
            finally:
                self._mirror.release(server)

    # -- the mirror --------------------------------------------------------------------------

    @contextmanager
    def _held(self, server: str, wait: float | None) -> Iterator[bool]:
        """Hermes' lock of this server for the time of one write; False when Hermes does not give it up.

        `wait` None: it is not needed.
        """
        held = False
        if wait is not None:
            deadline = time.monotonic() + wait
            try:
                while not (held := self._mirror.try_hold(server)) and time.monotonic() < deadline:
                    time.sleep(POLL)
            except StoreError as error:
                self._complain(server, error)
        try:
            yield held
        finally:
            if held:
                self._mirror.release(server)

    def _write_mirror(self, grant: Grant) -> None:
        try:
            self._mirror.write(grant)
        except StoreError as error:
            # The grant itself is safe; its owner must not lose it for the sake of the copy.
            self._complain(grant.server, error)
        else:
            self._complained.discard(grant.server)

    def _complain(self, server: str, error: StoreError) -> None:
        if server not in self._complained:
            self._complained.add(server)
            log().warning("Hermes does not see the grant of %s: %s", server, error.message)


def _noted(grant: Grant) -> HermesGrant:
    """The grant, with a place for what is noted of the mirror."""
    if isinstance(grant, HermesGrant):
        return grant
    return HermesGrant(**{name: getattr(grant, name) for name in grant.__struct_fields__})


class HermesMirror:
    """The files of one `mcp-tokens` folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, Path] = {}
        self._seen: dict[Path, tuple[tuple[int, int, int], TokenFile]] = {}
        self._guard = threading.Lock()
        self._holders: dict[Path, tuple[int, int]] = {}

    def try_hold(self, server: str) -> bool:
        """Take the lock that newer Hermes holds around a refresh, unless Hermes or another process has it.

        Within this process any number may hold it: grants have leases and versions of their own.

        Raises:
            StoreError: its file cannot be made.
        """
        path = self._lock_path(server)
        with self._guard:
            held, holders = self._holders.get(path, (None, 0))
            if held is None:
                make_folder(self._folder)
                held = try_lock(path)
                if held is None:
                    return False
            self._holders[path] = (held, holders + 1)
        return True

    def release(self, server: str) -> None:
        path = self._lock_path(server)
        with self._guard:
            held, holders = self._holders.pop(path)
            if holders > 1:
                self._holders[path] = (held, holders - 1)
            else:
                os.close(held)

    def _lock_path(self, server: str) -> Path:
        return self._folder / f"{mirror_name(server)}.json.refresh.lock"

    def adopted(self, grant: Grant | None, server: str, server_url: str, file: TokenFile) -> Grant | None:
        """The grant with the tokens that Hermes wrote since we last wrote or adopted, or one made of Hermes' files.

        Only for the configured URL, and only when the issuer in the files does not contradict the grant's.
        """
        digest, tokens, issuer = file.sha256, file.tokens, file.issuer
        if tokens is None or digest is None:
            return grant
        if grant is None:
            return self._first(server, server_url, digest, tokens, issuer)
        noted = _noted(grant)
        if digest in (noted.mirror_sha256, noted.mirror_before_sha256):
            return grant
        if grant.server_url != server_url or grant.tokens is None:
            return grant
        if issuer is not None and grant.issuer is not None and not is_same(issuer, grant.issuer):
            return grant
        if tokens.access_token == grant.tokens.access_token and tokens.refresh_token == grant.tokens.refresh_token:
            return grant
        return msgspec.structs.replace(
            noted,
            tokens=msgspec.structs.replace(
                tokens,
                refresh_token=tokens.refresh_token or grant.tokens.refresh_token,
                scope=tokens.scope or grant.tokens.scope,
            ),
            mirror_sha256=digest,
            refresh_mark=None,
            reauthorization_told=False,
            **NO_TROUBLE,
        )

    def is_newer(self, stored: Grant | None, grant: HermesGrant) -> bool:
        """Whether Hermes wrote tokens that whoever made `grant` of `stored` has not seen."""
        adopted = self.adopted(stored, grant.server, grant.server_url, self.token_file(grant.server))
        return adopted is not None and adopted is not stored and _noted(adopted).mirror_sha256 != grant.mirror_sha256

    def is_behind(self, grant: Grant, file: TokenFile) -> bool:
        """Whether the token file is missing, torn, or still the one that this grant was to replace."""
        digest, noted = file.sha256, _noted(grant)
        if not _is_mirrored(grant.tokens):
            return digest is not None and digest == noted.mirror_before_sha256
        return digest is None or (digest == noted.mirror_before_sha256 and digest != noted.mirror_sha256)

    def has_tokens_of(self, grant: Grant) -> bool:
        """Whether the token file is the very one that `write` makes of this grant."""
        return self.token_file(grant.server).sha256 == _digest(_token_file(grant))

    def stamp(self, grant: HermesGrant) -> None:
        """Note in the grant which token file it will have and which one it finds, before either is written."""
        grant.mirror_sha256 = _digest(_token_file(grant))
        grant.mirror_before_sha256 = self.token_file(grant.server).sha256

    def write(self, grant: Grant) -> None:
        """Write the three files, those that differ; under the grant's lock and Hermes'.

        Raises:
            StoreError: one of them cannot be written.
        """
        data = _token_file(grant)
        if data is None:
            self.delete(grant.server)
            return
        name = mirror_name(grant.server)
        if grant.registration is not None:
            _replace_if_other(self._folder / f"{name}.client.json", _client_file(grant.registration))
        if grant.metadata is not None:
            _replace_if_other(self._folder / f"{name}.meta.json", msgspec.json.encode(grant.metadata))
        # The tokens last: whoever sees them finds the client they belong to.
        _replace_if_other(self._folder / f"{name}.json", data)

    def delete(self, server: str) -> bool:
        """Remove the three files. False when there was no token file.

        Raises:
            StoreError: one of them cannot be removed.
        """
        name = mirror_name(server)
        had_tokens = remove_file(self._folder / f"{name}.json")
        for rest in (f"{name}.client.json", f"{name}.meta.json"):
            remove_file(self._folder / rest)
        return had_tokens

    def token_file(self, server: str) -> TokenFile:
        """The token file, read once for each version of it; a torn one counts as none."""
        path = self.token_path(server)
        try:
            found = os.stat(path)
        except OSError:
            return NO_FILE
        signature = (found.st_ino, found.st_mtime_ns, found.st_size)
        seen = self._seen.get(path)
        if seen is None or seen[0] != signature:
            seen = (signature, _read_tokens(path, found.st_mtime))
            if is_settled(found):
                self._seen[path] = seen
        return seen[1]

    def token_path(self, server: str) -> Path:
        path = self._paths.get(server)
        if path is None:
            path = self._paths[server] = self._folder / f"{mirror_name(server)}.json"
        return path

    def _first(self, server: str, server_url: str, digest: str, tokens: Tokens, issuer: str | None) -> Grant | None:
        """A grant that Hermes made. Without its client and metadata it works until the access token ends."""
        if not server_url:
            return None
        name = mirror_name(server)
        metadata = _read_metadata(self._folder / f"{name}.meta.json")
        if metadata is not None and issuer is not None and not is_same(metadata.issuer, issuer):
            return None
        return HermesGrant(
            server=server,
            owner=SHARED,
            server_url=server_url,
            issuer=issuer or (metadata.issuer if metadata is not None else None),
            metadata=metadata,
            registration=_read_client(self._folder / f"{name}.client.json", metadata),
            tokens=tokens,
            resource=resource_of(server_url),
            mirror_sha256=digest,
        )


def _replace_if_other(path: Path, data: bytes) -> None:
    try:
        if read_small_file(path)[0] == data:
            return
    except OSError:
        import logging

        logging.getLogger(__name__).debug("%s cannot be read and is written anew", path)
    replace_file(path, data)


def _digest(data: bytes | None) -> str | None:
    return hashlib.sha256(data).hexdigest() if data is not None else None


def _is_mirrored(tokens: Tokens | None) -> bool:
    """Hermes can only send bearer tokens; of others it gets no file, since what the one of before held is spent."""
    return tokens is not None and tokens.token_type == "Bearer"


def _token_file(grant: Grant) -> bytes | None:
    tokens = grant.tokens
    if tokens is None or not _is_mirrored(tokens):
        return None
    document: dict[str, Any] = {"access_token": tokens.access_token, "token_type": "Bearer"}
    if tokens.expires_at is not None:
        lifetime = tokens.expires_at - (tokens.obtained_at or tokens.expires_at)
        document["expires_in"] = max(0, round(lifetime))
        document["expires_at"] = tokens.expires_at
    if tokens.scope is not None:
        document["scope"] = tokens.scope
    if tokens.refresh_token is not None:
        document["refresh_token"] = tokens.refresh_token
    if grant.issuer is not None:
        document["hermes_issuer"] = grant.issuer
    return _as_hermes_writes(document)


def _as_hermes_writes(document: dict[str, Any]) -> bytes:
    import json

    return json.dumps(document, indent=2).encode()


def _client_file(registration: Registration) -> bytes:
    document: dict[str, Any] = {
        "client_id": registration.client_id,
        "redirect_uris": [registration.redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "issuer": registration.issuer,
    }
    if registration.client_secret is not None:
        document["client_secret"] = registration.client_secret
    if registration.client_secret_expires_at is not None:
        document["client_secret_expires_at"] = int(registration.client_secret_expires_at)
    if registration.token_endpoint_auth_method is not None:
        document["token_endpoint_auth_method"] = registration.token_endpoint_auth_method
    return _as_hermes_writes(document)


def _read_tokens(path: Path, modified: float) -> TokenFile:
    try:
        data, _ = read_small_file(path)
        document = msgspec.json.decode(data)
    except (OSError, ValueError, RecursionError):
        import logging

        logging.getLogger(__name__).debug("%s cannot be read and is not adopted", path)
        return NO_FILE
    if not isinstance(document, dict) or not isinstance(document.get("access_token"), str):
        return NO_FILE
    expires_at = document.get("expires_at")
    if not isinstance(expires_at, int | float) or isinstance(expires_at, bool):
        lifetime = document.get("expires_in")
        plain = isinstance(lifetime, int | float) and not isinstance(lifetime, bool)
        # Older Hermes wrote only a relative time: it counts from when the file was written.
        expires_at = modified + float(lifetime) if plain and lifetime is not None else None
    if (_text(document.get("token_type")) or "Bearer").lower() != "bearer":
        return NO_FILE
    issuer = document.get("hermes_issuer")
    tokens = Tokens(
        access_token=document["access_token"],
        refresh_token=_text(document.get("refresh_token")),
        expires_at=float(expires_at) if expires_at is not None else None,
        obtained_at=min(modified, time.time()),
        scope=_text(document.get("scope")),
    )
    return TokenFile(hashlib.sha256(data).hexdigest(), tokens, _text(issuer))


def _read_metadata(path: Path) -> ServerMetadata | None:
    try:
        document = msgspec.json.decode(read_small_file(path)[0])
    except (OSError, ValueError, RecursionError):
        return None
    return server_metadata(document) if isinstance(document, dict) and not missing(document) else None


def _read_client(path: Path, metadata: ServerMetadata | None) -> Registration | None:
    try:
        document = msgspec.json.decode(read_small_file(path)[0])
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or metadata is None:
        return None
    client_id, issuer = _text(document.get("client_id")), _text(document.get("issuer"))
    redirects = document.get("redirect_uris")
    if client_id is None or (issuer is not None and not is_same(issuer, metadata.issuer)):
        return None
    expires = document.get("client_secret_expires_at")
    return Registration(
        client_id=client_id,
        issuer=metadata.issuer,
        source="dynamic",
        redirect_uri=redirects[0] if isinstance(redirects, list) and redirects and _text(redirects[0]) else "",
        client_secret=_text(document.get("client_secret")),
        client_secret_expires_at=float(expires) if isinstance(expires, int | float) and expires else None,
        token_endpoint_auth_method=_text(document.get("token_endpoint_auth_method")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
