"""The program `slash-mcp`: starts quickly, and leaves quickly.

The command line itself is `adapters.cli.cli`. It is loaded by name, after a look at whose `adapters` and `gateway`
these are: other distributions have packages of these names, and the last one that was installed has the file.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from typing import NoReturn

_OURS = b'__distribution__ = "slash-mcp"'
_USAGE = 2


def main() -> NoReturn:
    complaint = complain_of_others("gateway", "adapters")
    if complaint is not None:
        sys.stderr.write(f"slash-mcp: {complaint}\n")
        sys.exit(_USAGE)
    # Modules that load make objects and no garbage.
    gc.disable()
    _load_msgspec()
    cli = import_module("adapters.cli.cli")
    gc.enable()
    code: int = cli.main()
    if "asyncio" in sys.modules:
        sys.exit(code)
    # Nothing ran but this thread. Freeing its objects one by one takes longer than a listing; the system needs no time.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def complain_of_others(*packages: str) -> str | None:
    """What is wrong and what to do, if Python finds another program under one of these names. Runs none of it."""
    for name in packages:
        found = PathFinder.find_spec(name)
        file = None if found is None else found.origin
        if file is not None and _is_ours(file):
            continue
        own = "Next: install slash-mcp into a virtual environment of its own"
        if file is None:
            return f"The package `{name}` of slash-mcp is missing here. {own}, once more."
        owner = _distribution_of(name)
        if owner is not None:
            return f"`{name}` is the package of another program here, {owner} ({file}). {own}."
        return f"`{name}` is the package of another program here ({file}). {own}, and leave {name} off PYTHONPATH."
    return None


def _is_ours(file: str) -> bool:
    try:
        with open(file, "rb") as source:  # noqa: PTH123 - pathlib costs more than all the rest here
            return _OURS in source.read()
    except OSError:
        # Not a file, as in a zip: importing it says more than we could.
        return True


def _distribution_of(package: str) -> str | None:
    """`adapters 1.3.0`: whose package this is, beside or in place of ours. None: it was not installed."""
    from importlib.metadata import distributions

    for one in distributions():
        if one.name == "slash-mcp":
            continue
        if any(str(file) in (f"{package}/__init__.py", f"{package}.py") for file in one.files or ()):
            return f"{one.name} {one.version}"
    return None


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
