"""`slash-mcp audit`: what happened, newest at the end."""

from __future__ import annotations

import re
import sys
import time
from argparse import Namespace
from collections import deque
from datetime import datetime

import msgspec

from adapters.cli.cli import OK
from adapters.terminal.screen import escaped
from adapters.text import clean, width
from gateway.sentences import happened
from mcp_auth.audit import Audit, AuditLine
from mcp_auth.config.load import load
from mcp_auth.errors import McpAuthError, StoreError
from mcp_auth.outcome import Next

_LAST = 50
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def run_audit(options: Namespace) -> int:
    since = _moment(options.since, time.time()) if options.since is not None else 0.0
    # A period is wanted whole; without one, a screen of it.
    count = (_LAST if options.since is None else 0) if options.count is None else options.count
    shown: deque[AuditLine] = deque(maxlen=count or None)
    trouble = None
    try:
        for one in Audit(load(options.config, options.home).home).lines():
            if one.at >= since and _is_about(one, options.server):
                shown.append(one)
    except StoreError as error:
        # What could be read is shown first.
        trouble = error
    if options.json:
        for line in shown:
            sys.stdout.write(f"{escaped(msgspec.json.encode(line).decode())}\n")
    elif shown:
        print(_table(shown))
    elif trouble is None:
        print("Nothing is recorded." if not (options.since or options.server) else "Nothing of that is recorded.")
    if trouble is not None:
        raise trouble
    return OK


def _is_about(line: AuditLine, server: str | None) -> bool:
    return server is None or (line.server is not None and line.server.casefold() == server.casefold())


def _moment(text: str, now: float) -> float:
    """`90m` before now, or a date with or without a time, in local time unless it says otherwise.

    Raises:
        McpAuthError: it is neither.
    """
    ago = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip())
    if ago is not None:
        return now - int(ago[1]) * _UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise McpAuthError(
            "That is no time that --since understands.",
            next_step=Next("audit", arguments=("--since", "24h"), around="{}, or --since 2026-11-25"),
        ) from None


def _table(lines: deque[AuditLine]) -> str:
    rows = [_cells(line) for line in lines]
    widths = [max(width(row[column]) for row in rows) for column in range(3)]
    return "\n".join(_row(row, widths) for row in rows)


def _cells(line: AuditLine) -> tuple[str, str, str, str]:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.at))
    whose = "" if line.owner in (None, "shared") else f" of {clean(line.owner or '')}"
    where = f"{clean(line.server)}{whose}" if line.server else ""
    return at, clean(line.who or ""), where, clean(happened(line))


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = [cell + " " * (each - width(cell)) for cell, each in zip(cells, widths, strict=False)]
    return "  ".join([*padded, cells[3]])
