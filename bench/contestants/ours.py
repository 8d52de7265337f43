"""slash-mcp, by its public API only."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
from common import (
    as_measured,
    control,
    count_syncs,
    each_request,
    main,
    processor_timed,
    resident,
    stored,
    timed,
    timed_twice,
    wait_for_the_start,
)

from mcp_auth import McpAuth
from mcp_auth.records import Requester

ME = Requester(principal="cli:local")


def _home(folder: str, base: str, names: list[str], gateway: dict[str, Any] | None = None) -> Path:
    home = Path(folder)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    servers = {name: {"url": f"{base}/{name}/mcp", "auth": "oauth"} for name in names}
    # JSON is YAML.
    (home / "config.yaml").write_text(json.dumps({"mcp_servers": servers, "gateway": gateway or {}}))
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
        took, requests = [], 0
        for _ in range(21):
            control(base, "reset")
            took.append(await processor_timed(lambda: auth.sign_in("s0", "shared", ME, listen=False)))
            requests += control(base, "count")["requests"]
            # To its end: a client whose page never came back would be made anew.
            await _finish(auth, "s0")
    return {**as_measured(took), "requests": requests}


async def concurrent(base: str, count: int, folder: str) -> Any:
    home = _home(folder, base, ["s0"])
    async with McpAuth.open(home=home) as auth:
        await _finish(auth, "s0")
        async with httpx2.AsyncClient(trust_env=False, auth=auth.http_auth("s0")) as client:
            return await timed_twice(
                base, lambda: asyncio.gather(*(client.post(f"{base}/s0/mcp", json={}) for _ in range(count)))
            )


async def layer(base: str, count: int, folder: str) -> Any:
    home = _home(folder, base, ["s0"])
    async with McpAuth.open(home=home) as auth:
        await _finish(auth, "s0")
        return await each_request(auth.http_auth("s0"), f"{base}/s0/mcp", httpx2, count)


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
        before, synced = time.process_time(), count_syncs()
        await asyncio.to_thread(sys.stdin.readline)
        processor, syncs = time.process_time() - before, synced()
        done = [await auth.wait(one.sign_in, 0) for one in started]
    return {"done": sum(one.status == "done" for one in done), "processor": processor, "syncs": syncs}


async def waiting(base: str, count: int, folder: str) -> Any:
    """Open sign-ins: memory and tasks while they wait, and bytes on the disk."""
    home = _home(folder, base, ["s0"])
    async with McpAuth.open(home=home) as auth:
        await auth.sign_in("s0", "person:warm", ME, listen=False)
        gc.collect()
        tasks, memory = len(asyncio.all_tasks()), resident()
        for number in range(count):
            await auth.sign_in("s0", f"person:p{number}", ME, listen=False)
        gc.collect()
        grown, more = resident() - memory, len(asyncio.all_tasks()) - tasks
    files = [file.stat() for file in (home / "sign-ins").glob("*.json")]
    return {"bytes": grown / count, "tasks": more, **stored(files)}


async def storm_begin(base: str, folder: str) -> Any:
    home = _home(folder, base, ["s0"])
    async with McpAuth.open(home=home) as auth:
        await _finish(auth, "s0")
    return {}


async def storm(base: str, folder: str) -> Any:
    async with McpAuth.open(home=folder) as auth:
        async with httpx2.AsyncClient(trust_env=False, auth=auth.http_auth("s0"), timeout=60) as client:
            before = await client.post(f"{base}/s0/mcp", json={})
            wait_for_the_start()
            answer = await client.post(f"{base}/s0/mcp", json={})
    return {"before": before.status_code, "status": answer.status_code}


async def answers(count: int, folder: str, who: str = "cli:local", signed_in: bool = False) -> Any:
    """`/mcp` answered from local state, to the first reply. `signed_in`: there is a grant of every server."""
    from gateway.invocations import Principal

    names = [f"s{number}" for number in range(count)]
    home = _home(folder, "https://mcp.example", names, {"allow": [who]})
    for name in names if signed_in else ():
        _grant(home, name)
    return await _answered(home, Principal.parse(who), "signed in" if signed_in else "sign in needed")


def _grant(home: Path, server: str, owner: str = "shared") -> None:
    from mcp_auth.records import Grant, Tokens
    from mcp_auth.stores.files import FileStore

    tokens = Tokens(access_token="token", expires_at=time.time() + 86_400)
    url = f"https://mcp.example/{server}/mcp"
    if FileStore(home).grants.write(Grant(server=server, owner=owner, server_url=url, tokens=tokens)) is None:
        raise RuntimeError("the grant was not stored")


async def people(count: int, folder: str) -> Any:
    """The same with ten servers, for one of so many people who all hold a grant of their own."""
    from gateway.invocations import Principal

    principals = [f"telegram:{number}" for number in range(count)]
    everybody = {f"p{number}": [principal] for number, principal in enumerate(principals)}
    gateway = {"identity": "per_user", "allow": principals, "people": everybody}
    home = _home(folder, "https://mcp.example", [f"s{number}" for number in range(10)], gateway)
    for name in everybody:
        _grant(home, "s0", f"person:{name}")
    return await _answered(home, Principal.parse(principals[-1]), "signed in")


async def _answered(home: Path, who: Any, wanted: str = "") -> dict[str, float]:
    from gateway.gateway import Gateway
    from gateway.invocations import ChatRef, Invocation

    took = []
    async with Gateway.from_config(home=home) as gateway:
        for number in range(30):
            replies = gateway.handle(Invocation(who, ChatRef(who.platform), "", True, str(number)))
            first: list[Any] = []

            async def answer(replies: Any = replies, first: list[Any] = first) -> None:
                first.append(await anext(replies))

            took.append(await processor_timed(answer))
            await replies.aclose()
            if wanted not in repr(first[0]).replace("_", " ").lower():
                raise RuntimeError(f"the answer does not say: {wanted}")
    return as_measured(took)


if __name__ == "__main__":
    works = (links, repeat, concurrent, layer, completions, waiting, storm_begin, storm, answers, people)
    main({work.__name__: work for work in works})
