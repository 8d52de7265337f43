"""Who asked, as a page or a chat names them."""

from __future__ import annotations

_PLATFORMS = {
    "telegram": "Telegram",
    "discord": "Discord",
    "slack": "Slack",
    "whatsapp": "WhatsApp",
    "matrix": "Matrix",
    "cli": "the terminal",
}


def platform_name(platform: str) -> str:
    return _PLATFORMS.get(platform, platform)


def asked_by(principal: str, display_name: str) -> tuple[str, str]:
    """Who asked, as a line and a smaller one: the name that the chat shows, and platform with the id's tail.

    A name is chosen freely by its bearer; the tail of the id tells two of the same name apart.
    """
    name, _, user = principal.partition(":")
    tail = user if len(user) <= 4 else f"…{user[-4:]}"
    place = platform_name(name)
    if name == "cli":
        return "the operator", place
    return (display_name, f"{place} {tail}") if display_name else (f"{place} {tail}", "")
