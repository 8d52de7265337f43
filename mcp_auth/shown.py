"""What is shown of an address: to a chat the host or the command's name, at the terminal more, secrets masked. Pure.

People write keys into URLs and arguments, and services hand out addresses that are keys. A chat is read by others, and
by whoever has the account's other devices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

if TYPE_CHECKING:
    from mcp_auth.config.models import Config, Server

MASK = "***"


def brief_address(server: Server) -> str:
    """For chats: the URL's host with its port, or the name of the command, and nothing that follows either."""
    if server.url is not None:
        return _brief_url(server.url)
    # Some write a whole command line, or set a variable in front of it.
    first = (server.command or "").strip().partition(" ")[0].partition("=")[0]
    name = first.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return name if name and not _is_secret(name) else "a command"


def masked_address(server: Server) -> str:
    """For the terminal: the URL without user and query, or the command with its arguments."""
    if server.url is not None:
        return _masked_address(server.url)
    words = (server.command or "").split() + list(server.args)
    return " ".join(shown for shown, _ in _masked_words(words)).strip()


# An address is shown with every status, and a listing has many.
@lru_cache(maxsize=4096)
def _brief_url(url: str) -> str:
    return _host(_split(url)) or "a URL"


@lru_cache(maxsize=4096)
def _masked_address(url: str) -> str:
    return _masked_url(url)


def secrets_in(server: Server) -> tuple[str, ...]:
    """Parts of a server's URL and command that no sentence may hold, longest first."""
    found: set[str] = set()
    if server.url is not None:
        parts = _split(server.url)
        found |= {step for step in parts.path.split("/") if _is_secret(step)}
        found |= {value for _, value in parse_qsl(parts.query)} | {parts.password or ""}
    words = (server.command or "").split() + list(server.args)
    for word, (shown, _) in zip(words, _masked_words(words), strict=True):
        if shown != word:
            found |= {word, re.split(r"[=:\s]\s*", word, maxsplit=1)[-1]}
    return tuple(sorted((one for one in found if len(one) > 3 and "${" not in one), key=len, reverse=True))


def literal_secrets(server: Server) -> Iterator[str]:
    """The keys of an entry that hold a secret as it is, instead of a placeholder for it."""
    if server.url is not None:
        parts = _split(server.url)
        query = parse_qsl(parts.query)
        if (
            parts.password
            or any(_is_literal(name, value) for name, value in query)
            or _masked_url(server.url) != (_masked_url(server.url, mask=False))
        ):
            yield "url"
    words = (server.command or "").split()
    for index, (_, is_masked) in enumerate(_masked_words([*words, *server.args])):
        if is_masked:
            yield "command" if index < len(words) else f"args[{index - len(words)}]"
    for kind, values in (("headers", server.headers), ("env", server.env)):
        yield from (f"{kind}.{name}" for name, value in values.items() if _is_literal(name, value))
    if _is_literal("secret", server.oauth.client_secret or ""):
        yield "oauth.client_secret"


def literal_gateway_secrets(config: Config) -> Iterator[str]:
    """As `literal_secrets`, for the section `gateway:`."""
    gateway = config.gateway
    for key, url in (("store", gateway.store), ("network.proxy", gateway.network.proxy or "")):
        password = _split(url).password if "://" in url else None
        if password and "${" not in password:
            yield f"gateway.{key}"
    for platform, section in gateway.platforms.items():
        yield from _literals_below(f"gateway.{platform}", section)


def _literals_below(where: str, section: Mapping[str, Any]) -> Iterator[str]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _literals_below(f"{where}.{name}", value)
        elif isinstance(value, str) and _is_literal(name, value):
            yield f"{where}.{name}"


# Patterns are compiled by `re` at their first use: a listing of plain addresses needs none of these.
_SECRET_NAME = (
    r"(?i)key|token|secret|passw|passphrase|pwd|auth|credential|bearer|cookie|session|jwt|signature|private|dsn|\bpat\b"
)
# How well-known services begin theirs.
_SECRET_START = (
    r"(?:sk|pk|rk|ak|gh[opsur]|github_pat|glpat|xox[a-z]|xapp|AKIA|ASIA|AIza|ya29|eyJ|hf|npm|pypi|dop_v1|SG|whsec|nvapi|"
    r"shpat|ATATT|lin_api|ntn|secret|figd|sbp|tvly|fc|key)[-_.]?(?=[\w.-]*\d)[\w.-]{6,}"
)
# Sixteen letters and digits in a row with both in it, a UUID, or thirty and more of what base64 is made of.
_RANDOM = (
    r"(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{16,}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|(?=[^\d]*\d)(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9_+=~-]{30,}|[A-Za-z]{28,}"
)
_PLACEHOLDER = r"\$\{[^}]*\}"


def _is_secret(word: str) -> bool:
    """Whether a word looks like a key, whatever it is called."""
    word = _without_placeholders(word)
    # The shortest that a pattern knows has eight characters, and without a digit 28.
    if len(word) < 8 or (len(word) < 28 and not any(map(str.isdecimal, word))):
        return False
    return bool(re.match(_SECRET_START, word) or re.search(_RANDOM, word))


def _without_placeholders(text: str) -> str:
    return re.sub(_PLACEHOLDER, "", text) if "${" in text else text


def _is_placeholder(text: str) -> bool:
    return text.startswith("${") and re.fullmatch(_PLACEHOLDER, text) is not None


def _is_literal(name: str, value: str) -> bool:
    """Whether a key of this name holds a secret itself."""
    bare = _without_placeholders(value)
    if bare != value:
        return _is_secret(bare)
    plain = value.strip().lower() in {"", "true", "false", "yes", "no", "none", "null"} or value.strip().isdecimal()
    return _is_secret(value) or (
        bool(re.search(_SECRET_NAME, name)) and not plain and not value.startswith(("/", "~", "."))
    )


def _masked_words(words: list[str]) -> Iterator[tuple[str, bool]]:
    """Each word of a command as it is shown, and whether that hides something."""
    after_secret_option = False
    for word in words:
        shown = _masked_word(word, after_secret_option)
        yield shown, shown != word
        after_secret_option = word.startswith("-") and "=" not in word and _is_secret_option(word)


def _is_secret_option(word: str) -> bool:
    return word in ("-p", "-k", "-H") or (len(word) > 3 and re.search(_SECRET_NAME, word) is not None)


def _masked_word(word: str, is_value: bool) -> str:
    if _is_placeholder(word):
        return word
    if "://" in word:
        before, scheme, rest = re.split(r"([A-Za-z][\w+.-]*://)", word, maxsplit=1)
        return before + _masked_url(scheme + rest)
    named = re.match(r"(?s)(-{0,2}[\w.-]+)(=|:\s*)(.+)", word) if "=" in word or ":" in word else None
    if named is not None:
        name, sign, value = named.groups()
        hides = _is_literal(name, value) and not _is_placeholder(value)
        return f"{name}{sign}{MASK}" if hides else word
    if is_value and not word.startswith("-") and _is_literal("key", word):
        return MASK
    return MASK if _is_secret(word) and not word.startswith(("@", "/", ".")) else _masked_steps(word)


def _masked_steps(path: str, *, mask: bool = True) -> str:
    return "/".join(MASK if mask and _is_secret(step) else step for step in path.split("/"))


def _masked_url(url: str, *, mask: bool = True) -> str:
    parts = _split(url)
    if not parts.netloc:
        return MASK if mask and _is_secret(url) else url.partition("?")[0]
    return f"{parts.scheme}://{_host(parts)}{_masked_steps(parts.path, mask=mask)}"


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")
