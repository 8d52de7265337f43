"""The gateway's own process."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from gateway import serve as serve_module
from gateway.serve import load_platforms, run_until
from mcp_auth.errors import ConfigError, StoreError
from tests.gateway.chat import configure, open_gateway
from tests.patience import PATIENCE
from tests.ports import free_port

ADAPTER = """
class Adapter:
    def __init__(self, gateway):
        self.gateway = gateway
    async def run(self):
        raise NotImplementedError
"""


def install_adapter(folder: Path, monkeypatch: pytest.MonkeyPatch, platform: str, module: str, source: str) -> None:
    """Somebody's distribution with an adapter, as importlib.metadata finds it."""
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[slash_mcp.adapters]\n{platform} = {module}:Adapter\n")
    monkeypatch.syspath_prepend(str(folder))


async def test_only_named_platforms_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_adapter(tmp_path, monkeypatch, "smoke", "smoke_signals", ADAPTER)
    install_adapter(tmp_path, monkeypatch, "pigeon", "carrier_pigeon", "raise AssertionError('imported')")
    gateway = open_gateway(configure(tmp_path, platforms={"smoke": {}}))

    platforms = load_platforms(gateway)

    assert list(platforms) == ["smoke"]
    assert "carrier_pigeon" not in sys.modules
    await gateway.stop()


async def test_a_platform_without_adapter_or_library_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_adapter(tmp_path, monkeypatch, "drum", "talking_drum", "import a_library_that_is_missing")
    for platform, said in (("fax", "no adapter is installed"), ("drum", "a_library_that_is_missing")):
        gateway = open_gateway(configure(tmp_path, platforms={platform: {"token": "canary-token"}}))

        with pytest.raises(ConfigError, match=said) as refused:
            load_platforms(gateway)

        assert "canary-token" not in str(refused.value)
        await gateway.stop()


class Failing:
    """A platform that fails a few times before it holds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.holds = asyncio.Event()
        self.cancelled = False

    async def run(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.holds.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def test_a_failing_platform_is_started_again_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.serve._FIRST_PAUSE", 0.01)
    failing = Failing(RuntimeError("canary-secret"), StoreError("The disk is full."))
    steady = Failing()
    stop = asyncio.Event()

    with caplog.at_level(logging.DEBUG):
        running = asyncio.create_task(run_until(stop, {"failing": lambda: failing, "steady": lambda: steady}))
        async with asyncio.timeout(PATIENCE):
            await failing.holds.wait()
            await steady.holds.wait()
            stop.set()
            await running

    assert failing.cancelled
    assert steady.cancelled
    lines = [line for line in caplog.text.splitlines() if "platform failing" in line]
    assert len(lines) == 2
    assert "The disk is full." in lines[1]
    assert "canary-secret" not in caplog.text


@pytest.mark.service
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_without_platforms_the_endpoint_serves_alone_until_a_signal(tmp_path: Path, number: int) -> None:
    (tmp_path / "config.yaml").write_text("mcp_servers: {}\n")
    port = free_port()
    program = (
        f"import asyncio; from gateway.serve import serve; asyncio.run(serve(home={str(tmp_path)!r}, port={port}))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=Path(__file__).parents[2], stderr=asyncio.subprocess.PIPE
    )
    try:
        status = await _answered(f"http://127.0.0.1:{port}/nothing-here")
        process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()

    assert status == 404
    assert process.returncode == 0
    assert b"Traceback" not in errors


async def _answered(url: str) -> int:
    async with asyncio.timeout(PATIENCE), httpx2.AsyncClient(verify=False, timeout=PATIENCE) as client:
        while True:
            try:
                return (await client.get(url)).status_code
            except httpx2.ConnectError:
                await asyncio.sleep(0.05)


@pytest.mark.service
def test_a_server_that_dies_leaves_no_memory_behind(tmp_path: Path) -> None:
    program = """
import ctypes, os, resource, sys
from gateway.serve import forbid_core_dumps
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
forbid_core_dumps()
is_dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) if sys.platform == "linux" else 0
print(resource.getrlimit(resource.RLIMIT_CORE), is_dumpable)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout.strip() == "(0, 0) 0"


async def test_so_does_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr(serve_module, "forbid_core_dumps", lambda: called.append(True))
    with pytest.raises(ConfigError):
        await serve_module.serve(tmp_path / "nowhere.yaml")
    assert called == [True]
