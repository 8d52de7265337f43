"""Short codes that a person reads in one place and types in another. Stored as SHA-256 only."""

from __future__ import annotations

import hmac
import re
import secrets

from mcp_auth.records import sha256

LENGTH = 8
# Without characters that look or sound like others of the set: 0 O, 1 I L, 2 Z, 5 S, 8 B, U V.
ALPHABET = "34679ACDEFGHJKMNPQRTWXY"
_TYPED_AT_MOST = 64


def new_code() -> str:
    """Eight characters, 36 bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))


def typed_code(text: str) -> str | None:
    """What a person typed as a code: case, spaces and dashes do not matter. None when it cannot be one."""
    code = re.sub(r"[\s\-\u2010-\u2015]", "", text[:_TYPED_AT_MOST]).upper()
    return code if len(code) == LENGTH and all(c in ALPHABET for c in code) else None


def matches(typed: str, code_sha256: str) -> bool:
    """Whether `typed` is the code with this hash, in constant time."""
    code = typed_code(typed)
    return code is not None and hmac.compare_digest(sha256(code), code_sha256)
