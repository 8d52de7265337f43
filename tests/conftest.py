from __future__ import annotations

import gc
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from adapters.cli.cli import main
from mcp_auth.limits import Limits
from tests.adapters.cli.typed import Done, Run
from tests.servers.oauth import OAuthServer

# Without kept bytecode every run would rewrite each test's assertions again, and each process that a test starts would
# compile the whole program first: a third of the time that all takes.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# The command line, what serves, and the scripts that people run.
_PROGRAM = re.compile(
    r"(^|-m )adapters\.cli\b|\bslash-mcp$|gateway\.serve|\b(examples|scripts)/\w+|\bchromium\b|\bnode$"
)
# Half of a worker's start was the collector looking through modules that stay.
gc.disable()
# Examples are counted, not timed: a busy machine is no failure.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    gc.freeze()
    gc.enable()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite runs in parallel; a file or a test that is named runs at once, in this process."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    # They wait for sockets, disks and programs as long as they compute.
    return 2 * (os.cpu_count() or 1)


@pytest.fixture(autouse=True)
def _only_services_run_whole_programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a program takes to start is the machine's affair, so it is no fast test's."""
    if request.node.get_closest_marker("service") is not None:
        return
    real = subprocess.Popen.__init__

    def start(self: Any, args: Any, *more: Any, **options: Any) -> None:
        words = [args] if isinstance(args, str) else [os.fspath(word) for word in args]
        assert not any(_PROGRAM.search(str(word)) for word in words), f"mark this test `service`: it runs {words}"
        real(self, args, *more, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", start)


@pytest.fixture(scope="session")
def _oauth_server() -> Iterator[OAuthServer]:
    with OAuthServer().running() as server:
        yield server


@pytest.fixture
def oauth(_oauth_server: OAuthServer) -> OAuthServer:
    """An authorization server and protected MCP server on loopback, as new for each test."""
    _oauth_server.reset()
    return _oauth_server


@pytest.fixture(autouse=True)
def advance_limits(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the clock of every `Limits` of this test by so many seconds. Else it stands still: what is too often in a
    minute is so too where a minute is over before all of it was asked."""
    now = [time.monotonic()]
    monkeypatch.setattr(Limits.__init__, "__defaults__", (lambda: now[0],))

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """One command of `slash-mcp` in this process, its standard input a pipe that ends after `stdin`."""

    def run_command(*arguments: str | Path, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capsys.readouterr())

    return run_command
