"""The limit: the least that the work needs, without any product."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2
from common import control, main, timed, timed_again


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
    redirect = "http://127.0.0.1:8765/callback"
    registered = await client.post(metadata["registration_endpoint"], json={"redirect_uris": [redirect]})
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": registered.json()["client_id"],
        "redirect_uri": redirect,
        "state": secrets.token_urlsafe(32),
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "resource": url,
    }
    return f"{metadata['authorization_endpoint']}?{urlencode(query)}"


async def links(base: str, names: list[str], warm: list[str]) -> Any:
    async with httpx2.AsyncClient(trust_env=False) as client:
        await asyncio.gather(*(_link(client, f"{base}/{name}/mcp") for name in warm))
        control(base, "reset")
        seconds = await timed(lambda: asyncio.gather(*(_link(client, f"{base}/{name}/mcp") for name in names)))
    return {"seconds": seconds, "requests": control(base, "count")["requests"]}


async def concurrent(base: str, count: int) -> Any:
    token = control(base, "valid")["access_token"]
    async with httpx2.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {token}"}) as client:
        seconds = await timed_again(
            lambda: asyncio.gather(*(client.post(f"{base}/s0/mcp", json={}) for _ in range(count)))
        )
    return {"seconds": seconds}


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
        await asyncio.to_thread(sys.stdin.readline)
        server.should_exit = True
        await task
    await client.aclose()
    return {"done": len(list(Path(folder).iterdir()))}


def _replace(target: Path, data: bytes) -> None:
    temporary = target.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


if __name__ == "__main__":
    main({"links": links, "concurrent": concurrent, "completions": completions})
