"""What an HTTP answer says when it is not the one that was hoped for, in words for a person. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

from mcp_auth.net.rules import shown_host

_MCP_KINDS = ("application/json", "text/event-stream")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WORDS = {
    400: ("it refuses the request", "check the url and the headers"),
    401: ("it asks for a credential", None),
    402: ("it asks for a payment", "ask whoever runs the server"),
    403: ("it refuses the request", None),
    404: ("nothing is at this address", "check the path of the url"),
    405: ("it takes no such request there", "check the url, and the transport (http or sse)"),
    406: ("it does not speak MCP there", "check the url"),
    408: ("it waited for too long", "try again"),
    410: ("nothing is at this address any more", "check the url"),
    415: ("it does not speak MCP there", "check the url"),
    421: ("it does not serve this host name", "check the host in the url"),
    425: ("it asks to try again", "try again"),
}
_OTHER_REDIRECT = ("it redirects, and does not say where to", "check the url")
_OTHER_NO = ("it refuses the request", "ask whoever runs the server")
# A longer word in a path may be a secret, as some servers have them there.
_LONGEST_STEP = 24
_LONGEST_WAIT = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer as far as it is told.

    `location`: where it redirects to, absolute. `kind`: the media type. `wait`: seconds, of `Retry-After`.
    """

    status: int
    url: str
    location: str | None = None
    kind: str = ""
    wait: float | None = None

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], url: str, clock: Callable[[], float] = time.time) -> Seen:
        location = headers.get("location")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        return cls(
            status=status,
            url=url,
            location=_absolute(url, location) if location is not None and status in _REDIRECTS else None,
            kind=kind,
            wait=retry_after(headers.get("retry-after"), clock()),
        )

    @property
    def is_page(self) -> bool:
        return self.kind in ("text/html", "application/xhtml+xml")

    @property
    def is_usable(self) -> bool:
        """Whether an MCP server can have answered a message like that."""
        return self.status == 202 or (200 <= self.status < 300 and self.kind in _MCP_KINDS)

    @property
    def is_elsewhere(self) -> bool:
        """Whether it says that no server is there, or none that answers right now, whatever was asked."""
        no_server = self.location is not None or (self.is_page and self.status < 300)
        return no_server or self.status in (404, 410, 421, 429) or self.status >= 500

    def words(self, *, key: bool = False) -> tuple[str, str | None]:
        """What was seen, and what to do about it. `key`: an API key was sent along."""
        if self.location is not None:
            return self._redirect(self.location)
        if self.status in (401, 403) and key:
            return f"it refused the key (HTTP {self.status})", None
        if self.status == 403 and self.is_page:
            return "HTTP 403: a firewall before the server refuses the request", "ask whoever runs the server"
        if self.status == 429:
            wait = f", again in {_in_words(self.wait)}" if self.wait else ""
            return f"HTTP 429: too many requests{wait}", None if wait else "try again later"
        if self.is_page and (self.status < 300 or self.status == 404):
            return f"it answers with a web page (HTTP {self.status})", "check the url: it must be the MCP address"
        if self.status >= 500:
            what = "a gateway before the server" if self.status in (502, 504) else "the server"
            again = f"again in {_in_words(self.wait)}" if self.wait else "try again later"
            return f"HTTP {self.status}: {what} is in trouble", again
        if 200 <= self.status < 300:
            kind = f"with {self.kind[:60]}" if self.kind.isascii() and self.kind.isprintable() and self.kind else ""
            return f"it answers {kind or 'nothing'} and not as an MCP server does", "check the url"
        what, todo = _WORDS.get(self.status) or (_OTHER_REDIRECT if self.status < 400 else _OTHER_NO)
        return f"HTTP {self.status}: {what}", todo

    def sentence(self, *, key: bool = False) -> str:
        """Both, as a part of a sentence."""
        seen, todo = self.words(key=key)
        return f"{seen}; {todo}" if todo else seen

    def _redirect(self, target: str) -> tuple[str, str]:
        shown = shown_url(target)
        if urlsplit(target).scheme == "http" and urlsplit(self.url).scheme == "https":
            return f"it redirects to {shown}, without TLS", f"put https{shown.removeprefix('http')} as url"
        return f"it redirects to {shown}", "put that as url"


def retry_after(value: str | None, now: float) -> float | None:
    """`Retry-After` in seconds from now (RFC 9110 section 10.2.3); None when it is none that anybody can wait for."""
    if value is None:
        return None
    value = value.strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = max(0.0, parsedate_to_datetime(value).timestamp() - now)
        except (ValueError, TypeError, OverflowError, OSError):
            return None
    return seconds if 0 <= seconds <= _LONGEST_WAIT else None


def shown_url(url: str) -> str:
    """A URL fit for a sentence: without user, query and fragment, printable, and without what may be a secret."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port is not None else ""
    steps = parts.path[:400].split("/")[:12]
    path = "/".join(_clean(step) if len(step) <= _LONGEST_STEP else "…" for step in steps)
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else shown_host(host)}{port}{path}"


def _clean(step: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() and c not in "\"'<>`\\" else "?" for c in step)


def _absolute(url: str, location: str) -> str | None:
    """Where a `Location` leads; None when that is no address of the web."""
    try:
        target = urljoin(url, location.strip())
        parts = urlsplit(target)
        _ = parts.port
    except ValueError:
        return None
    return target if parts.scheme in ("http", "https") and parts.hostname else None


def _in_words(seconds: float | None) -> str:
    whole = math.ceil(seconds or 0)
    if whole < 120:
        return "1 second" if whole == 1 else f"{whole} seconds"
    return f"{math.ceil(whole / 60)} minutes"
