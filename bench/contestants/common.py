"""What every contestant's process does alike. Standard library only: it runs inside the peers' environments."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import statistics
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any


def main(works: dict[str, Callable[..., Awaitable[Any]]]) -> None:
    """`contestant.py WORK JSON`: does the work and prints what it measured as one line of JSON."""
    work, arguments = sys.argv[1], json.loads(sys.argv[2])
    # Some log the exception that ends a sign-in half way; it is meant to end there.
    logging.disable(logging.CRITICAL)
    result = asyncio.run(works[work](**arguments))
    print(json.dumps(result), flush=True)


def control(base: str, what: str) -> dict[str, Any]:
    """Ask the bench's servers for something."""
    with urllib.request.urlopen(f"{base}/control/{what}", data=b"", timeout=30) as answer:
        return dict(json.load(answer))


def wait_for_the_start() -> None:
    """Say that everything is loaded, and run when the bench says so."""
    print("ready", flush=True)
    sys.stdin.readline()


async def timed(do: Callable[[], Awaitable[Any]]) -> float:
    """Seconds."""
    start = time.perf_counter()
    await do()
    return time.perf_counter() - start


async def processor_timed(do: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    """Wall seconds, and seconds that this process had the processor."""
    start, processor = time.perf_counter(), time.process_time()
    await do()
    return time.perf_counter() - start, time.process_time() - processor


def as_measured(measured: list[tuple[float, float]]) -> dict[str, float]:
    """The medians of several `processor_timed`."""
    walls, processors = zip(*measured, strict=True)
    return {"seconds": statistics.median(walls), "processor": statistics.median(processors)}


async def timed_twice(base: str, do: Callable[[], Awaitable[Any]]) -> dict[str, float]:
    """Seconds of the first time and of the second: connections are open then, and the garbage collector has been
    through all imports. `requests`, `most`: how many the servers saw in both, and at once."""
    control(base, "reset")
    first = await timed(do)
    second = await timed(do)
    seen = control(base, "count")
    return {"first": first, "seconds": second, "requests": seen["requests"], "most": seen["most at once"]}


# Modules of CPython whose functions are system calls.
_SYSTEM = ("posix", "_io", "_socket", "select", "fcntl")


async def each_request(auth: Any, url: str, httpx: Any, count: int) -> dict[str, float]:
    """What an `httpx` auth flow takes for one request, without any network.

    `microseconds` of the processor: the median of ten batches. `calls`: calls into the operating system, the clock not
    among them, in as many requests as a batch has.
    """
    response = httpx.Response(200)

    async def batch() -> None:
        for request in requests:
            response.request = request
            flow = auth.async_auth_flow(request)
            await flow.__anext__()
            try:
                await flow.asend(response)
            except StopAsyncIteration:
                continue
            raise RuntimeError("the flow wanted a second request")

    batches = []
    for _ in range(11):
        requests = [httpx.Request("POST", url) for _ in range(count // 10)]
        _, processor = await processor_timed(batch)
        batches.append(processor / len(requests) * 1e6)
    requests = [httpx.Request("POST", url) for _ in range(count // 10)]
    calls = await system_calls(batch)
    # The first batch warms what is made once.
    return {"microseconds": statistics.median(batches[1:]), "calls": len(calls) / len(requests)}


async def system_calls(do: Callable[[], Awaitable[Any]]) -> list[str]:
    """The functions of CPython's that `do` calls and that are system calls."""
    called: list[str] = []

    def seen(frame: Any, event: str, function: Any) -> None:
        if event != "c_call":
            return
        kind = type(getattr(function, "__self__", None))
        module = getattr(function, "__module__", None) or kind.__module__
        if module in _SYSTEM and kind not in (io.StringIO, io.BytesIO):
            called.append(f"{module}.{function.__name__}")

    sys.setprofile(seen)
    try:
        await do()
    finally:
        sys.setprofile(None)
    return called


def count_syncs() -> Callable[[], int]:
    """Counts from now on how often this process waits for the disk."""
    count, sync = 0, os.fsync

    def counted(descriptor: int) -> None:
        nonlocal count
        count += 1
        sync(descriptor)

    os.fsync = counted
    return lambda: count


def stored(files: list[os.stat_result]) -> dict[str, float]:
    """Bytes of one of `files`, and what the file system sets aside for it."""
    return {
        "stored": statistics.median(file.st_size for file in files),
        "set aside": statistics.median(file.st_blocks * 512 for file in files),
    }


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as statm:  # noqa: PTH123 - the peers' Pythons may be older
        return int(statm.read().split()[1]) * 4096
