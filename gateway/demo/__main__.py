"""`python -m gateway.demo`: the demo's servers alone, until interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from gateway.demo.run import Demo


async def _run() -> None:
    async with Demo() as demo:
        sys.stdout.write(
            f"notes: {demo.notes_url} (OAuth at {demo.issuer})\nweather: {demo.weather_url} (key {demo.weather_key})\n"
        )
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run())
