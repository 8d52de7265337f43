"""The limit: the least that the work needs, without any product."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

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

_REDIRECT = "http://127.0.0.1:8765/callback"


async def _link(client: httpx2.AsyncClient, url: str) -> str:
    """Probe and resource metadata in parallel, authorization server metadata, registration: three trips."""
    parts = urlsplit(url)
    base = f"{parts.scheme}://{parts.netloc}"
    _, found = await asyncio.gather(
        client.post(url, json={}), client.get(f"{base}/.well-known/oauth-protected-resource{parts.path}")
    )
    issuer = urlsplit(found.json()["authorization_servers"][0])
    answer = await client.get(f"{base}/.well-known/oauth-authorization-server{issuer.path}")
    metadata = answer.json()
    registered = await client.post(metadata["registration_endpoint"], json={"redirect_uris": [_REDIRECT]})
    return _begun(url, metadata["authorization_endpoint"], registered.json()["client_id"])[0]


def _begun(url: str, endpoint: str, client_id: str) -> tuple[str, dict[str, str]]:
    """A link, and what has to be kept until its answer comes."""
    state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": _REDIRECT,
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "resource": url,
    }
    return f"{endpoint}?{urlencode(query)}", {"state": state, "verifier": verifier, "client_id": client_id}


async def links(base: str, names: list[str], warm: list[str], folder: str) -> Any:
    async with httpx2.AsyncClient(trust_env=False) as client:
        await asyncio.gather(*(_link(client, f"{base}/{name}/mcp") for name in warm))
        control(base, "reset")
        seconds = await timed(lambda: asyncio.gather(*(_link(client, f"{base}/{name}/mcp") for name in names)))
    return {"seconds": seconds, "requests": control(base, "count")["requests"]}


async def repeat(base: str, folder: str) -> Any:
    """Known metadata and a known client are read from a file; the sign-in that begins is written to another."""
    known, begun = Path(folder) / "server.json", Path(folder) / "sign-in.json"
    known.write_text(json.dumps({"authorization_endpoint": f"{base}/s0/authorize", "client_id": "c0"}))

    async def begin() -> None:
        server = json.loads(known.read_text())
        _, kept = _begun(f"{base}/s0/mcp", server["authorization_endpoint"], server["client_id"])
        _replace(begun, json.dumps(kept).encode(), synced=False)

    control(base, "reset")
    measured = [await processor_timed(begin) for _ in range(21)]
    return {**as_measured(measured), "requests": control(base, "count")["requests"]}


async def concurrent(base: str, count: int, folder: str) -> Any:
    token = control(base, "valid")["access_token"]
    async with httpx2.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {token}"}) as client:
        return await timed_twice(
            base, lambda: asyncio.gather(*(client.post(f"{base}/s0/mcp", json={}) for _ in range(count)))
        )


class _Header(httpx2.Auth):
    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        request.headers["Authorization"] = "Bearer token"
        yield request


async def layer(base: str, count: int, folder: str) -> Any:
    return await each_request(_Header(), f"{base}/s0/mcp", httpx2, count)


async def completions(base: str, count: int, folder: str) -> Any:
    """A bare Starlette application: one POST, claimed once, one file replaced (file and folder synced, as ours)."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    waiting = {secrets.token_urlsafe(32): secrets.token_urlsafe(48) for _ in range(count)}
    states = list(waiting)
    client = httpx2.AsyncClient(trust_env=False)

    async def callback(request: Request) -> Response:
        verifier = waiting.pop(request.query_params["state"], None)
        if verifier is None:
            return PlainTextResponse("used", 409)
        form = {"grant_type": "authorization_code", "code": request.query_params["code"], "code_verifier": verifier}
        answer = await client.post(f"{base}/s0/token", data=form)
        target = Path(folder) / hashlib.sha256(verifier.encode()).hexdigest()
        _replace(target, answer.content)
        return PlainTextResponse("done")

    import socket

    with socket.create_server(("127.0.0.1", 0)) as bound:
        config = uvicorn.Config(Starlette(routes=[Route("/callback", callback)]), log_config=None, access_log=False)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started:
            await asyncio.sleep(0.01)
        print(json.dumps({"callback": f"http://127.0.0.1:{bound.getsockname()[1]}/callback", "states": states}))
        sys.stdout.flush()
        before, synced = time.process_time(), count_syncs()
        await asyncio.to_thread(sys.stdin.readline)
        processor = time.process_time() - before
        server.should_exit = True
        await task
    await client.aclose()
    return {"done": len(list(Path(folder).iterdir())), "processor": processor, "syncs": synced()}


async def waiting(base: str, count: int, folder: str) -> Any:
    """Open sign-ins: what has to be kept of each, in a file."""
    _replace(Path(folder) / "warm", b"{}", synced=False)
    memory = resident()
    for number in range(count):
        _, kept = _begun(f"{base}/s0/mcp", f"{base}/s0/authorize", "c0")
        _replace(Path(folder) / str(number), json.dumps(kept).encode(), synced=False)
    grown = resident() - memory
    files = [file.stat() for file in Path(folder).iterdir()]
    return {"bytes": grown / count, "tasks": 0, **stored(files)}


async def storm_begin(base: str, folder: str) -> Any:
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{base}/token", data={"grant_type": "authorization_code"})
    (Path(folder) / "grant").write_bytes(answer.content)
    return {}


async def storm(base: str, folder: str) -> Any:
    """One file under one kernel lock; who gets the lock and finds the refused token in the file refreshes."""
    place = Path(folder) / "grant"
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:

        async def call() -> int:
            answer = await client.post(f"{base}/s0/mcp", json={}, headers={"Authorization": f"Bearer {token}"})
            return answer.status_code

        token = json.loads(place.read_text())["access_token"]
        before = await call()
        wait_for_the_start()
        if await call() == 401:
            with place.open("r+") as file:
                await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
                kept = json.load(file)
                if kept["access_token"] == token:
                    form = {"grant_type": "refresh_token", "refresh_token": kept["refresh_token"]}
                    kept = (await client.post(f"{base}/token", data=form)).json()
                    file.seek(0)
                    file.write(json.dumps(kept))
                    file.truncate()
                    file.flush()
            token = kept["access_token"]
        return {"before": before, "status": await call()}


async def answers(count: int, folder: str) -> Any:
    """A line of text for each server that a file names, with one look whether there is a grant of it."""
    names = [f"s{number}" for number in range(count)]
    home = Path(folder)
    config = home / "config.json"
    config.write_text(json.dumps(names))
    _replace(home / "s0.json", b"{}", synced=False)

    async def answer() -> None:
        lines, kept = [], config.stat()
        for name in names:
            state = "signed in" if (home / f"{name}.json").exists() else "sign-in needed"
            lines.append(f"{name:<16} https://mcp.example/{name}/mcp all {state} {kept.st_mtime}")
        if not "\n".join(lines):
            raise RuntimeError("nothing was answered")

    return as_measured([await processor_timed(answer) for _ in range(30)])


async def people(count: int, folder: str) -> Any:
    return await answers(10, folder)


def _replace(target: Path, data: bytes, *, synced: bool = True) -> None:
    temporary = target.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, data)
        if synced:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, target)
    if not synced:
        return
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


if __name__ == "__main__":
    works = (links, repeat, concurrent, layer, completions, waiting, storm_begin, storm, answers, people)
    main({work.__name__: work for work in works})
