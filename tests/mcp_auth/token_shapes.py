"""What token endpoints answer, real and odd, as tables: what each answer means for a grant, and what is good in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response


def problem(**members: Any) -> Response:
    """RFC 9457"""
    return Response(json.dumps(members), members.get("status", 400), media_type="application/problem+json")


# -- no tokens -------------------------------------------------------------------------------

# The refresh token is over: nothing but a new sign-in will help.
ENDED: dict[str, Response] = {
    "invalid_grant": JSONResponse({"error": "invalid_grant"}, 400),
    "invalid_grant-401": JSONResponse({"error": "invalid_grant"}, 401),
    "invalid_grant-500": JSONResponse({"error": "invalid_grant"}, 500),
    "github": JSONResponse({"error": "bad_refresh_token", "error_description": "The refresh token passed is ..."}, 200),
    "slack": JSONResponse({"ok": False, "error": "invalid_refresh_token"}, 200),
    "slack-expired": JSONResponse({"ok": False, "error": "token_expired"}, 200),
    "hubspot": JSONResponse({"status": "BAD_REFRESH_TOKEN", "message": "missing or invalid refresh token"}, 400),
    "supabase": JSONResponse({"code": 400, "error_code": "refresh_token_not_found", "msg": "Invalid"}, 400),
    "capitals": JSONResponse({"error": "EXPIRED_TOKEN"}, 400),
    "camel-case": JSONResponse({"error": "InvalidGrant"}, 400),
    "error-object": JSONResponse({"error": {"code": "invalid_grant", "message": "no"}}, 400),
    "error-object-type": JSONResponse({"error": {"type": "TOKEN_REVOKED", "code": 190}}, 400),
    "problem-type": problem(type="https://errors.example/invalid-refresh-token", title="No", status=400),
    "problem-title": problem(type="about:blank", title="Refresh token expired", status=403),
    "error-list": JSONResponse({"errors": [{"code": "invalid_grant", "detail": "no"}]}, 400),
    "apigee": JSONResponse(
        {"fault": {"faultstring": "no", "detail": {"errorcode": "keymanagement.service.invalid_refresh_token"}}}, 401
    ),
    "form": Response(
        "error=bad_refresh_token&error_description=no", 200, media_type="application/x-www-form-urlencoded"
    ),
    "in-words": JSONResponse({"message": "Invalid refresh token", "type": "service.not_authorized"}, 401),
    "other-word-and-in-words": JSONResponse(
        {"error": "bad_request", "error_description": "refresh token expired"}, 400
    ),
    "atlassian": JSONResponse({"error": "unauthorized_client", "error_description": "refresh_token is invalid"}, 403),
    "client-word-and-exact-code": JSONResponse(
        {"error": "unauthorized_client", "error_code": "refresh_token_not_found"}, 400
    ),
    "cognito": JSONResponse({"__type": "NotAuthorizedException", "message": "Refresh Token has been revoked"}, 400),
    "hubspot-category": JSONResponse({"status": "error", "category": "BAD_REFRESH_TOKEN", "message": "no"}, 400),
    "slack-auth": JSONResponse({"ok": False, "error": "invalid_auth"}, 200),
    "list-of-words": JSONResponse({"error": ["invalid_grant"]}, 400),
    "errors-list-of-words": JSONResponse({"errors": ["invalid_grant"]}, 422),
    "names-in-capitals": JSONResponse({"ErrorCode": "invalid_refresh_token"}, 400),
    "sentence-as-the-code": JSONResponse({"error": "The token has expired"}, 401),
    "okta": JSONResponse({"errorCode": "E0000011", "errorSummary": "Refresh token was revoked."}, 401),
    "graphql": JSONResponse({"errors": [{"message": "no", "extensions": {"code": "INVALID_GRANT"}}]}, 400),
    "urn": problem(type="urn:ietf:params:oauth:error:invalid_grant", status=400),
    "latin-1": Response(b'{"error": "invalid_grant", "error_description": "ung\xfcltig"}', 400),
    "line-break-in-a-text": Response(b'{"error": "invalid_grant", "error_description": "a\nb"}', 400),
    "form-with-an-umlaut": Response("error=invalid_grant&error_description=ung\u00fcltig&", 400),
    "entra": JSONResponse({"error": "interaction_required", "suberror": "basic_action"}, 400),
}

# Our client is over.
REGISTRATION_ENDED: dict[str, Response] = {
    "invalid_client": JSONResponse({"error": "invalid_client"}, 401),
    "unauthorized_client": JSONResponse({"error": "unauthorized_client", "error_description": "no"}, 403),
    "github-secret": JSONResponse({"error": "incorrect_client_credentials"}, 200),
    "slack-client": JSONResponse({"ok": False, "error": "invalid_client_id"}, 200),
}

# What costs a reader much, in as many bytes as an answer may have. Nobody needs so much to say no.
COSTLY: dict[str, bytes] = {
    "many-objects": b'{"error": [' + b'{"aB":""},' * 95_000 + b"{}]}",
    "many-members": b"{" + b",".join(b'"error%d":"x"' % n for n in range(60_000)) + b"}",
    "many-lists": b'{"errors": [' + b"[[[[]]]]," * 100_000 + b"[]]}",
    "long-name": b'{"' + b"aB" * 480_000 + b'": 1}',
    "long-word": b'{"error": "' + b"aB" * 480_000 + b'"}',
    "long-sentence": b'{"message": "' + b"aB " * 320_000 + b'"}',
}

# A definite no in the form of an OAuth error, for a reason that nobody knows to be final.
REFUSED_OAUTH: dict[str, Response] = {
    "invalid_request": JSONResponse({"error": "invalid_request"}, 400),
    "invalid_scope": JSONResponse({"error": "invalid_scope"}, 400),
    "access_denied": JSONResponse({"error": "access_denied"}, 403),
    "200-with-an-unknown-word": JSONResponse({"error": "no_can_do"}, 200),
    "for-now-at-the-end-of-a-sentence": JSONResponse(
        {"error": "invalid_request", "error_description": "Invalid parameter: timeout"}, 400
    ),
    "object-with-an-unknown-word": JSONResponse({"error": {"code": "no_can_do", "message": "no"}}, 422),
}

# A definite no of any other form.
REFUSED: dict[str, Response] = {
    "401-without-a-body": PlainTextResponse("", 401),
    "403-page": HTMLResponse("<h1>Request blocked</h1>", 403),
    "404": PlainTextResponse("not found", 404),
    "405": PlainTextResponse("", 405),
    "410": JSONResponse({"message": "gone"}, 410),
    "problem": problem(type="about:blank", title="Bad Request", status=400),
    "redirect": RedirectResponse("/elsewhere", 307),
    "words-at-the-end-of-a-sentence": JSONResponse({"message": "Request blocked: unknown client"}, 403),
    "words-after-a-stop": JSONResponse({"detail": "We looked. Session expired"}, 400),
    "words-after-a-slash": problem(type="about:blank", title="Login/token expired", status=400),
}

# Trouble of the moment.
FOR_NOW: dict[str, Response] = {
    "503": PlainTextResponse("unavailable", 503),
    "502-page": HTMLResponse("<h1>Bad gateway</h1>", 502),
    "500-oauth": JSONResponse({"error": "server_error"}, 500),
    "500-invalid-request": JSONResponse({"error": "invalid_request"}, 500),
    "500-nested-final-word": JSONResponse({"error": {"code": "invalid_grant", "message": "no"}}, 500),
    "502-list-with-a-final-word": JSONResponse({"errors": [{"code": "session_not_found"}]}, 502),
    "503-code-beside-an-error": JSONResponse({"error": "upstream", "error_code": "token_expired"}, 503),
    "500-final-word-of-somebody": JSONResponse({"error": "invalid_token"}, 500),
    "429-status-with-a-final-word": JSONResponse({"status": "TOKEN_REVOKED"}, 429),
    "408": PlainTextResponse("", 408),
    "425": PlainTextResponse("", 425),
    "429": PlainTextResponse("", 429),
    "429-oauth": JSONResponse({"error": "invalid_request"}, 429),
    "temporarily_unavailable": JSONResponse({"error": "temporarily_unavailable"}, 400),
    "slack-limit": JSONResponse({"ok": False, "error": "ratelimited"}, 200),
    "slack-trouble": JSONResponse({"ok": False, "error": "service_unavailable"}, 200),
    "use_dpop_nonce": JSONResponse({"error": "use_dpop_nonce"}, 400, {"DPoP-Nonce": "abc"}),
    "invalid_dpop_proof": JSONResponse({"error": "invalid_dpop_proof"}, 400),
    "200-page": HTMLResponse("<h1>Maintenance</h1>", 200),
    "200-list": JSONResponse([1, 2], 200),
    "200-nothing": JSONResponse({}, 200),
    "200-page-with-pairs": HTMLResponse('<a href="/login?x=1&error=invalid_grant&y=2">Sign in</a>', 200),
}

NO_TOKENS = {**ENDED, **REGISTRATION_ENDED, **REFUSED_OAUTH, **REFUSED, **FOR_NOW}


# -- tokens ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Good:
    """An answer whose tokens are good: what it has beside or instead of the usual members, and what is made of it."""

    change: dict[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    scope: str | None = "read"
    lives: float | None = 3600
    nested: str | None = None
    status: int = 200
    as_form: bool = False
    # What stands in `authed_user` beside the tokens.
    beside: dict[str, Any] | None = None
    raw: bytes | None = None

    def response(self, access_token: str, refresh_token: str) -> Response:
        if self.raw is not None:
            return Response(self.raw % (access_token.encode(), refresh_token.encode()), self.status)
        document: dict[str, Any] = {
            "access_token": access_token,
            "refresh_token": refresh_token,
            "token_type": "Bearer",
            "expires_in": 3600,
            "scope": "read",
            **self.change,
        }
        for name in self.drop:
            del document[name]
        if self.beside is not None:
            document["authed_user"] = {"id": "U1", "access_token": access_token, **self.beside}
        if self.nested is not None:
            document = {"ok": True, self.nested: document}
        if self.as_form:
            return Response(urlencode(document), self.status, media_type="application/x-www-form-urlencoded")
        # As text, so that what is no JSON by the book can be sent as well.
        return Response(json.dumps(document), self.status, media_type="application/json")


GOOD: dict[str, Good] = {
    "as-it-should-be": Good(),
    "201": Good(status=201),
    "form": Good(as_form=True),
    "error-null": Good({"error": None}),
    "error-empty": Good({"error": ""}),
    "error-blank": Good({"error": " "}),
    "error-null-as-text": Good({"error": "null"}),
    "error-none": Good({"error": "None"}),
    "error-zero": Good({"error": 0}),
    "error-object-with-nothing": Good({"error": {"code": None, "message": ""}}),
    "error-list-with-nothing": Good({"error": []}),
    "error-false": Good({"error": False}),
    "ok-true": Good({"ok": True, "error": None}),
    "type-missing": Good(drop=("token_type",)),
    "type-null": Good({"token_type": None}),
    "type-empty": Good({"token_type": ""}),
    "type-blank": Good({"token_type": "  "}),
    "type-lower": Good({"token_type": "bearer"}),
    "type-upper": Good({"token_type": "BEARER"}),
    "type-with-blanks": Good({"token_type": " Bearer \n"}),
    "type-apigee": Good({"token_type": "BearerToken"}),
    "type-user": Good({"token_type": "user"}),
    "type-bot": Good({"token_type": "bot"}),
    "in-an-envelope": Good(nested="data"),
    "in-a-token-object": Good({"id_token": "e30.e30.x"}, nested="token"),
    "slack-user": Good({"token_type": "user", "id": "U1"}, nested="authed_user"),
    # Slack's token endpoint for people: the top has the token, and what it is good for is inside
    "slack-user-again": Good({"scope": ""}, scope="search:read users:read", beside={"scope": "search:read,users:read"}),
    "slack-bot-and-another-user": Good(scope="read", beside={"access_token": "xoxp-other", "scope": "users:read"}),
    "lives-text": Good({"expires_in": "3600"}),
    "lives-text-with-blanks": Good({"expires_in": " 3600 "}),
    "lives-float": Good({"expires_in": 3600.0}),
    "lives-float-text": Good({"expires_in": "3600.5"}, lives=3600.5),
    "lives-endless": Good({"expires_in": 10**400}, lives=None),
    "lives-longer-than-python-reads": Good({"expires_in": float("inf")}, lives=None),
    "lives-nan": Good({"expires_in": float("nan")}, lives=None),
    # VKontakte for offline access, and servers of Authlib's before 0.15.4: it never ends
    "lives-zero": Good({"expires_in": 0}, lives=None),
    "lives-zero-text": Good({"expires_in": "0"}, lives=None),
    "lives-zero-float": Good({"expires_in": 0.0}, lives=None),
    "lives-negative": Good({"expires_in": -3600}, lives=None),
    "lives-word": Good({"expires_in": "never"}, lives=None),
    "lives-null": Good({"expires_in": None}, lives=None),
    "lives-true": Good({"expires_in": True}, lives=None),
    "lives-list": Good({"expires_in": [3600]}, lives=None),
    "entra": Good({"expires_in": "3600", "ext_expires_in": "5250", "expires_on": "1759495112"}),
    "scope-list": Good({"scope": ["read", "write"]}, scope="read write"),
    "scope-commas": Good({"scope": "repo,gist"}, scope="repo gist"),
    "scope-commas-and-blanks": Good({"scope": ",repo, gist "}, scope="repo gist"),
    "scope-list-of-commas": Good({"scope": ["repo,gist", 7]}, scope="repo gist"),
    "scope-object": Good({"scope": {"read": True}}, scope=None),
    "scope-surrogate": Good({"scope": "read \ud800x"}, scope="read \ufffdx"),
    "scope-control": Good({"scope": "read \x1b[31m"}),
    "scope-number": Good({"scope": 7}, scope=None),
    "scope-null": Good({"scope": None}, scope=None),
    "id-token-nonsense": Good({"id_token": "a.b.c"}),
    "id-token-surrogate": Good({"id_token": "e30.eyJlbWFpbCI6Ilx1ZDgwMCJ9.x"}),
    "id-token-number": Good({"id_token": 7}),
    "surrogate-elsewhere": Good({"team": {"name": "\udfff", "\ud800": 1}}),
    "deep-elsewhere": Good({"more": [[[[[[[[]]]]]]]]}),
    "too-deep-elsewhere": Good(
        raw=b'{"x": %s, "access_token": "%%s", "refresh_token": "%%s", "expires_in": 3600, "scope": "read"}'
        % (b'[{"]": "\\"["}, ' * 3000 + b"1" + b"]" * 3000)
    ),
    "latin-1": Good(
        raw=b'{"access_token": "%s", "refresh_token": "%s", "expires_in": 3600, "scope": "read", "team": "M\xfcller"}'
    ),
    "line-break-in-a-text": Good(
        raw=b'{"access_token": "%s", "refresh_token": "%s", "expires_in": 3600, "scope": "read", "team": "M\n\t"}'
    ),
    "byte-order-mark-and-nul": Good(
        raw=b'\xef\xbb\xbf{"access_token": "%s", "refresh_token": "%s", "expires_in": 3600, "scope": "read"}\n\0'
    ),
    # Its own form, for whoever asks for nothing better
    "github": Good(
        raw=b"access_token=%s&refresh_token=%s&refresh_token_expires_in=15811200&expires_in=3600&scope=repo%%2Cgist"
        b"&token_type=bearer",
        scope="repo gist",
    ),
    "form-with-an-umlaut": Good(
        raw="access_token=%s&refresh_token=%s&expires_in=3600&scope=read&team=M\u00fcller&\n".encode()
    ),
}

# Schemes that are none of bearer tokens, and what names them.
SCHEMES: dict[str, Any] = {"DPoP": "DPoP", "mac": "mac", "N_A": "N_A", "pop": "pop"}
