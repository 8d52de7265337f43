"""Where the contestants meet: the servers, one process for each piece of work, and a stopwatch outside of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

HERE = Path(__file__).parent
SCRIPTS = {"limit": "limit.py", "ours": "ours.py", "sdk": "sdk.py", "fastmcp": "fastmcp_.py", "hermes": "hermes.py"}
_TIMEOUT = 900.0


class Failed(Exception):
    """A contestant could not do the work; the text says why."""


@dataclass
class Figure:
    """What one contestant reached: one value a round. `why`: it failed.

    `series`: everything else that is a number, one a round. `notes`: what the last round said.
    """

    values: list[float] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    why: str | None = None
    series: dict[str, list[float]] = field(default_factory=dict)

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    def of(self, name: str | None) -> list[float]:
        """The values, or the series `name`; nothing of a contestant that failed in any round."""
        if self.why is not None:
            return []
        return self.values if name is None else self.series.get(name, [])

    def add(self, result: dict[str, Any], value: str) -> None:
        self.values.append(result[value])
        self.notes.update({key: said for key, said in result.items() if key != value})
        for key, said in result.items():
            if isinstance(said, int | float):
                self.series.setdefault(key, []).append(said)


class Arena:
    """Use as a context manager. `peers`: where the foreign contestants' programs are."""

    def __init__(self, peers: dict[str, Path], *, rounds: int, quick: bool) -> None:
        self.peers = peers
        self.rounds = rounds
        self.quick = quick
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="slash-mcp-bench-")
        self._servers = subprocess.Popen(
            [sys.executable, "-m", "bench.servers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parent,
        )
        if self._servers.stdout is None:
            raise RuntimeError("the servers have no output")
        self.base = self._servers.stdout.readline().strip()
        return self

    def __exit__(self, *error: object) -> None:
        if self._servers.stdin is not None:
            self._servers.stdin.close()
        self._servers.wait(timeout=30)
        self._folder.cleanup()

    def control(self, what: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.base}/control/{what}", data=b"", timeout=30) as answer:
            return dict(json.load(answer))

    def folder(self) -> Path:
        """A new empty folder."""
        folder = Path(self._folder.name) / str(next(self._numbers))
        folder.mkdir(mode=0o700)
        return folder

    def contestants(self, *names: str) -> list[str]:
        """Those of `names` that are here: ours, the limit and the SDK always."""
        return [name for name in names if name in ("limit", "ours", "sdk") or name in self.peers]

    def interleaved(self, works: dict[str, Any], value: str) -> dict[str, Figure]:
        """Every contestant's work, round by round. `works`: name -> a function that gives a result with `value`."""
        figures = {name: Figure() for name in works}
        for _ in range(self.rounds):
            for name, work in works.items():
                figure = figures[name]
                if figure.why is not None:
                    continue
                try:
                    figure.add(work(), value)
                except Failed as error:
                    figure.why = str(error)
        return figures

    def side_by_side(self, works: dict[str, Any], value: str) -> dict[str, Figure]:
        """Every contestant's work once, all at the same time: where nothing depends on how long it takes."""
        figures = {name: Figure() for name in works}

        def measure(name: str) -> None:
            try:
                figures[name].add(works[name](), value)
            except Failed as error:
                figures[name].why = str(error)

        with ThreadPoolExecutor() as threads:
            list(threads.map(measure, works))
        return figures

    def command(self, name: str, work: str, arguments: dict[str, Any]) -> list[str]:
        python = sys.executable if name in ("limit", "ours", "sdk") else str(self.peers[name])
        return [python, str(HERE / "contestants" / SCRIPTS[name]), work, json.dumps(arguments)]

    def do(self, name: str, work: str, **arguments: Any) -> dict[str, Any]:
        """One piece of work in a new process.

        Raises:
            Failed: it ended badly, or took too long.
        """
        arguments["folder"] = str(arguments.get("folder") or self.folder())
        try:
            done = subprocess.run(
                self.command(name, work, arguments),
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                env=self._environment(name),
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"no result within {_TIMEOUT:.0f} s") from None
        return _result(done.stdout, done.stderr, done.returncode)

    @contextlib.contextmanager
    def started(self, name: str, work: str, **arguments: Any) -> Iterator[subprocess.Popen[str]]:
        """The same, with its input and output open. Killed at the end if need be."""
        process = subprocess.Popen(
            self.command(name, work, arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment(name),
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def _environment(self, name: str) -> dict[str, str]:
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
        own = {"PYTHONPATH": str(HERE.parent)} if name == "ours" else {}
        return {**kept, **own, "HOME": self._folder.name}


def _result(out: str, err: str, code: int) -> dict[str, Any]:
    lines = out.strip().splitlines()
    if code or not lines:
        last = (err.strip().splitlines() or ["it said nothing"])[-1]
        raise Failed(last[:200])
    return dict(json.loads(lines[-1]))


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a started contestant says in the end. Raises Failed."""
    try:
        out, err = process.communicate("\n", timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise Failed(f"no result within {_TIMEOUT:.0f} s") from None
    return _result(out, err, process.returncode)


def whole_process(command: Sequence[str], environment: dict[str, str]) -> dict[str, float]:
    """Wall and processor seconds and the largest resident size (MiB) of a process and what it waited for.

    Raises:
        Failed: it ended with another code than 0.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Failed(f"exit code {process.returncode}")
    return {"seconds": seconds, "processor": usage.ru_utime + usage.ru_stime, "mib": usage.ru_maxrss / 1024}


def load(callback: str, host: str | None, states: list[str], concurrency: int = 16) -> float:
    """GET `callback` once for each state over kept connections; seconds for all. Raises Failed for any other answer."""
    parts = urlsplit(callback)

    async def worker(queue: list[str]) -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            while queue:
                target = f"{parts.path}?code=c{len(queue)}&state={queue.pop()}"
                writer.write(f"GET {target} HTTP/1.1\r\nHost: {host or parts.netloc}\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                if b" 200 " not in head.split(b"\r\n", 1)[0]:
                    raise Failed(f"the callback answered {head.split(b' ', 2)[1].decode()}")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                await reader.readexactly(length)
        finally:
            writer.close()

    async def all_of_them() -> float:
        queue = list(states)
        start = time.perf_counter()
        await asyncio.gather(*(worker(queue) for _ in range(concurrency)))
        return time.perf_counter() - start

    return asyncio.run(all_of_them())
