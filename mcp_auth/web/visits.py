"""Who came to a page of ours, as a person would say it: which kind of browser, and from which address. Pure."""

from __future__ import annotations

import re

# The first that fits counts: browsers name those that they want to be taken for, too.
_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser", "Samsung Internet"),
    ("Firefox", "Firefox"),
    ("FxiOS", "Firefox"),
    ("CriOS", "Chrome"),
    ("Chrome", "Chrome"),
    ("Safari", "Safari"),
)
_SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "an iPhone"),
    ("iPad", "an iPad"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Macintosh", "macOS"),
    ("Linux", "Linux"),
)
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{2,45}")


def browser_kind(user_agent: str) -> str:
    """`Chrome on Windows`. Words from closed lists only: the header is written by whoever comes."""
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), "an unknown browser")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), None)
    return f"{browser} on {system}" if system is not None else browser


def shown_address(address: str) -> str | None:
    """An IP address, or None for anything else that stands where one should."""
    bare = address.partition("%")[0]
    return bare if _ADDRESS.fullmatch(bare) else None
