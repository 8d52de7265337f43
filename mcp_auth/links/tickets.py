"""Tickets, codes and the other short secrets of our own pages. Pure, except for the random source.

A ticket names its slot, so that a page finds its record without an index; all of its other 256 bits are random.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets

from mcp_auth.net.issuers import bare
from mcp_auth.records import sha256

# Without 0 O, 1 I L, 2 Z, 5 S, 8 B and U V: nothing that is mistaken for another when read aloud or typed.
_ALPHABET = "34679ACDEFGHJKMNPQRTWXY"
CODE_LENGTH = 8
_SLOT_BYTES = 16
_TICKET = re.compile(r"[A-Za-z0-9_-]{64}")
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


def new_ticket(slot: str) -> str:
    """A ticket for the record in `slot` (32 hex digits): 64 characters of `A-Za-z0-9_-`, 256 random bits in them."""
    return base64.urlsafe_b64encode(bytes.fromhex(slot) + secrets.token_bytes(32)).decode()


def slot_of(ticket: str) -> str | None:
    """The slot that a ticket names, or None when it has not the form of one."""
    if not _TICKET.fullmatch(ticket):
        return None
    try:
        return base64.urlsafe_b64decode(ticket)[:_SLOT_BYTES].hex()
    except (binascii.Error, ValueError):
        return None


def new_secret() -> str:
    """256 random bits that tell one browser, or one page, from all others."""
    return secrets.token_urlsafe(32)


def is_secret(value: str | None) -> bool:
    """Whether a browser sent something that `new_secret`, or the script of our pages, can have made."""
    return value is not None and _SECRET.fullmatch(value) is not None


def secret_name(kind: str, slot: str, created_at: float) -> str:
    """The name under which a browser keeps what belongs to one record: a sign-in (`a`) or a key form (`k`)."""
    return f"{kind}-{slot}-{round(created_at * 1000)}"


def is_same(secret: str, digest: str | None) -> bool:
    """Whether `secret` is what `digest` was made of (`records.sha256`), compared in constant time."""
    return digest is not None and hmac.compare_digest(sha256(secret), digest)


def form_token(cookie: str, ticket: str) -> str:
    """What a form must send along with the browser's form cookie; only who can read the cookie can make it."""
    return _keyed(cookie, f"form {ticket}").hex()


def is_form_token(token: str, cookie: str | None, ticket: str) -> bool:
    return is_secret(cookie) and hmac.compare_digest(token.encode(), form_token(cookie or "", ticket).encode())


def return_token(secret: str, slot: str) -> str:
    """The part of a login's return address that nobody but the bound browser can know."""
    return base64.urlsafe_b64encode(_keyed(secret, f"return {slot}")).decode().rstrip("=")


def is_return_token(token: str, secret: str, slot: str) -> bool:
    return hmac.compare_digest(token.encode(), return_token(secret, slot).encode())


def last_page(secret: str, code: str) -> str:
    """What a last page with this one-time secret and this code of the authorization server is stored as."""
    return sha256(f"{secret} {code}")


def is_last_page(secret: str, code: str, digest: str | None) -> bool:
    return is_same(f"{secret} {code}", digest)


def code_for(secret: str, nonce: str) -> str:
    """The code that the browser (or the page) with this secret shows: 8 characters, about 36 bits."""
    number = int.from_bytes(_keyed(secret, f"code {nonce}"), "big")
    characters = []
    for _ in range(CODE_LENGTH):
        number, index = divmod(number, len(_ALPHABET))
        characters.append(_ALPHABET[index])
    return "".join(characters)


def new_code() -> str:
    """A random code: 8 characters, about 36 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(CODE_LENGTH))


def typed_code(text: str) -> str | None:
    """What a person typed as a code: case, spaces and dashes do not matter. None when it cannot be one."""
    code = re.sub(r"[\s\-\u2010-\u2015]", "", text[:64]).upper()
    return code if len(code) == CODE_LENGTH and all(c in _ALPHABET for c in code) else None


def shown_code(code: str) -> str:
    """The code in two halves, easier to read: `ACDE-FGHJ`."""
    half = CODE_LENGTH // 2
    return f"{code[:half]}-{code[half:]}"


def connection_id(server_url: str, issuer: str) -> str:
    """The stable id of (server URL, issuer) in redirect URIs and client ids: 32 hex digits.

    The slash of an empty path is no part of it, however the metadata spells the issuer today.
    """
    return _id(server_url, bare(issuer))


def connection_ids(server_url: str, issuer: str) -> tuple[str, ...]:
    """Every id that a redirect URI of this connection may have: version 0.1.0 took an issuer's slash along."""
    return _id(server_url, bare(issuer)), _id(server_url, f"{bare(issuer)}/")


def _id(server_url: str, issuer: str) -> str:
    return hashlib.sha256(f"{server_url}\0{issuer}".encode()).hexdigest()[:32]


def _keyed(secret: str, purpose: str) -> bytes:
    return hmac.digest(secret.encode(), purpose.encode(), "sha256")
