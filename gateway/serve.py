"""The gateway's own process: the callback endpoint, and every platform that the configuration names."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from gateway import error_reports, sentences
from gateway.gateway import Gateway
from gateway.surfaces import Words, in_shell
from mcp_auth.config.models import Config
from mcp_auth.errors import ConfigError, McpAuthError, StoreError
from mcp_auth.outcome import Shell, Step

_log = logging.getLogger("gateway")
_PR_SET_DUMPABLE = 4
ADAPTERS = "slash_mcp.adapters"
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
# Who ran this long was healthy: the next failure is a new one.
_HEALTHY_SECONDS = 120.0


class Platform(Protocol):
    """What an entry point of `slash_mcp.adapters` makes: called with the gateway, it runs one platform."""

    async def run(self) -> None:
        """The platform in a process of our own, until cancelled. Raises what makes it stop; it is started again."""
        ...

    async def check(self) -> Sequence[tuple[str, Words, Step | None]]:
        """For `slash-mcp doctor`: can the platform be reached, is the token good, is a right missing? Never raises.

        Returns marks (`adapters.GOOD`, `WARN`, `BAD`), sentences, and what to do.
        """
        ...


MakePlatform = Callable[[], Platform]


async def serve(
    config: Config | str | Path | None = None, *, home: str | Path | None = None, port: int | None = None
) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP. Without a platform in the configuration: the callback endpoint alone.

    Args:
        port: instead of `gateway.callback.port`.

    Raises:
        ConfigError: the configuration cannot be used, or names a platform whose adapter is not installed.
        PortBusy: another program has the callback port.
    """
    forbid_core_dumps()
    gateway = Gateway.from_config(config, home=home)
    platforms = load_platforms(gateway)
    stop = asyncio.Event()
    # From the start on: whoever sees the endpoint answer may stop us.
    with _stopped_by_signals(stop):
        async with gateway:
            listening = await gateway.auth.listen(port)
            host = gateway.config.gateway.callback.host
            # The SDK's modules stay for good: no pass of the collector needs to look at them again.
            gc.collect()
            gc.freeze()
            await _warn_of_reused_names(gateway)
            _log.info("callback endpoint on %s:%d; platforms: %s", host, listening, ", ".join(platforms) or "none")
            await run_until(stop, platforms)


def forbid_core_dumps() -> None:
    """Keep this process' memory, tokens and all, out of files and crash reporters when it dies."""
    try:
        import resource
    except ImportError:
        # Windows writes none by itself.
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        # prctl(2): where a program takes the dumps, the kernel does not look at the limit.
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            _log.warning("core dumps could not be forbidden: %s", os.strerror(ctypes.get_errno()))


async def _warn_of_reused_names(gateway: Gateway) -> None:
    try:
        for said in map(sentences.reused, await gateway.auth.reused_names()):
            _log.warning("%s", in_shell(said.text, said.next_step))
    except StoreError as error:
        _log.warning("whether a name of gateway.people was given to somebody else cannot be said: %s", error.message)


def load_platforms(gateway: Gateway) -> dict[str, MakePlatform]:
    """What makes the adapter of every platform that the configuration names; nothing else is imported.

    Raises:
        ConfigError: there is none, or its library is not installed.
    """
    found = {point.name: point for point in entry_points(group=ADAPTERS)}
    platforms: dict[str, MakePlatform] = {}
    for name in gateway.config.gateway.platforms:
        point = found.get(name)
        if point is None:
            raise ConfigError(
                f"gateway.{name} names a platform for which no adapter is installed.",
                key=f"gateway.{name}",
                next_step=f"install one, or remove gateway.{name}",
            )
        try:
            platforms[name] = partial(point.load(), gateway)
        except ImportError as error:
            raise ConfigError(
                f"gateway.{name} needs a library that is not installed ({error.name}).",
                key=f"gateway.{name}",
                next_step=Shell(f"pip install 'slash-mcp[{name}]'"),
            ) from None
    return platforms


async def run_until(stop: asyncio.Event, platforms: Mapping[str, MakePlatform]) -> None:
    """Keep every platform running, each on its own, until `stop` is set."""
    tasks = [asyncio.create_task(_supervise(name, one), name=f"platform {name}") for name, one in platforms.items()]
    try:
        await stop.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _supervise(name: str, make: MakePlatform) -> None:
    pause = _FIRST_PAUSE
    while True:
        started = time.monotonic()
        try:
            # Made anew each time: a token that was mended in .env is picked up.
            await make().run()
            why = "ended by itself"
        except McpAuthError as error:
            why = in_shell(error.text, error.next_step)
        except Exception as error:  # noqa: BLE001 - one platform's failure must not stop the others
            why = f"failed, reference {error_reports.note(error)}"
        if time.monotonic() - started > _HEALTHY_SECONDS:
            pause = _FIRST_PAUSE
        _log.warning("platform %s: %s; started again in %.0f s", name, why, pause)
        # Spread, so that replicas do not return at the same moment.
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
        pause = min(pause * 2, _LONGEST_PAUSE)


@contextlib.contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    signals = [signal.SIGINT, signal.SIGTERM]
    # Whoever started us with `nohup` wants that a closed terminal ends nothing.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
