"""What is stored, as typed records. Readable without the MCP SDK, pydantic or an HTTP client.

Times are seconds since the epoch (float). `repr` never shows a field named in `__secret__`.
"""

from __future__ import annotations

import hashlib
import re
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import msgspec

from mcp_auth.outcome import Outcome
from mcp_auth.redaction import Redacted

if TYPE_CHECKING:
    from mcp_auth.errors import StoreError

SHARED = "shared"
# Tokens are renewed in the last fifth of their life, at most five minutes: early enough for a request that takes long,
# and for the retry after a failed refresh, while the old token still works.
_AHEAD_SHARE = 0.2
_AHEAD_MAX = 300.0
_AHEAD_UNKNOWN = 60.0
# Compiled by `re` at its first use: most homes know no owner but `shared`.
_OWNER = r"person:[^\s:/\x00-\x1f]{1,128}|principal:[^\x00-\x1f\x7f]{1,256}"


def check_owner(owner: str) -> str:
    """Return `owner` when it is `shared`, `person:NAME` or `principal:PLATFORM:ID`.

    Raises:
        ValueError: for anything else, so that a bare name can never stand for somebody's credentials.
    """
    if owner != SHARED and not re.fullmatch(_OWNER, owner):
        raise ValueError("an owner is 'shared', 'person:NAME' or 'principal:PLATFORM:ID'")
    return owner


@lru_cache(maxsize=4096)
def grant_key(owner: str, server: str) -> str:
    """The name under which the grant of (owner, server) is stored: SHA-256, 64 hex digits."""
    return hashlib.sha256(f"{check_owner(owner)}\0{server}".encode()).hexdigest()


def sha256(text: str) -> str:
    """Hex SHA-256, for secrets that are compared but never needed again (tickets, marks)."""
    return hashlib.sha256(text.encode()).hexdigest()


class Record(Redacted, msgspec.Struct, kw_only=True, omit_defaults=True):
    """Base of the stored records. `version` counts the writes; 0 means not stored yet."""

    version: int = 0

    if TYPE_CHECKING:  # msgspec has it, and its stubs do not say so

        def __copy__(self) -> Self: ...


class Value(Redacted, msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """Base of what stands inside records and never changes."""


class ServerMetadata(Value, frozen=True):
    """The part of RFC 8414 metadata that we act on; every URL is the raw string of the JSON."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    registration_endpoint: str | None = None
    revocation_endpoint: str | None = None
    scopes_supported: list[str] | None = None
    token_endpoint_auth_methods_supported: list[str] | None = None
    code_challenge_methods_supported: list[str] | None = None
    client_id_metadata_document_supported: bool | None = None
    authorization_response_iss_parameter_supported: bool | None = None
    # What the `iss` of the id token must be, where the issuer is a template (`oauth.issuer`); no server's own word.
    id_token_issuer: str | None = None


class Registration(Value, frozen=True):
    """Who we are at one issuer. `source` tells where the client id comes from."""

    __secret__: ClassVar[frozenset[str]] = frozenset({"client_secret"})

    client_id: str
    issuer: str
    source: Literal["configured", "metadata_document", "dynamic"]
    redirect_uri: str
    client_secret: str | None = None
    client_secret_expires_at: float | None = None
    token_endpoint_auth_method: str | None = None
    # What a dynamic client was registered for; None: for nothing in particular.
    scope: str | None = None
    # When a sign-in with it last succeeded.
    worked_at: float | None = None
    # Browsers that were sent on with it have not come back: the authorization server may have forgotten it.
    doubtful: bool = False


class Tokens(Value, frozen=True):
    """RFC 6749 section 5.1 with absolute times. `expires_at` None: valid until the server says 401."""

    __secret__: ClassVar[frozenset[str]] = frozenset({"access_token", "refresh_token"})

    access_token: str
    refresh_token: str | None = None
    expires_at: float | None = None
    obtained_at: float | None = None
    scope: str | None = None
    token_type: str = "Bearer"

    @property
    def renew_at(self) -> float | None:
        """When it is time for new ones, before the end and never at it. None: when the server says 401."""
        if self.expires_at is None:
            return None
        ahead = _AHEAD_UNKNOWN
        if self.obtained_at is not None:
            ahead = min(_AHEAD_MAX, _AHEAD_SHARE * max(0.0, self.expires_at - self.obtained_at))
        return self.expires_at - ahead


class RefreshMark(Value, frozen=True):
    """Written before a refresh token is sent: which one (SHA-256), and how often so far."""

    token_sha256: str
    count: int = 1


class Authorization(Record):
    """What a sign-in brought: all that a re-authorization replaces, and can bring back."""

    issuer: str | None = None
    metadata: ServerMetadata | None = None
    registration: Registration | None = None
    tokens: Tokens | None = None
    resource: str | None = None
    scope_requested: str | None = None
    account: str | None = None
    signed_in_at: float | None = None
    registration_dead: bool = False

    @property
    def brought(self) -> dict[str, Any]:
        """These fields alone, also of a grant."""
        return {name: getattr(self, name) for name in Authorization.__struct_fields__ if name != "version"}


class Grant(Authorization, kw_only=True):
    """Everything one owner holds at one server.

    `keys` are this owner's API keys (`identity: per_user` only; shared keys live in `.env`).
    """

    __secret__: ClassVar[frozenset[str]] = frozenset({"keys"})

    server: str
    owner: str
    server_url: str
    # Whose it is when a person of `people:` made it: every account that the person had then. Empty: not known.
    accounts: tuple[str, ...] = ()
    keys: dict[str, str] = msgspec.field(default_factory=dict)
    # Why only a person can make it work again; None while the grant is good.
    reauthorization: str | None = None
    # The reason above is a no that may be taken back: the refresh token is still sent, once an hour and by `test`.
    reauthorization_now: bool = False
    # Its owner has been told of it; a success takes this back.
    reauthorization_told: bool = False
    # When the server refused the access token above, which is over therefore, whatever its `expires_at` says.
    access_refused_at: float | None = None
    # Who signed in, and where; that chat hears when only a person can help.
    origin: Requester | None = None
    # The server asked for these scopes on top (403 insufficient_scope); the next sign-in asks for the union.
    step_up_scope: str | None = None
    refresh_mark: RefreshMark | None = None
    # After a failed refresh nobody asks again before this moment.
    refresh_not_before: float | None = None
    # `test` need not wait for it: neither did the server name it, nor is the last answer lost.
    refresh_may_be_tried: bool = False
    refresh_failures: int = 0
    # The first of these failures, and whether one of them was a definite no.
    refresh_failing_since: float | None = None
    refresh_refused: bool = False
    # The first OAuth error among them that came when the access token had ended.
    refresh_refused_at: float | None = None
    last_error: str | None = None
    # What was granted before a re-authorization, until the new tokens have worked once.
    previous: Authorization | None = None

    @property
    def refresh_at(self) -> float | None:
        """When to refresh; None: there is nothing to refresh with, or only a person can help."""
        if self.tokens is None or self.tokens.refresh_token is None or self.reauthorization is not None:
            return None
        due = self.tokens.renew_at
        return due if due is None else max(due, self.refresh_not_before or 0.0)


# What a grant with new tokens knows of the failures before them.
NO_TROUBLE: dict[str, Any] = {
    "reauthorization": None,
    "reauthorization_now": False,
    "access_refused_at": None,
    "refresh_not_before": None,
    "refresh_may_be_tried": False,
    "refresh_failures": 0,
    "refresh_failing_since": None,
    "refresh_refused": False,
    "refresh_refused_at": None,
    "last_error": None,
}


# Where each may go: `mcp_auth.states`. `answered`: the authorization server has answered a browser without script, and
# the last page waits for its proof.
Status = Literal[
    "started", "opened", "confirmed", "answered", "exchanging", "done", "refused", "failed", "expired", "cancelled"
]

ChangeKind = Literal[
    "sign_in_begun",
    "signed_in",
    "sign_in_ended",
    "signed_out",
    "refreshed",
    "reauthorization_needed",
    "key_set",
    "key_form_ended",
]

# Where a browser keeps the secret by which it is bound: its script's `localStorage`, a cookie of this sign-in alone
# (no script), or the forms of a key's pages, one after the other (no script).
KeptIn = Literal["storage", "cookie", "forms"]


class Requester(Value, frozen=True):
    """Who asked, and where the answer goes. `chat` and `message` are an adapter's references, as JSON values.

    Such a reference may hold a credential (a response URL, an interaction token).
    """

    __secret__: ClassVar[frozenset[str]] = frozenset({"chat", "message"})

    principal: str
    display_name: str = ""
    chat: dict[str, Any] | None = None
    message: dict[str, Any] | None = None


class Visit(Value, frozen=True):
    """Who pressed Continue: the kind of browser in words from a closed list, the network address, and when."""

    browser: str
    address: str | None = None
    at: float = 0.0


class BrowserBinding(Value, frozen=True):
    """What stands between a link of ours and what it leads to: which tickets open it, and which browser is bound.

    Tickets, the browser's secret and the code are kept as SHA-256 only. The code follows from that secret (on a last
    page: from the page's own) and `code_nonce`, so that the bound browser can show it again and nobody else can.
    """

    __secret__: ClassVar[frozenset[str]] = frozenset(
        {"tickets", "opened", "browser", "code", "code_nonce", "answer", "voided"}
    )

    tickets: tuple[str, ...] = ()
    # The ticket whose page was continued.
    opened: str | None = None
    browser: str | None = None
    kept_in: KeptIn | None = None
    visit: Visit | None = None
    # The last page that counts: its one-time secret and the code of the authorization server that stands on it.
    answer: str | None = None
    code: str | None = None
    code_nonce: str | None = None
    code_expires_at: float = 0.0
    # The last codes that were shown and count no more: whoever still types one is told so, and what it means.
    voided: tuple[str, ...] = ()
    # Wrong codes so far.
    attempts: int = 0
    # How it was proven that chat and browser are the same person; None: not asked for, or not yet.
    proof: Literal["code", "browser"] | None = None


class Linked(Record, kw_only=True):
    """What is reached by a link of ours: there is one slot for each (owner, server), and `id` names it."""

    id: str
    server: str
    owner: str
    status: Status
    origin: Requester
    created_at: float
    expires_at: float
    # None: the link is the authorization server's own (loopback mode).
    binding: BrowserBinding | None = msgspec.field(default=None, name="gate")
    # When it became `exchanging`; a claim that is old belongs to a process that died.
    claimed_at: float | None = None
    ended_at: float | None = None
    # How it ended; None too where a sign-in ended well.
    end: Outcome | None = None
    # The same as versions before wrote it: a sentence, and the next command. Read, and not written any more.
    outcome: str | None = None
    next_step: str | None = None

    @property
    def result(self) -> Outcome | None:
        """How it ended, also as it was written before."""
        if self.end is not None or self.outcome is None:
            return self.end
        server = None if self.server in self.outcome else self.server
        return Outcome(self.status, self.outcome, server, self.next_step)


class Check(Value, frozen=True):
    """What an authenticated call said after a sign-in; the words of `mcp_auth.status.ConnectionStatus`."""

    state: str
    tools: tuple[str, ...] | None = None
    ms: int | None = None
    detail: str | None = None


class SignIn(Linked, kw_only=True):
    """One started authorization.

    `state` is `<id>.<43 random characters>`, so a callback finds its record without an index.
    """

    __secret__: ClassVar[frozenset[str]] = frozenset({"state", "code_verifier", "authorization_url"})

    server_url: str
    issuer: str
    metadata: ServerMetadata
    registration: Registration
    redirect_uri: str = ""
    resource: str | None = None
    scope: str | None = None
    # The part of `scope` that a step-up added.
    step_up_scope: str | None = None
    # What the owner had been granted when it began.
    scope_before: str | None = None
    state: str | None = None
    code_verifier: str | None = None
    authorization_url: str | None = None
    account: str | None = None
    # The client was registered for an earlier sign-in.
    registration_reused: bool = False
    # Made by the endpoint before it shows the result; None: whoever waits for the end makes it.
    check: Check | None = None


class KeyField(Value, frozen=True):
    """One input of a key form. `where`: the header or environment variable that it fills."""

    name: str
    where: str


class KeyForm(Linked, kw_only=True):
    """A one-time page on which a server's API keys are typed. Holds no value, only which are asked for."""

    fields: tuple[KeyField, ...] = ()
    # How often the server refused what was typed.
    tries: int = 0


class Untold(Record):
    """Something that somebody has to hear, written together with what it is about: a row of the outbox.

    Whoever can reach the chat of `origin` claims it, says it, and removes it. `about`: the end of a sign-in or of a key
    form (which are here as they ended), a grant that only a person can make work again, somebody who was let in, or
    what stands in `text`.
    """

    __secret__: ClassVar[frozenset[str]] = frozenset({"text"})

    id: str
    about: Literal["sign_in", "key_form", "grant", "person", "text"]
    origin: Requester
    at: float
    server: str = ""
    owner: str = ""
    sign_in: SignIn | None = None
    key_form: KeyForm | None = None
    text: str | None = None
    # Until then somebody else is saying it.
    claimed_until: float = 0.0

    @property
    def ended(self) -> Linked | None:
        """What was reached by a link, as it ended."""
        return self.sign_in or self.key_form


class ServerProfile(Record):
    """What is known of one server URL, without anybody's credentials: findings, metadata, registrations."""

    server_url: str
    # The answer of the keyless probe: does it ask for OAuth? None: not probed yet.
    needs_sign_in: bool | None = None
    # Why no sign-in can begin although the server refuses who has no credential; each look is a new one then.
    trouble: str | None = None
    # `WWW-Authenticate` of the last 401/403: scope and resource_metadata.
    challenge_scope: str | None = None
    challenge_metadata_url: str | None = None
    resource: str | None = None
    resource_scopes: list[str] | None = None
    resource_name: str | None = None
    metadata: ServerMetadata | None = None
    # None: the metadata is not to be trusted any more and is looked up at the next sign-in.
    fetched_at: float | None = None
    # `oauth.issuer` as it was then: what was found for another one counts no more.
    chosen_issuer: str | None = None
    registrations: list[Registration] = msgspec.field(default_factory=list)
    # When a client was last registered in place of a doubtful one.
    reregistered_at: float | None = None
    # Why the last sign-in found no client to be; None once one was found.
    registration_needed: str | None = None
    # Scopes that were asked for by a step-up and not granted; not asked for again.
    refused_scopes: list[str] = msgspec.field(default_factory=list)


class Stored(msgspec.Struct, frozen=True):
    """What a store has of one owner at one server. `trouble`: why the grant, or all of it, cannot be read."""

    grant: Grant | None = None
    sign_in: SignIn | None = None
    connection: ServerProfile | None = None
    trouble: StoreError | None = None


R = TypeVar("R", bound=Record)
V = TypeVar("V", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder()


def encode(record: Record) -> bytes:
    """The record as one JSON object, UTF-8."""
    return _encoder.encode(record)


_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}
_describing = threading.Lock()


def decode(kind: type[R], data: bytes) -> R:
    """The record in `data`. From any thread.

    Raises:
        ValueError: not a record of this kind. The text names the field and never a value.
    """
    try:
        record: R = _decoder(kind).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a {kind.__name__} record: {type(error).__name__}") from None
    return record


def _decoder(kind: type[Any]) -> msgspec.json.Decoder[Any]:
    """msgspec describes a type to itself at its first use, and two threads in the midst of that end the process."""
    decoder = _decoders.get(kind)
    if decoder is None:
        with _describing:
            decoder = _decoders.get(kind) or _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    return decoder
