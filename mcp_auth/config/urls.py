"""Which URLs a configuration may hold, and why another is none. Pure."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from mcp_auth.net.rules import is_loopback_host, is_loopback_url


def url_problem(url: str, *, allow_http: bool = False, oauth: bool = False) -> str | None:
    """Why `url` cannot be a server's URL, as a clause ("has no host"); None when it can.

    Args:
        url: a URL or a template; a placeholder stands for anything but the scheme.
        allow_http: plain http may go beyond loopback.
        oauth: OAuth travels on it, so plain http beyond loopback is refused whatever `allow_http` says
            (RFC 9700, MCP authorization).
    """
    problem, parts = split_url(url)
    if parts is None or problem:
        return problem
    if parts.scheme == "https" or is_loopback_host(parts.hostname or ""):
        return None
    if oauth:
        return "is plain http beyond loopback, and OAuth needs https"
    return None if allow_http else "is plain http beyond loopback; use https, or set allow_http: true"


def public_url_problem(url: str) -> str | None:
    """Why `url` is neither https nor http on loopback."""
    problem, parts = split_url(url)
    if problem or parts is None or parts.scheme == "https" or is_loopback_url(url):
        return problem
    return "is plain http beyond loopback; use https"


def split_url(url: str) -> tuple[str | None, SplitResult | None]:
    """What is wrong with the form of an http(s) URL, and its parts (None when the scheme is a placeholder)."""
    # A digit stands in for a placeholder: it fits a host name, a port and a path alike.
    plain = re.sub(r"\$\{[^}]*\}", "1", url) if "${" in url else url
    if url.startswith("${") and not re.match(r"1[^:/?#]*://", plain) and "@" not in plain and "#" not in plain:
        return None, None
    if not plain.isprintable() or " " in plain or "\\" in plain:
        return "is not a URL: it contains white space, a control character or a backslash", None
    try:
        parts = urlsplit(plain)
        port = parts.port
    except ValueError:
        return "is not a valid URL", None
    if "://" not in plain:
        return "must begin with https://", None
    if parts.scheme not in {"http", "https"}:
        return "must begin with https:// or http://", None
    if "@" in parts.netloc:
        return "contains a user name; put credentials into headers", None
    if "#" in plain:
        return "must not have a fragment (#...)", None
    if not parts.hostname or port == 0:
        return "has no host or no valid port", None
    return None, parts
