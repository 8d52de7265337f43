"""What the platforms' libraries say at DEBUG: all that goes over the wire, with links, typed keys and tokens in it."""

from __future__ import annotations

import logging
import re

_HIDDEN = "hidden by slash-mcp: what goes over the wire may hold links, keys and tokens"


def hide_payloads(*names: str) -> None:
    """From now on these loggers no longer show what they say below INFO, whoever turns that on and whenever.

    A level would not do: the next one who sets it wins. Safe to call twice.
    """
    for name in names:
        logging.getLogger(name).addFilter(_no_payloads)


def mask_tokens(token: re.Pattern[str], *names: str) -> None:
    """From now on these loggers show `***` for what `token` finds in their lines. Safe to call twice."""
    for name in names:
        logging.getLogger(name).addFilter(_Masked(token))


class _NoPayloads(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO:
            record.msg, record.args = _HIDDEN, ()
            record.exc_info = record.exc_text = None
        return True


# One object, because a logger takes the same filter once only.
_no_payloads = _NoPayloads()


class _Masked(logging.Filter):
    def __init__(self, token: re.Pattern[str]) -> None:
        super().__init__()
        self._token = token

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Masked) and other._token == self._token

    def __hash__(self) -> int:
        return hash(self._token)

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if self._token.search(said):
            record.msg, record.args = self._token.sub("***", said), ()
        return True
