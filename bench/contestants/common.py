"""What every contestant's process does alike. Standard library only: it runs inside the peers' environments."""

from __future__ import annotations

import asyncio
import json
import logging
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


async def timed_again(do: Callable[[], Awaitable[Any]]) -> float:
    """Seconds of the second time: connections are open, and the garbage collector has been through all imports."""
    await do()
    return await timed(do)


async def each_request(auth: Any, url: str, httpx: Any, count: int) -> float:
    """Microseconds that an `httpx` auth flow takes for one request, without any network: the median of ten batches."""
    response = httpx.Response(200)
    batches = []
    for _ in range(11):
        requests = [httpx.Request("POST", url) for _ in range(count // 10)]
        start = time.perf_counter()
        for request in requests:
            response.request = request
            flow = auth.async_auth_flow(request)
            await flow.__anext__()
            try:
                await flow.asend(response)
            except StopAsyncIteration:
                continue
            raise RuntimeError("the flow wanted a second request")
        batches.append((time.perf_counter() - start) / len(requests) * 1e6)
    # The first batch warms what is made once.
    return statistics.median(batches[1:])


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as statm:  # noqa: PTH123 - the peers' Pythons may be older
        return int(statm.read().split()[1]) * 4096
