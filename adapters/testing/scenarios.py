"""What every scenario of the contract begins with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.testing.harness import ANN, Harness
from adapters.testing.ports import free_port
from adapters.testing.world import World
from gateway.demo.run import KEY_VARIABLE, Demo
from gateway.gateway import Gateway
from mcp_auth.records import SHARED


class Scenarios:
    """What every scenario begins with."""

    def make_harness(self) -> Harness:
        raise NotImplementedError("return the harness of your platform")

    @asynccontextmanager
    async def world(
        self,
        folder: Path,
        servers: Callable[[Demo], dict[str, Any]],
        *,
        allow: Sequence[str] = (ANN,),
        options: dict[str, Any] | None = None,
        public: bool = False,
        **gateway: Any,
    ) -> AsyncIterator[World]:
        """The platform with a gateway on a new home.

        Args:
            servers: the `mcp_servers`, made from the running demo.
            options: on top of the platform's own section.
            public: with `gateway.public_url`, so that links are our own and keys are typed into a form.
            gateway: on top of the `gateway:` section.
        """
        async with AsyncExitStack() as stack:
            demo = await stack.enter_async_context(Demo(id_tokens=True))
            harness = self.make_harness()
            needs(not public or harness.platform != "cli", "links of our own, which the operator does not need")
            stack.push_async_callback(harness.close)
            port = free_port()
            section = {
                "callback": {"port": port},
                **({"public_url": f"http://127.0.0.1:{port}"} if public else {}),
                "allow": [str(harness.principal(person)) for person in allow if harness.platform != "cli"],
                harness.platform: {**harness.section(), **(options or {})},
                **gateway,
            }
            home = folder / "home"
            home.mkdir(mode=0o700)
            (home / "config.yaml").write_text(yaml.safe_dump({"mcp_servers": servers(demo), "gateway": section}))
            world = World(harness, home, demo)
            stack.push_async_callback(world.end)
            await world.begin()
            yield world


def three(demo: Demo) -> dict[str, Any]:
    """A server behind OAuth, one behind a key, and a command."""
    headers = {"Authorization": f"Bearer ${{{KEY_VARIABLE}}}"}
    return {
        "notes": {"url": demo.notes_url, "auth": "oauth"},
        "weather": {"url": demo.weather_url, "headers": headers},
        "files": {"command": "never-started"},
    }


async def unreadable_address(gateway: Gateway) -> str:
    """The address of a sign-in whose record cannot be read: its file is a name that leads to itself."""
    slot = await gateway.auth.store.sign_ins.slot(SHARED, "notes")
    folder = gateway.config.home / "sign-ins"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / f"{slot}.json").symlink_to(folder / f"{slot}.json")
    return f"http://127.0.0.1:8765/callback?code=code-canary&state={slot}.{'x' * 43}"


def is_secret(value: object) -> bool:
    """Tokens, among the addresses and names of a platform's section."""
    return isinstance(value, str) and len(value) >= 20 and "/" not in value and "@" not in value


def needs(there: bool, what: str) -> None:
    if not there:
        pytest.skip(f"this platform has no {what}")
