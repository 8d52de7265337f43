"""slash-mcp, by its public API only."""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
from common import control, each_request, main, resident, timed, timed_again, wait_for_the_start

from mcp_auth import McpAuth
from mcp_auth.records import Origin

ME = Origin(principal="cli:local")


def _home(folder: str, base: str, names: list[str]) -> Path:
    home = Path(folder)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    servers = {name: {"url": f"{base}/{name}/mcp", "auth": "oauth"} for name in names}
    # JSON is YAML.
    (home / "config.yaml").write_text(json.dumps({"mcp_servers": servers}))
    return home


async def _finish(auth: McpAuth, name: str, owner: str = "shared") -> None:
    started = await auth.sign_in(name, owner, ME, listen=False)
    async with httpx2.AsyncClient(trust_env=False) as browser:
        redirect = await browser.get(started.link)
    await auth.paste(redirect.headers["location"], ME.principal)


async def links(base: str, names: list[str], warm: list[str], folder: str) -> Any:
    home = _home(folder, base, [*names, *warm])
    async with McpAuth.open(home=home) as auth:
        await asyncio.gather(*(auth.sign_in(name, "shared", ME, listen=False) for name in warm))
        control(base, "reset")
        seconds = await timed(
            lambda: asyncio.gather(*(auth.sign_in(name, "shared", ME, listen=False) for name in names))
        )
    return {"seconds": seconds, "requests": control(base, "count")["requests"]}


async def repeat(base: str, folder: str) -> Any:
    home = _home(folder, base, ["s0"])
    async with McpAuth.open(home=home) as auth:
        await _finish(auth, "s0")
        control(base, "reset")
        took = []
        for _ in range(21):
            took.append(await timed(lambda: auth.sign_in("s0", "shared", ME, listen=False)))
            await auth.cancel("s0")
    return {"seconds": statistics.median(took), "requests": control(base, "count")["requests"]}


async def concurrent(base: str, count: int, folder: str) -> Any:
    home = _home(folder, base, ["s0"])
    async with McpAuth.open(home=home) as auth:
        await _finish(auth, "s0")
        async with httpx2.AsyncClient(trust_env=False, auth=auth.http_auth("s0")) as client:
            seconds = await timed_again(
                lambda: asyncio.gather(*(client.post(f"{base}/s0/mcp", json={}) for _ in range(count)))
            )
    return {"seconds": seconds}


async def layer(base: str, count: int, folder: str) -> Any:
    home = _home(folder, base, ["s0"])
    async with McpAuth.open(home=home) as auth:
        await _finish(auth, "s0")
        return {"microseconds": await each_request(auth.http_auth("s0"), f"{base}/s0/mcp", httpx2, count)}


async def completions(base: str, count: int, folder: str) -> Any:
    home = _home(folder, base, ["s0"])
    async with McpAuth.open(home=home) as auth:
        port = await auth.listen(0)
        # The first sign-in at a server registers the client; the ones that count find it registered.
        await _finish(auth, "s0")
        started = [await auth.sign_in("s0", f"person:p{n}", ME, listen=False) for n in range(count)]
        states = [httpx2.URL(one.link).params["state"] for one in started]
        callback = f"http://127.0.0.1:{port}{httpx2.URL(started[0].sign_in.redirect_uri).path}"
        host = httpx2.URL(started[0].sign_in.redirect_uri).netloc.decode()
        print(json.dumps({"callback": callback, "states": states, "host": host}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        done = [await auth.wait(one.sign_in, 0) for one in started]
    return {"done": sum(one.status == "done" for one in done)}


async def waiting(base: str, count: int, folder: str) -> Any:
    """Open sign-ins: memory and tasks while they wait, and bytes on disk."""
    from mcp_auth.stores.memory import MemoryStore

    home = _home(folder, base, ["s0"])
    async with McpAuth.open(home=home, store=MemoryStore()) as auth:
        await auth.sign_in("s0", "person:warm", ME, listen=False)
        gc.collect()
        tasks, memory = len(asyncio.all_tasks()), resident()
        for number in range(count):
            await auth.sign_in("s0", f"person:p{number}", ME, listen=False)
        gc.collect()
        grown, more = resident() - memory, len(asyncio.all_tasks()) - tasks
    async with McpAuth.open(home=home) as auth:
        for number in range(min(count, 200)):
            await auth.sign_in("s0", f"person:p{number}", ME, listen=False)
    files = [file.stat().st_size for file in (home / "sign-ins").glob("*.json")]
    return {"bytes": grown / count, "tasks": more, "stored": statistics.median(files)}


async def storm_begin(base: str, folder: str) -> Any:
    """Sign in, and let the access token end."""
    import msgspec

    home = _home(folder, base, ["s0"])
    async with McpAuth.open(home=home) as auth:
        await _finish(auth, "s0")
        grant = await auth.store.grants.get("shared", "s0", f"{base}/s0/mcp")
        if grant is None or grant.tokens is None:
            raise RuntimeError("nothing was stored")
        old = msgspec.structs.replace(grant.tokens, access_token="ended", expires_at=1.0)
        await auth.store.grants.put_if(msgspec.structs.replace(grant, tokens=old))
    control(base, "expire")
    return {}


async def storm(base: str, folder: str) -> Any:
    async with McpAuth.open(home=folder) as auth:
        async with httpx2.AsyncClient(trust_env=False, auth=auth.http_auth("s0"), timeout=60) as client:
            wait_for_the_start()
            answer = await client.post(f"{base}/s0/mcp", json={})
    return {"status": answer.status_code}


async def answers(count: int, folder: str) -> Any:
    """`/mcp` answered from local state: milliseconds to the first reply."""
    from gateway.gateway import Gateway
    from gateway.invocations import LOCAL, ChatRef, Invocation

    home = _home(folder, "https://mcp.example", [f"s{number}" for number in range(count)])
    took = []
    async with Gateway.from_config(home=home) as gateway:
        for number in range(30):
            invocation = Invocation(LOCAL, ChatRef("cli"), "", True, str(number))
            start = time.perf_counter()
            replies = gateway.handle(invocation)
            await anext(replies)
            took.append(time.perf_counter() - start)
            await replies.aclose()
    return {"seconds": statistics.median(took)}


async def people(count: int, folder: str) -> Any:
    """The same with ten servers, while so many people have grants of their own."""
    from gateway.gateway import Gateway
    from gateway.invocations import LOCAL, ChatRef, Invocation
    from mcp_auth.records import Grant, Tokens

    home = _home(folder, "https://mcp.example", [f"s{number}" for number in range(10)])
    took = []
    async with Gateway.from_config(home=home) as gateway:
        for number in range(count):
            grant = Grant(
                server="s0",
                owner=f"person:p{number}",
                server_url="https://mcp.example/s0/mcp",
                tokens=Tokens(access_token="token"),
            )
            await gateway.auth.store.grants.put_if(grant)
        for number in range(30):
            start = time.perf_counter()
            replies = gateway.handle(Invocation(LOCAL, ChatRef("cli"), "", True, str(number)))
            await anext(replies)
            took.append(time.perf_counter() - start)
            await replies.aclose()
    return {"seconds": statistics.median(took)}


if __name__ == "__main__":
    works = (links, repeat, concurrent, layer, completions, waiting, storm_begin, storm, answers, people)
    main({work.__name__: work for work in works})
