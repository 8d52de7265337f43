"""`WWW-Authenticate`, read by the grammar of RFC 9110 section 11.6.1.

A search for `scope=` inside the header would also find `error_scope=`, and a quoted comma would end
a value early; so the header is read token by token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# After what separates it from what was before, and with the blanks behind it.
_NEXT_TOKEN = re.compile(r"[ \t,;]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*")
# Without its end, a text goes on to the end of the header.
_QUOTED = re.compile(r'[ \t]*"((?:[^"\\]|\\.)*)(?:"|\\?$)', re.DOTALL)
# No grammar has these, and servers that quote as their language does send them.
_SINGLE_QUOTED = re.compile(r"[ \t]*'([^'\"]*)'(?=[\s,;]|$)")
_UNQUOTED = re.compile(r"[ \t]*([^\s,\"]*)")
_TOKEN68 = re.compile(r"([A-Za-z0-9\-._~+/]+=*)[ \t]*(?:[,;]|\Z)")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_MAX = 8192
# As many requests a server may ask for with one answer.
_MAX_METADATA = 5


@dataclass(frozen=True, slots=True)
class BearerChallenge:
    """The parameters of Bearer challenges that we act on (RFC 6750 section 3, RFC 9728 section 5.1).

    `resource_metadata` may be relative to the URL of the request; `more_resource_metadata`: where several are named.
    """

    scope: str | None = None
    resource_metadata: str | None = None
    error: str | None = None
    more_resource_metadata: tuple[str, ...] = ()

    @property
    def all_resource_metadata(self) -> tuple[str, ...]:
        first = (self.resource_metadata,) if self.resource_metadata is not None else ()
        return (*first, *self.more_resource_metadata)


def bearer_challenge(headers: Iterable[str]) -> BearerChallenge | None:
    """What all Bearer challenges in the values of all `WWW-Authenticate` headers say, or None when there is none.

    Of each parameter the first value counts, and of `resource_metadata` every one, also within one challenge, that of
    another scheme last (as Cloudflare Access sends it). A broken header gives what could be read up to the fault.
    """
    found = [one for header in headers for one in _challenges(header[:_MAX])]
    bearer = [parameters for scheme, parameters in found if scheme.lower() == "bearer"]
    others = [parameters for scheme, parameters in found if scheme.lower() != "bearer"]
    named = [url for each in (*bearer, *others) for url in each.get("resource_metadata", "").split()]
    if not bearer and not named:
        return None
    named = [*dict.fromkeys(named)][:_MAX_METADATA]
    return BearerChallenge(
        scope=next(filter(None, (_scope(each.get("scope", "")) for each in bearer)), None),
        resource_metadata=named[0] if named else None,
        error=_error([error for each in bearer if (error := each.get("error", "").strip())]),
        more_resource_metadata=tuple(named[1:]),
    )


# What is acted on, wherever it stands among others.
_ERRORS = ("invalid_token", "insufficient_scope")


def _error(said: list[str]) -> str | None:
    return next((error for error in said if error.lower() in _ERRORS), said[0] if said else None)


def _scope(value: str) -> str | None:
    """The scopes of RFC 6749 section 3.3; what is none is left out."""
    return " ".join(scope for scope in value.split() if _SCOPE.fullmatch(scope)) or None


def _challenges(text: str) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(text):
        token = _NEXT_TOKEN.match(text, at)
        if token is None:
            break
        after = token.end()
        if after < len(text) and text[after] == "=" and found:
            value, at = _value(text, after + 1)
            name, parameters = token.group(1).lower(), found[-1][1]
            if name == "resource_metadata" and name in parameters:
                # No URL has a blank in it, so that several can stand together.
                parameters[name] += f" {value}"
            parameters.setdefault(name, value)
            continue
        found.append((token.group(1), {}))
        at = _skip_token68(text, after)
    return found


def _value(text: str, at: int) -> tuple[str, int]:
    quoted = _QUOTED.match(text, at)
    if quoted is not None:
        return re.sub(r"\\(.)", r"\1", quoted.group(1)), quoted.end()
    single = _SINGLE_QUOTED.match(text, at)
    if single is not None:
        return single.group(1), single.end()
    # Unquoted URLs are not tokens, and yet servers send them: read up to a separator.
    plain = _UNQUOTED.match(text, at)
    if plain is None:
        raise AssertionError("it matches nothing as well")
    return plain.group(1).rstrip(";"), max(plain.end(), plain.start(1) + 1)


def _skip_token68(text: str, at: int) -> int:
    """Past credentials such as `Negotiate abc==`, which stand alone up to a comma."""
    match = _TOKEN68.match(text, at)
    return at if match is None else match.end(1)
