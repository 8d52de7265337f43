"""When two issuer identifiers are one. Pure.

Raw strings, compared as they are (RFC 8414 section 3.3, RFC 9207 section 2.4), but for the slash of an empty path:
`https://as.example` and `https://as.example/` are the same URL (RFC 3986 section 6.2.3), and real servers write the one
in their metadata and the other in the resource's.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

# Entra answers for every tenant with one document, whose issuer is a template of that many.
TENANT = "{tenantid}"
_GUID = r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"


def bare(issuer: str) -> str:
    """The issuer without the slash of an empty path: what ids and keys are made of."""
    try:
        is_empty_path = urlsplit(issuer).path == "/"
    except ValueError:
        return issuer
    # A query or a fragment behind that slash makes another URL of it.
    return issuer[:-1] if is_empty_path and issuer.endswith("/") and not {"?", "#"} & set(issuer) else issuer


def is_same(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or bare(one) == bare(other)


def is_template(issuer: str) -> bool:
    return TENANT in issuer


def fits(template: str, issuer: str) -> bool:
    """Whether `issuer` is `template`, with one and the same GUID wherever a tenant stands in it."""
    if not is_template(template):
        return is_same(template, issuer)
    first, *others = map(re.escape, bare(template).split(TENANT))
    pattern = f"{first}(?P<tenant>{_GUID}){'(?P=tenant)'.join(others)}"
    return re.fullmatch(pattern, bare(issuer)) is not None
