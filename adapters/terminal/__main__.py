"""The program `slash-mcp`: starts quickly, and leaves quickly. `adapters.terminal.cli` does the rest."""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    # Modules that load make objects and no garbage.
    gc.disable()
    _load_msgspec()
    from adapters.terminal import cli

    gc.enable()
    code = cli.main()
    if "asyncio" in sys.modules:
        sys.exit(code)
    # Nothing ran but this thread. Freeing its objects one by one takes longer than a listing; the system needs no time.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _load_msgspec() -> None:
    """msgspec asks for `typing_extensions` when it is there. From Python 3.11 on it needs nothing of it, and loading
    it takes longer than loading msgspec."""
    if "typing_extensions" in sys.modules:
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # what `import` takes for "there is none"
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules["typing_extensions"]


if __name__ == "__main__":
    main()
