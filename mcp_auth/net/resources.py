"""Resource identifiers (RFC 8707, RFC 9728): which one a server is, and whether two are the same. Pure.

The query of a server's URL may hold a key, so that it never gets into one.
"""

from __future__ import annotations

from urllib.parse import urlsplit


def resource_of(server_url: str) -> str:
    """The server's URL as a resource: scheme and host in lower case, no query, no fragment."""
    bare = server_url.partition("#")[0].partition("?")[0]
    parts = urlsplit(bare)
    return parts._replace(scheme=parts.scheme.lower(), netloc=parts.netloc.lower()).geturl()


def without_query_of(server_url: str, resource: str) -> str:
    """`resource` without a query that repeats the one of the server's URL."""
    query = server_url.partition("#")[0].partition("?")[2]
    bare, _, own = resource.partition("?")
    return bare if own and query and own in (query, urlsplit(server_url).query) else resource


def is_same(one: str, other: str) -> bool:
    return _canonical(one) == _canonical(other)


def is_above(resource: str, below: str) -> bool:
    """Whether `resource` has the origin of `below` and a path above it."""
    (origin, path, query), (own_origin, own_path, _) = _canonical(resource), _canonical(below)
    is_plain = not query and not {".", ".."} & set(own_path.split("/"))
    return origin == own_origin and own_path.startswith(f"{path}/") and is_plain


def well_known_of(resource: str) -> str:
    """Where the metadata of a resource is (RFC 9728 section 3.1): between host and path, without a slash at the end."""
    parts = urlsplit(resource)
    return f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path.rstrip('/')}"


def is_origin(resource: str) -> bool:
    """Whether it is a scheme and a host and nothing else."""
    return _canonical(resource)[0] == resource


def _canonical(resource: str) -> tuple[str, str, str]:
    """Scheme and host in lower case and without the usual port, path, query; a slash at the end makes no difference."""
    try:
        parts = urlsplit(resource)
        port = parts.port
    except ValueError:
        return resource, "", ""
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https"):
        return resource, "", ""
    host = (parts.hostname or "").lower()
    own_port = "" if port in (None, {"http": 80, "https": 443}[scheme]) else f":{port}"
    # Whoever writes a user name in front means another thing.
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return f"{scheme}://{user}{f'[{host}]' if ':' in host else host}{own_port}", parts.path.rstrip("/"), parts.query
