"""A small OAuth 2.1 authorization server: the MCP SDK's handlers, state in memory, and a consent page.

Dynamic registration, PKCE, `iss`, resource indicators, rotating refresh tokens whose reuse ends the
whole family, revocation. One account, `ada@example.com`, is signed in already.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from jinja2 import DictLoader, Environment
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    OAuthAuthorizationServerProvider,
    RefreshToken,
    TokenError,
)
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

ACCOUNT = "ada@example.com"
_CODE_LIFETIME = 120.0
_CONSENT_LIFETIME = 600.0

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<link rel="icon" href="data:,">
<style>
:root { font: 17px/1.5 system-ui, sans-serif; color: #1b1f24; background: #eef1f6 }
body { margin: 0; min-height: 100vh; display: grid; place-items: center }
main { box-sizing: border-box; width: min(27rem, 100% - 2rem); padding: 2rem; margin: 1rem;
  background: #fff; border-radius: 1rem; box-shadow: 0 1px 3px #0002 }
h1 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 1rem; overflow-wrap: anywhere }
ul { padding-left: 1.2rem } dl { display: grid; grid-template-columns: auto 1fr; gap: .25rem 1rem }
dt { color: #59636e } dd { margin: 0; overflow-wrap: anywhere }
form { display: flex; gap: .75rem; margin-top: 1.5rem }
button { flex: 1; padding: .75rem; border: 1px solid #c6cdd5; border-radius: .6rem; font: inherit;
  background: transparent; color: inherit; cursor: pointer }
button.main { background: #1f6feb; border-color: #1f6feb; color: #fff }
@media (prefers-color-scheme: dark) {
  :root { color: #e8eaed; background: #15181c } main { background: #1f2329 } dt { color: #9aa4af }
  button { border-color: #4b535d }
}
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
{% if consent %}<dl>
<dt>Client</dt><dd>{{ client }}</dd>
<dt>Account</dt><dd>{{ account }}</dd>
<dt>Back to</dt><dd>{{ target }}</dd>
</dl>
<p>It will be able to:</p>
<ul>{% for scope in scopes %}<li>{{ scope }}</li>{% endfor %}</ul>
<form method="post" action="{{ action }}">
<input type="hidden" name="consent" value="{{ consent }}">
<button name="answer" value="deny">Deny</button>
<button class="main" name="answer" value="allow">Allow</button>
</form>{% else %}<p>{{ text }}</p>{% endif %}
</main>
</body>
</html>
"""
_templates = Environment(loader=DictLoader({"page.html": _PAGE}), autoescape=True)
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    # A browser applies form-action to the redirect after the form too, so the client's address must be allowed.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
}


class _TokenAnswer(OAuthToken):
    id_token: str | None = None


@dataclass
class _Consent:
    client: OAuthClientInformationFull
    params: AuthorizationParams
    expires_at: float


class DemoProvider(OAuthAuthorizationServerProvider[AuthorizationCode, RefreshToken, AccessToken]):
    """The state behind the SDK's OAuth endpoints.

    Args:
        lifetime: seconds of an access token.
        id_tokens: tokens come with an `id_token` that says whose account it is.
    """

    def __init__(self, issuer: str, resource: str, *, lifetime: int = 300, id_tokens: bool = False) -> None:
        self._issuer = issuer
        self._resource = resource
        self._lifetime = lifetime
        self._id_tokens = id_tokens
        self._clients: dict[str, OAuthClientInformationFull] = {}
        self._consents: dict[str, _Consent] = {}
        self._codes: dict[str, AuthorizationCode] = {}
        self._access: dict[str, AccessToken] = {}
        self._refresh: dict[str, RefreshToken] = {}
        self._family: dict[str, str] = {}
        self._used: set[str] = set()

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        return self._clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        self._clients[client_info.client_id] = client_info

    # -- consent -----------------------------------------------------------------------------

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        """Send the browser to the consent page."""
        ticket = secrets.token_urlsafe(24)
        self._consents[ticket] = _Consent(client, params, time.time() + _CONSENT_LIFETIME)
        return f"{self._issuer}/consent?{urlencode({'consent': ticket})}"

    async def consent_page(self, request: Request) -> Response:
        """GET shows what is asked for; POST is the answer, and sends the browser back to the client."""
        if request.method == "POST":
            form = await request.form()
            return self._answer(str(form.get("consent", "")), str(form.get("answer", "")))
        ticket = request.query_params.get("consent", "")
        consent = self._consents.get(ticket)
        if consent is None or consent.expires_at < time.time():
            return _page("This page is over", text="Begin again with /mcp auth in the chat.", status=410)
        target = urlsplit(str(consent.params.redirect_uri))
        return _page(
            f"Allow {consent.client.client_name or 'this client'}?",
            consent=ticket,
            client=consent.client.client_name or consent.client.client_id,
            account=ACCOUNT,
            target=target.netloc,
            scopes=consent.params.scopes or ["read and write notes"],
            action="/consent",
        )

    def _answer(self, ticket: str, answer: str) -> Response:
        # The ticket is one browser's own and counts once, so it is the protection against forged forms too.
        consent = self._consents.pop(ticket, None)
        if consent is None or consent.expires_at < time.time():
            return _page("This page is over", text="Begin again with /mcp auth in the chat.", status=410)
        params = consent.params
        back = {"iss": self._issuer, **({"state": params.state} if params.state else {})}
        if answer != "allow":
            return _back(str(params.redirect_uri), {**back, "error": "access_denied"})
        code = secrets.token_urlsafe(32)
        self._codes[code] = AuthorizationCode(
            code=code,
            scopes=params.scopes or ["notes"],
            expires_at=time.time() + _CODE_LIFETIME,
            client_id=consent.client.client_id,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
            subject=ACCOUNT,
        )
        return _back(str(params.redirect_uri), {**back, "code": code})

    # -- tokens ------------------------------------------------------------------------------

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        return self._codes.get(authorization_code)

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        if self._codes.pop(authorization_code.code, None) is None:
            raise TokenError("invalid_grant", "the code was used before")
        if authorization_code.resource not in (None, self._resource):
            raise TokenError("invalid_target", "there is no such resource here")
        return self._issue(client.client_id, authorization_code.scopes, secrets.token_hex(8))

    async def load_refresh_token(self, client: OAuthClientInformationFull, refresh_token: str) -> RefreshToken | None:
        if refresh_token in self._used:
            self._end_family(self._family.get(refresh_token, ""))
        return self._refresh.get(refresh_token)

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        family = self._family[refresh_token.token]
        self._used.add(refresh_token.token)
        del self._refresh[refresh_token.token]
        return self._issue(client.client_id, scopes or refresh_token.scopes, family)

    def _issue(self, client_id: str, scopes: list[str], family: str) -> OAuthToken:
        access, refresh = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._family[access] = self._family[refresh] = family
        self._access[access] = AccessToken(
            token=access,
            client_id=client_id,
            scopes=scopes,
            expires_at=int(time.time()) + self._lifetime,
            resource=self._resource,
            subject=ACCOUNT,
        )
        self._refresh[refresh] = RefreshToken(token=refresh, client_id=client_id, scopes=scopes)
        return _TokenAnswer(
            access_token=access,
            expires_in=self._lifetime,
            scope=" ".join(scopes),
            refresh_token=refresh,
            id_token=self._id_token(client_id) if self._id_tokens else None,
        )

    def _id_token(self, client_id: str) -> str:
        """Unsigned, which OpenID Connect allows where it comes from the token endpoint itself (Core, section 2)."""
        now = int(time.time())
        times = {"iat": now, "exp": now + self._lifetime}
        claims = {"iss": self._issuer, "sub": ACCOUNT, "aud": client_id, "email": ACCOUNT, **times}
        return ".".join((_encoded({"alg": "none"}), _encoded(claims), ""))

    async def load_access_token(self, token: str) -> AccessToken | None:
        found = self._access.get(token)
        if found is None or (found.expires_at is not None and found.expires_at < time.time()):
            return None
        return found

    async def verify_token(self, token: str) -> AccessToken | None:
        """The same, in the words of the resource server."""
        return await self.load_access_token(token)

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        self._end_family(self._family.get(token.token, ""))

    def _end_family(self, family: str) -> None:
        for token in [token for token, its in self._family.items() if its == family]:
            self._access.pop(token, None)
            self._refresh.pop(token, None)


def _page(title: str, *, status: int = 200, **values: object) -> HTMLResponse:
    body = _templates.get_template("page.html").render(title=title, **values)
    return HTMLResponse(body, status_code=status, headers=_HEADERS)


def _back(redirect_uri: str, parameters: dict[str, str]) -> Response:
    separator = "&" if "?" in redirect_uri else "?"
    return RedirectResponse(f"{redirect_uri}{separator}{urlencode(parameters)}", status_code=303, headers=_HEADERS)


def _encoded(part: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
