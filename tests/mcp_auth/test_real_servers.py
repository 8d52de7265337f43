"""What real servers publish and answer, each as its own shape: signed in to, and refreshed.

A shape is a line of a table: what the server says, in the words of a public report or of its own documents, on top of
what the tests' server says anyway. `{origin}` is that server, `{url}` its MCP address. Most are from 2026.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from mcp_auth import McpAuth
from mcp_auth.errors import (
    DiscoveryFailed,
    IssuerMismatch,
    McpAuthError,
    RegistrationRefused,
    ResourceMismatch,
    TokenRequestFailed,
    WrongIssuer,
)
from mcp_auth.links.tickets import connection_id
from mcp_auth.records import Registration, Requester
from mcp_auth.status import AuthState, ConnectionState
from tests.homes import ME, open_auth, query_of, signed_in
from tests.servers.oauth import OAuthServer

PRM = "/.well-known/oauth-protected-resource"
AS = "/.well-known/oauth-authorization-server"
OIDC = "/.well-known/openid-configuration"
GUID, OTHER_GUID = "72f988bf-86f1-41af-91ab-2d7cd011db47", "9188040d-6c67-4c5b-b112-36a304b66dad"


@dataclass
class Shape:
    """`prm`, `metadata`: members on top. `paths`: whole answers. `knobs`: anything else. `oauth`: of the entry."""

    name: str
    prm: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, Any] = field(default_factory=dict)
    knobs: dict[str, Any] = field(default_factory=dict)
    oauth: dict[str, Any] = field(default_factory=dict)
    refused: type[McpAuthError] | None = None
    said: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


def filled(value: Any, oauth: OAuthServer) -> Any:
    if isinstance(value, str):
        return (
            value.replace("{origin}", oauth.origin)
            .replace("{localhost}", f"http://localhost:{oauth.port}")
            .replace("{url}", oauth.url)
        )
    if isinstance(value, dict):
        return {name: filled(inner, oauth) for name, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, oauth) for inner in value]
    return value


def spelled(document: Any) -> Response:
    """As JSON in ASCII, which can spell half a character too."""
    return Response(json.dumps(document), media_type="application/json")


def put_on(shape: Shape, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give the server its shape. The `oauth` block for the entry."""
    oauth.knobs.prm |= filled(shape.prm, oauth)
    oauth.knobs.metadata |= filled(shape.metadata, oauth)
    for name, value in shape.knobs.items():
        setattr(oauth.knobs, name, filled(value, oauth))
    for handler in ("_prm", "_metadata"):
        real = getattr(oauth, handler)

        def answered(path: str, real: Any = real) -> Response:
            if path not in shape.paths:
                return real(path)
            said = shape.paths[path]
            if isinstance(said, int):
                return PlainTextResponse("trouble", said)
            if isinstance(said, str):
                return RedirectResponse(filled(said, oauth))
            return said if isinstance(said, Response) else spelled(filled(said, oauth))

        monkeypatch.setattr(oauth, handler, answered)
    return filled(shape.oauth, oauth)


def opened(folder: Path, oauth: OAuthServer, block: dict[str, Any]) -> McpAuth:
    return open_auth(folder, {"notes": {"url": oauth.url, "auth": "oauth", "oauth": block}})


def document(issuer: str, base: str = "{origin}", **more: Any) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{base}/authorize",
        "token_endpoint": f"{base}/token",
        "registration_endpoint": f"{base}/register",
        "code_challenge_methods_supported": ["S256"],
        **more,
    }


def echoed(name: str, **members: Any) -> Shape:
    """A registration is echoed with these members."""
    return Shape(f"registration-{name}", knobs={"registration_extra": members})


ENTRA = "{origin}/{tenantid}/v2.0"

GOOD = [
    # -- the slash of an empty path (RFC 3986 section 6.2.3) ---------------------------------
    # Google's own MCP servers: calendarmcp.googleapis.com
    Shape("google", prm={"authorization_servers": ["{origin}/"]}),
    # JumpCloud, Expo, Indeed: the other way round
    Shape("jumpcloud", metadata={"issuer": "{origin}/"}),
    Shape("both-with-slash", prm={"authorization_servers": ["{origin}/"]}, metadata={"issuer": "{origin}/"}),
    Shape("legacy-slash", metadata={"issuer": "{origin}/"}, knobs={"prm_path": None}),
    # -- trouble at one of the places --------------------------------------------------------
    *(
        Shape(f"as-{status}-then-oidc", paths={AS: status, OIDC: document("{origin}")})
        for status in (404, 429, 500, 503)
    ),
    Shape("as-empty-then-oidc", paths={AS: {}, OIDC: document("{origin}")}),
    Shape("as-error-then-oidc", paths={AS: {"error": "not_found"}, OIDC: document("{origin}")}),
    Shape("as-incomplete-then-oidc", paths={AS: {"issuer": "{origin}"}, OIDC: document("{origin}")}),
    Shape("as-bad-endpoint-then-oidc", paths={AS: document("{origin}", "ftp://x"), OIDC: document("{origin}")}),
    Shape("as-page-then-oidc", paths={AS: PlainTextResponse("<html>", 200), OIDC: document("{origin}")}),
    Shape("as-redirect-away-then-oidc", paths={AS: "http://10.0.0.5/login", OIDC: document("{origin}")}),
    Shape("as-circle-then-oidc", paths={AS: AS, OIDC: document("{origin}")}),
    Shape("as-of-another-then-oidc", paths={AS: document("https://other.example"), OIDC: document("{origin}")}),
    Shape("as-401-then-oidc", paths={AS: 401, OIDC: document("{origin}")}),
    # -- several authorization servers, and the first is of no use ----------------------------
    *(
        Shape(f"first-server-{name}", prm={"authorization_servers": [first, "{origin}"]}, paths=paths)
        for name, first, paths in [
            ("gone", "{origin}/first", {}),
            ("in-trouble", "{origin}/first", {f"{AS}/first": 503}),
            ("of-another-name", "{origin}/first", {f"{AS}/first": document("https://other.example")}),
            (
                "without-pkce",
                "{origin}/first",
                {f"{AS}/first": document("{origin}/first", code_challenge_methods_supported=["plain"])},
            ),
            ("not-reached", "http://127.0.0.1:1", {}),
            ("not-https", "http://as.example", {}),
            ("no-url", "somewhere", {}),
        ]
    ),
    # Okta, and Atlassian's authv2: behind the issuer's path only
    Shape(
        "okta",
        prm={"authorization_servers": ["{origin}/oauth2/default"]},
        paths={f"/oauth2/default{AS}": document("{origin}/oauth2/default")},
        knobs={"iss": "missing"},
    ),
    # -- members of other types (RFC 8414 section 2 knows lists, texts and booleans) -----------
    Shape("text-lists", metadata={"code_challenge_methods_supported": "S256", "scopes_supported": "read write"}),
    Shape("text-list-commas", metadata={"code_challenge_methods_supported": "plain, S256"}),
    Shape(
        "odd-types",
        metadata={
            "scopes_supported": 5,
            "response_types_supported": {"code": True},
            "grant_types_supported": [None, 1, "authorization_code"],
            "token_endpoint_auth_methods_supported": False,
            "client_id_metadata_document_supported": "yes",
            "revocation_endpoint_auth_methods_supported": [["x"]],
        },
    ),
    Shape(
        "half-characters", paths={AS: document("{origin}", scopes_supported=["read", "\ud800"], op_policy_uri="\ud800")}
    ),
    Shape(
        "iss-false-as-text",
        metadata={"authorization_response_iss_parameter_supported": "false"},
        knobs={"iss": "missing"},
    ),
    Shape("iss-true-as-text", metadata={"authorization_response_iss_parameter_supported": "true"}),
    Shape("prm-servers-as-text", prm={"authorization_servers": "{origin}"}),
    Shape("prm-scopes-as-text", prm={"scopes_supported": "read write", "resource_name": {"en": "Notes"}}),
    # -- challenges ---------------------------------------------------------------------------
    # Sentry: two in one challenge, the first a 404
    Shape(
        "sentry",
        knobs={
            "prm_path": "header",
            "challenge": f'Bearer resource_metadata="{{origin}}/gone{PRM}", '
            f'Bearer error="invalid_token", resource_metadata="{{origin}}/elsewhere{PRM}"',
        },
    ),
    Shape("relative", knobs={"prm_path": "header", "challenge": f'Bearer resource_metadata="/elsewhere{PRM}"'}),
    Shape(
        "basic-first",
        knobs={"prm_path": "header", "challenge": f'Basic realm="x", Bearer resource_metadata="/elsewhere{PRM}"'},
    ),
    *(
        Shape(f"challenge-{name}", knobs={"prm_path": "header", "challenge": challenge})
        for name, challenge in {
            # Sentry again: two in one challenge
            "two-in-one": f'Bearer resource_metadata="{{origin}}/gone", resource_metadata="/elsewhere{PRM}"',
            "two-in-one-first-not-https": f'Bearer resource_metadata="http://h.example/", '
            f'resource_metadata="/elsewhere{PRM}"',
            "with-semicolons": f'Bearer realm="x"; resource_metadata="/elsewhere{PRM}"; error=x',
            "in-single-quotes": f"Bearer error='x', resource_metadata='/elsewhere{PRM}'",
            "never-closed": f'Bearer resource_metadata="/elsewhere{PRM}',
            "with-blanks": f'Bearer resource_metadata=" /elsewhere{PRM} "',
            "without-commas": f'Bearer realm="x" resource_metadata=/elsewhere{PRM} error="x"',
        }.items()
    ),
    # Cloudflare Access: a scheme of its own
    Shape(
        "cloudflare",
        knobs={"prm_path": "header", "challenge": f'Cloudflare-Access resource_metadata="/elsewhere{PRM}"'},
    ),
    # -- oauth.issuer: the operator knows better ----------------------------------------------
    # mcp.atlassian.com names itself, and its metadata cf.mcp.atlassian.com
    Shape("atlassian", metadata={"issuer": "{localhost}"}, oauth={"issuer": "{localhost}"}),
    # Slack: seen as mcp.slack.com and as slack.com
    Shape("slack", metadata={"issuer": "{localhost}/"}, oauth={"issuer": "{localhost}"}),
    Shape(
        "own-well-known-wins",
        prm={"authorization_servers": ["{origin}/other"]},
        paths={AS: document("{origin}"), f"{AS}/other": document("{origin}", "{origin}/evil")},
        oauth={"issuer": "{origin}"},
    ),
    Shape(
        "another-document-says-it",
        prm={"authorization_servers": ["{origin}"]},
        paths={AS: document("{origin}/t")},
        knobs={"iss": "missing"},
        oauth={"issuer": "{origin}/t"},
    ),
    Shape("without-prm", metadata={"issuer": "{origin}/t"}, knobs={"prm_path": None}, oauth={"issuer": "{origin}/t"}),
    # Entra: one document for every tenant
    *(
        Shape(
            name,
            prm={"authorization_servers": ["{origin}/common/v2.0"]},
            paths={f"/common/v2.0{OIDC}": document(ENTRA), f"/{GUID}/v2.0{OIDC}": document(ENTRA)},
            knobs={"iss": "missing", "id_token_claims": {"iss": f"{{origin}}/{GUID}/v2.0", "tid": GUID}},
            oauth={"issuer": issuer},
        )
        for name, issuer in {"entra-any-tenant": ENTRA, "entra-one-tenant": f"{{origin}}/{GUID}/v2.0"}.items()
    ),
    # -- resources (RFC 9728 section 3.3) -----------------------------------------------------
    Shape("resource-slash", prm={"resource": "{url}/"}),
    # Slack: its metadata speaks for the whole host, and the well-known address of the host says so too
    Shape(
        "parent",
        prm={"resource": "{origin}"},
        paths={PRM: {"resource": "{origin}", "authorization_servers": ["{origin}"]}},
    ),
    Shape(
        "parent-decides",
        prm={"resource": "{origin}", "authorization_servers": ["{origin}/evil"]},
        paths={
            PRM: {"resource": "{origin}", "authorization_servers": ["{origin}"]},
            f"{AS}/evil": document("{origin}/evil", "{origin}/evil"),
        },
    ),
    *(
        Shape(
            f"parent-{name}",
            prm={"resource": said},
            paths={PRM: {"resource": parents, "authorization_servers": ["{origin}"]}},
        )
        for name, said, parents in [
            ("with-slash", "{origin}/", "{origin}"),
            ("that-has-a-slash", "{origin}", "{origin}/"),
            ("both-with-slash", "{origin}/", "{origin}/"),
        ]
    ),
    Shape("root-speaks-for-root", prm={"resource": "{origin}"}, knobs={"prm_path": "root"}),
    Shape("configured-resource", prm={"resource": "api://notes"}, oauth={"resource": "api://notes"}),
    Shape("configured-parent", prm={"resource": "{origin}"}, oauth={"resource": "{origin}"}),
    # -- registrations (RFC 7591 section 3.2.1) -----------------------------------------------
    # Ory Hydra: empty texts for what it does not know
    echoed("hydra", client_uri="", logo_uri="", tos_uri="", policy_uri="", contacts=None),
    echoed("odd-echo", grant_types="authorization_code", scope=["a"], jwks=5, contacts={}),
    echoed("method-of-another-type", token_endpoint_auth_method=["none"]),
    echoed("method-in-capitals", token_endpoint_auth_method="None"),
    echoed("id-number", client_id=12345),
    echoed("secret-number", client_secret=12345, token_endpoint_auth_method=None),
    echoed("no-secret", client_secret="", client_secret_expires_at=0),
    echoed("secret-without-method", client_secret="s3cret-value", token_endpoint_auth_method=None),
    *(
        echoed(
            f"ends-{name}",
            client_secret="s3cret-value",
            token_endpoint_auth_method=None,
            client_secret_expires_at=value,
        )
        for name, value in {
            "text": "0",
            "words": "never",
            "huge": 10**400,
            "negative": -1,
            "list": [],
            "far": 4e9,
        }.items()
    ),
]


@pytest.mark.parametrize("shape", GOOD, ids=str)
async def test_a_real_server_is_signed_in_to_and_refreshed(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, shape: Shape
) -> None:
    block = put_on(shape, oauth, monkeypatch)
    async with opened(tmp_path, oauth, block) as auth:
        await signed_in(auth)
        oauth.knobs.challenge = None
        oauth.expire_access_tokens()
        tested = await auth.probe("notes", insist=True)
        status = await auth.status("notes")

    assert (tested.state, tested.detail) == (ConnectionState.READY, None)
    assert status.auth is AuthState.SIGNED_IN
    assert oauth.refreshes == 1
    if oauth.knobs.prm_path == "header":
        # Found where the challenge says, and not by a fallback that happens to work as well
        assert oauth.requests(f"/elsewhere{PRM}")
    assert not any("evil" in seen.path for seen in oauth.seen if "well-known" not in seen.path)


BAD = [
    Shape(
        "other-issuer",
        metadata={"issuer": "https://evil.example"},
        refused=IssuerMismatch,
        said=("https://evil.example", "{origin}", "oauth.issuer: https://evil.example"),
    ),
    Shape(
        "path-slash",
        prm={"authorization_servers": ["{origin}/t/"]},
        paths={f"{AS}/t": document("{origin}/t")},
        refused=IssuerMismatch,
        said=("{origin}/t/",),
    ),
    Shape(
        "entra-unconfigured",
        prm={"authorization_servers": ["{origin}/common/v2.0"]},
        paths={f"/common/v2.0{OIDC}": document(ENTRA)},
        refused=IssuerMismatch,
        said=("{tenantid}", "oauth.issuer"),
    ),
    Shape(
        "chosen-says-another",
        metadata={"issuer": "https://evil.example"},
        oauth={"issuer": "{origin}"},
        refused=IssuerMismatch,
        said=("oauth.issuer", "https://evil.example"),
    ),
    *(
        Shape(
            f"spoken-for-with-{member}-elsewhere",
            oauth={"issuer": "{origin}/t"},
            refused=IssuerMismatch,
            paths={AS: document("{origin}/t", revocation_endpoint="{origin}/revoke") | {member: "{localhost}/x"}},
            said=("localhost", "oauth.issuer"),
        )
        for member in ("authorization_endpoint", "token_endpoint", "registration_endpoint", "revocation_endpoint")
    ),
    Shape(
        "chosen-in-trouble-is-not-silent",
        oauth={"issuer": "{origin}/t"},
        paths={AS: document("{origin}/t"), f"{AS}/t": 503},
        refused=DiscoveryFailed,
        said=("HTTP 503",),
    ),
    Shape(
        "concrete-issuer-of-another-template",
        prm={"authorization_servers": ["{origin}/common/v2.0"]},
        paths={f"/common/v2.0{OIDC}": document("{origin}/{tenantid}/v1.0")},
        oauth={"issuer": f"{{origin}}/{GUID}/v2.0"},
        refused=IssuerMismatch,
    ),
    Shape(
        "no-guid",
        prm={"authorization_servers": ["{origin}/common/v2.0"]},
        paths={f"/common/v2.0{OIDC}": document("{origin}/common/v2.0")},
        oauth={"issuer": ENTRA},
        refused=IssuerMismatch,
    ),
    *(
        Shape(f"as-{status}", paths={AS: status}, refused=DiscoveryFailed, said=(f"HTTP {status}",))
        for status in (429, 500, 502)
    ),
    Shape("trouble-then-nothing", paths={AS: 503, OIDC: 404}, refused=DiscoveryFailed, said=("HTTP 503",)),
    Shape(
        "all-servers-of-no-use",
        prm={"authorization_servers": ["{origin}/one", "{origin}/two", "{origin}/three", "{origin}"]},
        paths={f"{AS}/one": 503},
        refused=DiscoveryFailed,
        said=("HTTP 503",),
    ),
    Shape("empty", paths={AS: {}}, refused=DiscoveryFailed, said=("no issuer", "no token_endpoint")),
    Shape("no-token-endpoint", metadata={"token_endpoint": None}, refused=DiscoveryFailed, said=("no token_endpoint",)),
    Shape("token-endpoint-of-another-type", metadata={"token_endpoint": ["x"]}, refused=DiscoveryFailed),
    Shape("half-a-character-in-the-issuer", paths={AS: document("{origin}\ud800")}, refused=IssuerMismatch),
    # A path may not speak for its host, whatever it says of itself (RFC 9728 section 3.3)
    Shape("evil-path", prm={"resource": "{origin}"}, refused=ResourceMismatch, said=("{origin}", "/mcp")),
    Shape(
        "evil-path-parent-says-otherwise",
        prm={"resource": "{origin}"},
        refused=ResourceMismatch,
        paths={PRM: {"resource": "{origin}/other", "authorization_servers": ["{origin}"]}},
    ),
    Shape(
        "evil-path-parent-names-nobody",
        prm={"resource": "{origin}"},
        paths={PRM: {"resource": "{origin}"}},
        refused=ResourceMismatch,
    ),
    Shape("sibling", prm={"resource": "{origin}/mc"}, refused=ResourceMismatch),
    Shape("below", prm={"resource": "{url}/below"}, refused=ResourceMismatch),
    # The scheme alone may be the difference, so it is said
    Shape(
        "http-for-https",
        prm={"resource": "https://127.0.0.1/mcp"},
        refused=ResourceMismatch,
        said=("https://127.0.0.1/mcp", "{url}"),
    ),
    Shape(
        "own-url-where-another-is-configured",
        prm={"resource": "{url}"},
        oauth={"resource": "api://notes"},
        refused=ResourceMismatch,
        said=("{url}", "api://notes", "oauth.resource"),
    ),
    Shape(
        "configured-resource-of-others",
        prm={"resource": "api://other"},
        oauth={"resource": "api://notes"},
        refused=ResourceMismatch,
        said=("api://other", "api://notes"),
    ),
]


@pytest.mark.parametrize("shape", BAD, ids=str)
async def test_what_must_not_be_used_is_refused_in_words(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, shape: Shape
) -> None:
    block = put_on(shape, oauth, monkeypatch)
    async with opened(tmp_path, oauth, block) as auth:
        assert shape.refused is not None
        with pytest.raises(shape.refused) as refused:
            await auth.sign_in("notes", "shared", ME, listen=False)
    for part in shape.said:
        assert filled(part, oauth) in str(refused.value)
    assert refused.value.next_step
    assert oauth.requests("/register") == []


@pytest.mark.parametrize(
    "claims",
    [
        None,
        {},
        {"iss": 5},
        {"iss": "{origin}/common/v2.0"},
        {"iss": "{origin}/{tenantid}x/v2.0"},
        {"iss": f"{{origin}}/{GUID}/v2.0/x"},
        {"iss": f"https://evil.example/{GUID}/v2.0"},
        {"iss": f"{{origin}}/{OTHER_GUID}/v2.0"},
    ],
    ids=str,
)
async def test_tokens_of_another_tenant_are_not_stored(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, claims: dict[str, Any] | None
) -> None:
    shape = Shape(
        "entra",
        prm={"authorization_servers": ["{origin}/common/v2.0"]},
        paths={f"/common/v2.0{OIDC}": document(ENTRA)},
        knobs={"iss": "missing", "id_token_claims": claims},
        oauth={"issuer": f"{{origin}}/{GUID}/v2.0"},
    )
    async with opened(tmp_path, oauth, put_on(shape, oauth, monkeypatch)) as auth:
        with pytest.raises(TokenRequestFailed) as refused:
            await signed_in(auth)
        assert "tenant" in str(refused.value)
        assert await auth.store.grants.get("shared", "notes", oauth.url) is None


@pytest.mark.parametrize(
    "tenant", ["{tenantid}", "common", f"{GUID}/{GUID}", f"{GUID[:-1]}g", f"{GUID}\n", "", f" {GUID}"], ids=ascii
)
async def test_what_is_no_tenant_of_the_template_is_not_stored(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, tenant: str
) -> None:
    shape = next(shape for shape in GOOD if shape.name == "entra-any-tenant")
    knobs = {**shape.knobs, "id_token_claims": {"iss": f"{{origin}}/{tenant}/v2.0"}}
    async with opened(tmp_path, oauth, put_on(replace(shape, knobs=knobs), oauth, monkeypatch)) as auth:
        with pytest.raises(TokenRequestFailed, match="tenant"):
            await signed_in(auth)
        assert await auth.store.grants.get("shared", "notes", oauth.url) is None


async def test_any_one_tenant_of_a_template_is_kept_as_the_issuer(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = next(shape for shape in GOOD if shape.name == "entra-any-tenant")
    async with opened(tmp_path, oauth, put_on(shape, oauth, monkeypatch)) as auth:
        await signed_in(auth)
        assert (await auth.status("notes")).issuer == f"{oauth.origin}/{GUID}/v2.0"


async def test_the_authorization_server_in_use_is_waited_for_while_it_is_in_trouble(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = "{origin}/first"
    shape = Shape(
        "two",
        prm={"authorization_servers": ["{origin}", first]},
        paths={f"{AS}/first": document(first, "{origin}"), AS: 503},
    )
    async with opened(tmp_path, oauth, put_on(shape, oauth, monkeypatch)) as auth:
        oauth.knobs.iss = "missing"
        await signed_in(auth)
        used = await auth.store.profiles.get(oauth.url)
        assert used is not None and used.metadata is not None and used.metadata.issuer == filled(first, oauth)
        # Whatever the order, and only while it is in trouble
        shape.paths |= {f"{AS}/first": 503, AS: document("{origin}")}
        with pytest.raises(DiscoveryFailed, match="HTTP 503"):
            await auth.sign_in("notes", "shared", ME, listen=False, fresh=True)
        shape.paths |= {f"{AS}/first": 404}
        assert (await auth.sign_in("notes", "shared", ME, listen=False, fresh=True)).sign_in.issuer == oauth.origin


@pytest.mark.parametrize("status", [404, 405, 410])
@pytest.mark.parametrize("own", [ENTRA, f"{{origin}}/{GUID}/v2.0"], ids=["template", "tenant"])
async def test_a_token_endpoint_that_moved_is_found_again_under_a_template(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, own: str, status: int
) -> None:
    """No address can be made of a template; the tenant whose tokens they are has one (Entra names itself there)."""
    shape = next(shape for shape in GOOD if shape.name == "entra-any-tenant")
    now = document(own, token_endpoint="{origin}/v2/token")
    moved = replace(shape, paths={**shape.paths, f"/{GUID}/v2.0{OIDC}": now})
    async with opened(tmp_path, oauth, put_on(moved, oauth, monkeypatch)) as auth:
        await signed_in(auth)
        oauth.knobs.gone = {"/token": status}
        oauth.expire_access_tokens()
        assert (await auth.probe("notes", insist=True)).state is ConnectionState.READY
        assert (await auth.status("notes")).issuer == f"{oauth.origin}/{GUID}/v2.0"
    assert len(oauth.requests("/v2/token")) == 1


async def test_a_refresh_token_of_one_tenant_goes_to_no_endpoint_of_another(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = next(shape for shape in GOOD if shape.name == "entra-any-tenant")
    now = document(f"{{origin}}/{OTHER_GUID}/v2.0", token_endpoint="{origin}/v2/token")
    moved = replace(shape, paths={**shape.paths, f"/{GUID}/v2.0{OIDC}": now})
    async with opened(tmp_path, oauth, put_on(moved, oauth, monkeypatch)) as auth:
        await signed_in(auth)
        oauth.knobs.gone = {"/token": 404}
        oauth.expire_access_tokens()
        assert (await auth.probe("notes", insist=True)).state is not ConnectionState.READY
    assert oauth.requests("/v2/token") == []


@pytest.mark.parametrize("by_hand", [False, True])
async def test_a_second_authorization_server_that_was_only_tried_binds_nobody(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    second = "{origin}/second"
    shape = Shape(
        "two",
        prm={"authorization_servers": ["{origin}", second]},
        paths={f"{AS}/second": document(second, "{origin}"), AS: 503},
        oauth={"client_id": "by-hand"} if by_hand else {},
    )
    async with opened(tmp_path, oauth, put_on(shape, oauth, monkeypatch)) as auth:
        if by_hand:
            # Its client belongs to the first
            with pytest.raises(DiscoveryFailed, match="HTTP 503"):
                await auth.sign_in("notes", "shared", ME, listen=False)
        else:
            tried = await auth.sign_in("notes", "shared", ME, listen=False)
            assert tried.sign_in.issuer == filled(second, oauth)
            await auth.cancel("notes")
        del shape.paths[AS]
        assert (await auth.sign_in("notes", "shared", ME, listen=False)).sign_in.issuer == oauth.origin


async def test_a_change_of_oauth_issuer_looks_everything_up_anew(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.metadata["issuer"] = f"{oauth.origin}/t"
    async with opened(tmp_path, oauth, {"issuer": f"{oauth.origin}/t"}) as auth:
        await signed_in(auth)
    async with opened(tmp_path, oauth, {}) as auth:
        with pytest.raises(IssuerMismatch):
            await auth.sign_in("notes", "shared", ME, listen=False)


@pytest.mark.parametrize("iss", ["{origin}/", "{origin}"])
async def test_the_metadatas_spelling_is_what_an_answer_must_name(tmp_path: Path, oauth: OAuthServer, iss: str) -> None:
    oauth.knobs.prm["authorization_servers"] = [oauth.origin if iss.endswith("/") else f"{oauth.origin}/"]
    oauth.knobs.metadata["issuer"] = filled(iss, oauth)
    async with opened(tmp_path, oauth, {}) as auth:
        await signed_in(auth)
        assert (await auth.status("notes")).issuer == filled(iss, oauth)


# -- ids and keys ignore that slash, and what 0.1.0 stored is found ----------------------------

ANN = Requester(principal="telegram:100001", display_name="Ann")
PUBLIC = "https://bot.example.com"


def test_the_id_of_a_connection_ignores_the_slash() -> None:
    assert connection_id("https://s/mcp", "https://as") == connection_id("https://s/mcp", "https://as/")
    assert connection_id("https://s/mcp", "https://as/t") != connection_id("https://s/mcp", "https://as/t/")


async def test_a_client_is_found_again_when_the_metadata_is_spelled_otherwise(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with opened(tmp_path, oauth, {}) as auth:
        await signed_in(auth)
        oauth.knobs.metadata["issuer"] = f"{oauth.origin}/"
        # Looked up anew, and the client is the one of before
        for connection in [await auth.store.profiles.get(oauth.url)]:
            assert connection is not None
            connection.fetched_at = None
            await auth.store.profiles.put_if(connection)
        await signed_in(auth)
    assert len(oauth.requests("/register")) == 1


async def test_the_redirect_uri_of_version_0_1_0_stays_in_use(tmp_path: Path, oauth: OAuthServer) -> None:
    # Given an issuer with a slash, which the id in the redirect URI was made of
    issuer = f"{oauth.origin}/"
    old = f"{PUBLIC}/callback/{old_connection_id(oauth.url, issuer)}"
    oauth.knobs.metadata["issuer"], oauth.knobs.prm["authorization_servers"] = issuer, [issuer]
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    async with open_auth(tmp_path, servers, {"public_url": PUBLIC, "allow": ["telegram:100001"]}) as auth:
        connection = await auth.parts.profiles.look_up(auth.config.servers["notes"], fresh=False)
        connection.registrations = [Registration(client_id="old", issuer=issuer, source="dynamic", redirect_uri=old)]
        await auth.store.profiles.put_if(connection)

        started = await auth.sign_in("notes", "shared", ANN)

        assert (started.sign_in.redirect_uri, started.sign_in.registration.client_id) == (old, "old")
        # Registered, so no document says who we are there.
        assert await auth.parts.services.client_document(old.rpartition("/")[2]) is None
    assert oauth.requests("/register") == []


def old_connection_id(server_url: str, issuer: str) -> str:
    import hashlib

    return hashlib.sha256(f"{server_url}\0{issuer}".encode()).hexdigest()[:32]


# -- registrations that are refused ------------------------------------------------------------

SPOILT = "a\x1b[31m\u202eb\nc" + "d" * 500
HOST, URL, SCOPE = "oauth.redirect_host", "gateway.public_url", "oauth.scope"


@pytest.mark.parametrize(
    ("status", "body", "names", "not_named", "said"),
    [
        (400, {"error": "invalid_redirect_uri"}, (HOST, URL), (SCOPE,), "invalid_redirect_uri"),
        (400, {"error": "invalid_client_metadata"}, (HOST, URL, SCOPE), (), "invalid_client_metadata"),
        # The words decide where the code does not
        (
            400,
            {"error": "invalid_request", "error_description": "Redirect URI must use https"},
            (HOST, URL),
            (SCOPE,),
            "invalid_request: Redirect URI must use https",
        ),
        (422, {"error": "x", "error_description": "scope x is not allowed"}, (SCOPE,), (HOST,), "scope x"),
        (400, {"error": "invalid_scope"}, (SCOPE,), (HOST, URL), "invalid_scope"),
        (403, {"error": "access_denied", "error_description": "no"}, (HOST, URL, SCOPE), (), "access_denied: no"),
        (400, {}, (HOST, URL, SCOPE), (), "HTTP 400"),
        # Other forms of the same
        (422, {"message": "redirect_uri must use https"}, (HOST, URL), (SCOPE,), "redirect_uri must use https"),
        (400, {"error": {"code": "invalid_redirect_uri"}}, (HOST, URL), (SCOPE,), "invalid_redirect_uri"),
        (400, {"errors": [{"detail": "unknown scope: x"}]}, (SCOPE,), (HOST, URL), "HTTP 400: unknown scope: x"),
        (422, {"detail": [{"loc": ["redirect_uris", 0], "msg": "bad redirect"}]}, (HOST,), (SCOPE,), "bad redirect"),
        (400, {"error": ["invalid_scope"]}, (SCOPE,), (HOST,), "invalid_scope"),
        (400, {"title": "Bad scope", "status": 400}, (SCOPE,), (HOST,), "Bad scope"),
        (403, {"message": "Forbidden"}, (), (HOST,), "allow-list (HTTP 403)"),
        (404, "not here", (HOST, URL, SCOPE), (), "HTTP 404"),
        # HTTP 200, and no client
        (200, {"error": "invalid_redirect_uri"}, (HOST, URL), (SCOPE,), "invalid_redirect_uri"),
        # Cleaned: what a terminal or a chat would act on
        (400, {"error": "x", "error_description": SPOILT}, (HOST,), ("\x1b", "\u202e", "d" * 201), "a [31m b c"),
    ],
)  # fmt: skip
async def test_a_refused_registration_names_what_can_be_asked_for_otherwise(
    tmp_path: Path,
    oauth: OAuthServer,
    status: int,
    body: Any,
    names: tuple[str, ...],
    not_named: tuple[str, ...],
    said: str,
) -> None:
    oauth.knobs.registration = PlainTextResponse(body if isinstance(body, str) else json.dumps(body), status)
    async with opened(tmp_path, oauth, {}) as auth:
        with pytest.raises(RegistrationRefused) as refused:
            await auth.sign_in("notes", "shared", ME, listen=False)
    text = str(refused.value)
    assert said in text
    assert "client_id" in text
    assert [name for name in names if name not in text] == []
    assert [name for name in not_named if name in text] == []


async def test_a_refused_public_redirect_is_not_blamed_on_loopback(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.registration = PlainTextResponse('{"error": "invalid_redirect_uri"}', 400)
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    async with open_auth(tmp_path, servers, {"public_url": PUBLIC, "allow": ["telegram:100001"]}) as auth:
        with pytest.raises(RegistrationRefused) as refused:
            await auth.sign_in("notes", "shared", ANN)
    assert HOST not in str(refused.value)
    assert URL in str(refused.value)


# -- the authorization request -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "endpoint_query", "prompt"),
    [
        ({}, "", None),
        ({"prompt": "consent"}, "", "consent"),
        ({"prompt": None}, "", None),
        ({"prompt": None}, "?prompt=login&x=1", None),
        ({}, "?prompt=login&x=1", "login"),
        ({"prompt": "none"}, "?prompt=login&x=1", "none"),
    ],
)
async def test_nothing_is_prompted_for_that_nobody_asked_for(
    tmp_path: Path, oauth: OAuthServer, params: dict[str, Any], endpoint_query: str, prompt: str | None
) -> None:
    oauth.knobs.metadata |= {
        "scopes_supported": ["read", "offline_access"],
        "authorization_endpoint": f"{oauth.origin}/authorize{endpoint_query}",
    }
    oauth.knobs.prm["scopes_supported"] = ["read"]
    async with opened(tmp_path, oauth, {"authorize_params": params}) as auth:
        link = (await auth.sign_in("notes", "shared", ME, listen=False)).link
    assert query_of(link)["scope"] == "read offline_access"
    assert query_of(link).get("prompt") == prompt
    assert query_of(link).get("x") == ("1" if endpoint_query else None)


@pytest.mark.parametrize(
    ("endpoint", "params", "scope", "user_scope"),
    [
        ("https://slack.com/oauth/v2/authorize", {}, None, "search:read,users:read"),
        ("https://slack.com/oauth/v2_user/authorize", {}, "search:read users:read", "search:read,users:read"),
        ("https://slack-gov.com/oauth/v2/authorize/", {}, None, "search:read,users:read"),
        ("https://slack.com/oauth/v2/authorize", {"user_scope": "chat:write"}, None, "chat:write"),
        ("https://slack.com/oauth/v2_user/authorize", {"user_scope": None}, "search:read users:read", None),
        ("https://slack.com/oauth/authorize", {}, "search:read users:read", None),
        ("https://notslack.com/oauth/v2/authorize", {}, "search:read users:read", None),
    ],
)
async def test_slack_is_asked_for_what_a_person_may_do_and_not_for_a_bot(
    tmp_path: Path,
    oauth: OAuthServer,
    endpoint: str,
    params: dict[str, Any],
    scope: str | None,
    user_scope: str | None,
) -> None:
    oauth.knobs.metadata["authorization_endpoint"] = endpoint
    block = {"scope": "search:read users:read", "authorize_params": params}
    async with opened(tmp_path, oauth, block) as auth:
        link = (await auth.sign_in("notes", "shared", ME, listen=False)).link
    assert link.startswith(f"{endpoint}?")
    assert (query_of(link).get("scope"), query_of(link).get("user_scope")) == (scope, user_scope)


@pytest.mark.parametrize("shape", ["metadata", "echo", "no-metadata", "hermes"])
async def test_the_query_of_a_servers_url_is_in_no_resource(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    url = f"{oauth.url}?api_key=s3cret-key"
    if shape == "echo":
        oauth.knobs.prm["resource"] = url
    if shape == "no-metadata":
        oauth.knobs.prm_path = None
    async with open_auth(tmp_path, {"notes": {"url": url, "auth": "oauth"}}) as auth:
        await signed_in(auth)
        if shape == "hermes":
            # As version 0.1.0 adopted it
            grant = await auth.store.grants.get("shared", "notes", url)
            assert grant is not None
            grant.resource = url
            await auth.store.grants.put_if(grant)
        oauth.expire_access_tokens()
        assert (await auth.probe("notes", insist=True)).state is ConnectionState.READY
    sent = [seen.query.get("resource") or seen.form.get("resource") for seen in oauth.seen if seen.path != "/mcp"]
    assert [one for one in sent if one is not None] == [oauth.url] * 3
    assert not any("s3cret-key" in str((seen.query, seen.form)) for seen in oauth.seen if seen.path != "/mcp")


@pytest.mark.parametrize("ends", [0, "0", -1, "never", 10**400, 4e9, None, []], ids=lambda value: str(value)[:8])
async def test_a_secret_that_ends_at_no_time_at_all_is_used_again(
    tmp_path: Path, oauth: OAuthServer, ends: object
) -> None:
    oauth.knobs.registration_extra = {
        "client_secret": "s3cret-value",
        "client_secret_expires_at": ends,
        "token_endpoint_auth_method": None,
    }
    async with opened(tmp_path, oauth, {}) as auth:
        await signed_in(auth)
        await signed_in(auth)
    assert len(oauth.requests("/register")) == 1


@pytest.mark.parametrize("promise", [True, "true", " YES ", 1, 0.5, ["x"], {"a": 0}], ids=str)
async def test_attack_an_odd_promise_of_iss_does_not_fail_open(
    tmp_path: Path, oauth: OAuthServer, promise: object
) -> None:
    oauth.knobs.metadata["authorization_response_iss_parameter_supported"] = promise
    oauth.knobs.iss = "missing"
    async with opened(tmp_path, oauth, {}) as auth:
        with pytest.raises(WrongIssuer):
            await signed_in(auth)
    assert oauth.requests("/token") == []
