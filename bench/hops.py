"""`python bench/hops.py`: through how much of our code one sign-in goes, counted with `sys.setprofile`.

The real gateway, the terminal's adapter and the demo's servers, in one process; what belongs to the demo is not
counted. A call is one of Python code in `adapters`, `gateway` or `mcp_auth`, each resumption of a coroutine included.
`--files` lists the calls of each file.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from adapters.terminal.adapter import TerminalAdapter  # noqa: E402
from gateway import Gateway  # noqa: E402
from gateway.demo.browser import Browser  # noqa: E402
from gateway.demo.run import Demo  # noqa: E402

OURS = tuple(f"{ROOT / package}/" for package in ("adapters", "gateway", "mcp_auth"))
DEMO = f"{ROOT / 'gateway' / 'demo'}/"
PATIENCE = 60.0


@dataclass
class Trip:
    """What was called on one way. `changes`: how often the next call is in another file than the one before."""

    name: str
    calls: int = 0
    functions: set[CodeType] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    changes: int = 0
    by_function: Counter[CodeType] = field(default_factory=Counter)
    _last: str = ""

    def seen(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        file = code.co_filename
        if event != "call" or not file.startswith(OURS) or file.startswith(DEMO):
            return
        self.calls += 1
        self.functions.add(code)
        self.by_function[code] += 1
        self.files.add(file)
        self.changes += file != self._last
        self._last = file

    def row(self) -> str:
        return f"{self.name:<44} {self.calls:6} {len(self.functions):9} {len(self.files):5} {self.changes:7}"

    def listing(self) -> Iterator[str]:
        """The calls by file, most first, each with its functions."""
        files: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        for code, calls in self.by_function.most_common():
            files[str(Path(code.co_filename).relative_to(ROOT))].append((calls, code.co_qualname))
        for file, functions in sorted(files.items(), key=lambda entry: -sum(calls for calls, _ in entry[1])):
            yield f"{sum(calls for calls, _ in functions):6} {file}"
            yield from (f"       {calls:4} {name}" for calls, name in functions)


@contextmanager
def counted(name: str) -> Iterator[Trip]:
    trip = Trip(name)
    sys.setprofile(trip.seen)
    try:
        yield trip
    finally:
        sys.setprofile(None)


async def sign_in(home: Path) -> list[Trip]:
    out = io.StringIO()
    async with Demo() as demo:
        demo.write_home(home)
        async with Gateway.from_config(home=home) as gateway, Browser() as browser:
            adapter = TerminalAdapter(gateway, out=out)
            undo = adapter.install()
            with counted("`/mcp` with three servers") as listing:
                await adapter.say("")
            with counted("`/mcp auth notes` typed -> link shown") as begin:
                await adapter.say("auth notes")
            (link,) = [word for word in out.getvalue().split() if word.startswith(demo.issuer)]
            redirect = await browser.consent(link, "allow")
            with counted("redirect -> grant stored, chat told") as finish:
                await browser.open(redirect)
                deadline = time.monotonic() + PATIENCE
                while "notes: signed in" not in out.getvalue():
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"the chat was not told within {PATIENCE:.0f} s:\n{out.getvalue()}")
                    await asyncio.sleep(0.05)
            await gateway.auth.access_token("notes")
            with counted("a warm `access_token`") as warm:
                await gateway.auth.access_token("notes")
            undo()
    return [begin, finish, listing, warm]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        trips = asyncio.run(sign_in(Path(folder) / "home"))
    print(f"{'':<44} {'calls':>6} {'functions':>9} {'files':>5} {'changes':>7}")
    for trip in trips:
        print(trip.row())
    if "--files" in sys.argv[1:]:
        for trip in trips:
            print(f"\n{trip.name}", *trip.listing(), sep="\n")


if __name__ == "__main__":
    main()
