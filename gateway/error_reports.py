"""Errors that nobody foresaw: noted in the log by class and place only, and named to the person by a reference."""

from __future__ import annotations

import logging
import secrets
import traceback

_log = logging.getLogger("gateway")


def note(error: BaseException) -> str:
    """Log the error's class and the line that raised it, and return the reference under which it stands there.

    Never its text: the text of a foreign exception may hold a URL or a header.
    """
    reference = secrets.token_hex(4)
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "unknown place"
    _log.error("unexpected %s at %s, reference %s", type(error).__name__, where, reference)
    return reference
