"""The works of every contestant that stands on the MCP SDK's `OAuthClientProvider`: the SDK itself, FastMCP, Hermes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from common import control, each_request, processor_timed, resident, timed, timed_twice, wait_for_the_start

# Makes the provider of one server: (url, name, folder that it may keep files in).
Make = Callable[[str, str, str], Any]


class Parked(Exception):
    """The link is there; nobody is going to open it."""


class Works:
    """`http` is `httpx` or `httpx2`; `answer` makes what a callback handler returns of (code, state)."""

    def __init__(self, make: Make, http: Any, answer: Callable[[str, str], Any]) -> None:
        self._make = make
        self._http = http
        self._answer = answer

    def all(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        works = (self.links, self.links_as_documented, self.repeat, self.concurrent, self.layer, self.waiting)
        return {work.__name__: work for work in (*works, self.storm_begin, self.storm)}

    # -- one sign-in -------------------------------------------------------------------------

    def _provider(self, base: str, name: str, folder: str, callback: Callable[[], Awaitable[Any]]) -> Any:
        provider = self._make(f"{base}/{name}/mcp", name, folder)

        async def redirect(link: str) -> None:
            provider.link = link

        provider.context.redirect_handler = redirect
        provider.context.callback_handler = callback
        return provider

    async def _to_link(self, client: Any, base: str, name: str, folder: str) -> None:
        async def callback() -> Any:
            raise Parked

        provider = self._provider(base, name, folder, callback)
        try:
            await client.post(f"{base}/{name}/mcp", json={}, auth=provider)
        except Parked:
            return
        raise RuntimeError("no link was asked for")

    async def _to_link_alone(self, base: str, name: str, folder: str) -> None:
        async with self._http.AsyncClient(trust_env=False) as client:
            await self._to_link(client, base, name, folder)

    async def _signed_in(self, client: Any, base: str, name: str, folder: str) -> Any:
        """A provider with tokens, by a browser that allows everything."""

        async def callback() -> Any:
            async with self._http.AsyncClient(trust_env=False) as browser:
                answer = await browser.get(provider.link)
            query = parse_qs(urlsplit(answer.headers["location"]).query)
            return self._answer(query["code"][0], query["state"][0])

        provider = self._provider(base, name, folder, callback)
        answer = await client.post(f"{base}/{name}/mcp", json={}, auth=provider)
        if answer.status_code != 200:
            raise RuntimeError(f"the sign-in ended with {answer.status_code}")
        return provider

    # -- the works ---------------------------------------------------------------------------

    async def links(self, base: str, names: list[str], warm: list[str], folder: str) -> Any:
        async with self._http.AsyncClient(trust_env=False) as client:
            await asyncio.gather(*(self._to_link(client, base, name, folder) for name in warm))
            control(base, "reset")
            seconds = await timed(
                lambda: asyncio.gather(*(self._to_link(client, base, name, folder) for name in names))
            )
        return {"seconds": seconds, "requests": control(base, "count")["requests"]}

    async def links_as_documented(self, base: str, names: list[str], warm: list[str], folder: str) -> Any:
        """One HTTP client for each server, as the documentation's examples have it."""
        await asyncio.gather(*(self._to_link_alone(base, name, folder) for name in warm))
        control(base, "reset")
        seconds = await timed(lambda: asyncio.gather(*(self._to_link_alone(base, name, folder) for name in names)))
        return {"seconds": seconds, "requests": control(base, "count")["requests"]}

    async def repeat(self, base: str, folder: str) -> Any:
        """The server and the client registration are known; the tokens are no longer good."""
        async with self._http.AsyncClient(trust_env=False) as client:
            await self._signed_in(client, base, "s0", folder)
            control(base, "expire")
            control(base, "reset")
            seconds, processor = await processor_timed(lambda: self._to_link(client, base, "s0", folder))
        return {"seconds": seconds, "processor": processor, "requests": control(base, "count")["requests"]}

    async def concurrent(self, base: str, count: int, folder: str) -> Any:
        async with self._http.AsyncClient(trust_env=False) as client:
            provider = await self._signed_in(client, base, "s0", folder)
            return await timed_twice(
                base,
                lambda: asyncio.gather(
                    *(client.post(f"{base}/s0/mcp", json={}, auth=provider, timeout=60) for _ in range(count))
                ),
            )

    async def layer(self, base: str, count: int, folder: str) -> Any:
        async with self._http.AsyncClient(trust_env=False) as client:
            provider = await self._signed_in(client, base, "s0", folder)
        return await each_request(provider, f"{base}/s0/mcp", self._http, count)

    async def waiting(self, base: str, count: int, folder: str) -> Any:
        """Sign-ins whose links nobody has opened yet: each is a coroutine that waits for its callback."""
        never, parked = asyncio.Event(), 0

        async def callback() -> Any:
            nonlocal parked
            parked += 1
            await never.wait()

        limits = self._http.Limits(max_connections=None, max_keepalive_connections=20)
        async with self._http.AsyncClient(trust_env=False, limits=limits, timeout=120) as client:
            await self._to_link(client, base, "s1", folder)
            gc.collect()
            tasks, memory = len(asyncio.all_tasks()), resident()
            running = []
            for number in range(count):
                provider = self._provider(base, f"w{number}", folder, callback)
                running.append(asyncio.create_task(client.post(f"{base}/w{number}/mcp", json={}, auth=provider)))
                while len(running) - parked > 20:
                    await asyncio.sleep(0.001)
            while parked < count:
                await asyncio.sleep(0.01)
            gc.collect()
            grown, more = resident() - memory, len(asyncio.all_tasks()) - tasks
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return {"bytes": grown / count, "tasks": more}

    async def storm_begin(self, base: str, folder: str) -> Any:
        async with self._http.AsyncClient(trust_env=False) as client:
            await self._signed_in(client, base, "s0", folder)
        return {}

    async def storm(self, base: str, folder: str) -> Any:
        async def callback() -> Any:
            raise Parked

        provider = self._provider(base, "s0", folder, callback)
        async with self._http.AsyncClient(trust_env=False, timeout=60) as client:
            before = await client.post(f"{base}/s0/mcp", json={}, auth=provider)
            wait_for_the_start()
            # The access token has ended by the provider's own clock too, so it refreshes before it asks.
            provider.context.token_expiry_time = 1.0
            try:
                answer = await client.post(f"{base}/s0/mcp", json={}, auth=provider)
            except Parked:
                return {"before": before.status_code, "status": 401, "why": "asks for a new sign-in"}
        return {"before": before.status_code, "status": answer.status_code}
