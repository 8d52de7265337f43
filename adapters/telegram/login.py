"""Telegram's login in the browser: who a person is, signed by Telegram with the bot's token.

https://core.telegram.org/widgets/login-legacy: the check string is every field but `hash`, as `name=value`, sorted and
joined by line feeds; its HMAC-SHA-256 under the SHA-256 of the token is `hash`. The bot's domain must be set at
BotFather.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode, urlsplit

ORIGIN = "https://oauth.telegram.org"
# The person comes straight from Telegram.
_MAX_AGE = 300
_CLOCKS_APART = 60
_LONGEST = 4096


class TelegramLogin:
    """For `Gateway.verify_by_login("telegram", TelegramLogin(token))`.

    Args:
        token: the bot's. Never in a URL, a page or a `repr`.
        origin: where Telegram's login is (proxies, tests).
    """

    label = "Prove it with Telegram"
    fields = frozenset({"id", "first_name", "last_name", "username", "photo_url", "auth_date", "hash"})

    def __init__(self, token: str, *, origin: str = ORIGIN, clock: Callable[[], float] = time.time) -> None:
        self._bot_id = token.partition(":")[0]
        self._key = hashlib.sha256(token.encode()).digest()
        self._origin = origin.rstrip("/")
        self._clock = clock

    def start(self, return_to: str) -> str:
        parts = urlsplit(return_to)
        query = {"bot_id": self._bot_id, "origin": f"{parts.scheme}://{parts.netloc}", "return_to": return_to}
        return f"{self._origin}/auth?{urlencode(query)}"

    def principal(self, answer: Mapping[str, str]) -> str | None:
        """`telegram:ID` when Telegram signed the answer for this bot within the last five minutes."""
        user, given = answer.get("id", ""), answer.get("hash", "")
        if not (user.isascii() and user.isdigit()) or any(len(value) > _LONGEST for value in answer.values()):
            return None
        lines = "\n".join(f"{name}={answer[name]}" for name in sorted(answer.keys() & self.fields - {"hash"}))
        signed = hmac.digest(self._key, lines.encode(), "sha256").hex()
        if not hmac.compare_digest(signed.encode(), given.encode()) or not self._is_fresh(answer.get("auth_date", "")):
            return None
        return f"telegram:{user}"

    def _is_fresh(self, auth_date: str) -> bool:
        if not (auth_date.isascii() and auth_date.isdigit()) or len(auth_date) > 12:
            return False
        age = self._clock() - int(auth_date)
        return -_CLOCKS_APART <= age <= _MAX_AGE
