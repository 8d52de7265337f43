"""Short codes that a person reads in one place and types in another. Stored as SHA-256 only."""

from __future__ import annotations

import hmac
import secrets

from mcp_auth.records import sha256

LENGTH = 8
# Without characters that look or sound like others of the set: 0 O, 1 I L, 2 Z, 5 S, 8 B, U V.
ALPHABET = "34679ACDEFGHJKMNPQRTWXY"
_TYPED_AT_MOST = 40


def new_code() -> str:
    """Eight characters, 36 bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))


def tidy(typed: str) -> str:
    """A typed code as it was made: upper case, without spaces and dashes."""
    return "".join(c for c in typed[:_TYPED_AT_MOST].upper() if c.isalnum())


def is_code(typed: str) -> bool:
    """Whether this can be a code at all."""
    code = tidy(typed)
    return len(code) == LENGTH and all(c in ALPHABET for c in code)


def matches(typed: str, code_sha256: str) -> bool:
    """Whether `typed` is the code with this hash, in constant time."""
    return hmac.compare_digest(sha256(tidy(typed)), code_sha256)
