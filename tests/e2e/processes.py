"""`slash-mcp` in processes of its own, as a person or a service manager runs it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "adapters.cli"]


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent", **more}


def slash_mcp(
    home: Path, *arguments: str, stdin: str = "", timeout: float = PATIENCE, **env: str
) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    return subprocess.run(
        [*COMMAND, "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=timeout,
        cwd=home,
        env=environment(**env),
    )


def listed(home: Path, server: str) -> dict[str, Any]:
    done = slash_mcp(home, "list", server, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["servers"][0]
    return found


def heed_interrupts() -> None:
    """A shell lets what it runs in the background ignore Ctrl-C, and a child inherits that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Running:
    """A command that goes on. Its lines can be waited for; leaving ends it."""

    def __init__(self, home: Path, *arguments: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "--home", str(home), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=home,
            env=environment(**env),
            preexec_fn=heed_interrupts,
        )
        self.errors: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        for stream, sink in ((self.process.stdout, self._lines.put), (self.process.stderr, self.errors.append)):
            threading.Thread(target=self._read, args=(stream, sink), daemon=True).start()

    def _read(self, stream: Any, sink: Any) -> None:
        for line in stream:
            sink(line.rstrip("\n"))
        if stream is self.process.stdout:
            self._lines.put(None)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(PATIENCE)

    def line(self, containing: str, timeout: float = PATIENCE) -> str:
        """The next line of standard output with these words."""
        deadline = time.monotonic() + timeout
        seen = []
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line with {containing!r}; {seen} {self.errors}") from None
            assert line is not None, f"the process ended; {seen} {self.errors}"
            if containing in line:
                return line
            seen.append(line)

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def wait_for_error(self, containing: str, timeout: float = PATIENCE) -> None:
        deadline = time.monotonic() + timeout
        while not any(containing in line for line in self.errors):
            assert time.monotonic() < deadline, f"{containing!r} is not among {self.errors}"
            time.sleep(0.02)

    def end(self, timeout: float = PATIENCE) -> int:
        return self.process.wait(timeout)
