"""The rows of the table: what is measured, who takes part, and what ours must reach."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench.arena import Arena, Failed, Figure, finished, load, whole_process

DELAY_MS = 50


@dataclass
class Result:
    """One row, measured. `reached` against `allowed` decides; None: nothing to compare with.

    `curves`: name -> points (size, value) for a plot.
    """

    row: Row
    figures: dict[str, Figure]
    reached: float | None
    allowed: float | None
    verdict: str
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    axis: tuple[str, str] = ("", "")

    def within(self, factor: float = 1.0) -> bool:
        """Whether ours is within `factor` of what is allowed."""
        if self.reached is None:
            return False
        return self.allowed is None or self.reached <= self.allowed * factor


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    target: str
    unit: str
    run: Callable[[Row, Arena], Result]

    def measure(self, arena: Arena) -> Result:
        return self.run(self, arena)


def _median(figures: dict[str, Figure], name: str) -> float | None:
    return figures[name].median if name in figures else None


def _against(row: Row, figures: dict[str, Figure], other: str, factor: float, **more: Any) -> Result:
    """Ours may take `factor` times what `other` takes."""
    ours, theirs = _median(figures, "ours"), _median(figures, other)
    allowed = theirs * factor if theirs is not None else None
    ratio = f"{ours / theirs:.2f} x {other}" if ours is not None and theirs else "not measured"
    return Result(row, figures, ours, allowed, ratio, **more)


# -- cold start ------------------------------------------------------------------------------

_LIST_CONFIG = """mcp_servers:
  notes: {url: "https://notes.example/mcp", auth: oauth}
  search:
    url: https://search.example/mcp
    headers: {Authorization: "Bearer ${SEARCH_KEY}"}
  files: {command: npx, args: [-y, files-server, /srv]}
"""
_READ = "import sys, yaml; yaml.safe_load(open(sys.argv[1]))"
_FASTMCP = (
    "import sys, yaml; from fastmcp import Client; servers = yaml.safe_load(open(sys.argv[1]))['mcp_servers'];"
    "[print(name, bool(Client({'mcpServers': {name: server}}))) for name, server in servers.items()]"
)


def cold_start(row: Row, arena: Arena) -> Result:
    folder = arena.folder()
    config = folder / "config.yaml"
    config.write_text(_LIST_CONFIG)
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"}
    slash_mcp = Path(sys.executable).with_name("slash-mcp")
    commands = {
        "limit": [sys.executable, "-c", _READ, str(config)],
        "ours": [str(slash_mcp), "--home", str(folder), "list"],
    }
    shown = subprocess.run(commands["ours"], capture_output=True, text=True, env=environment, check=True).stdout
    for words in ("sign-in needed", "key missing: SEARCH_KEY", "none needed"):
        if words not in shown:
            raise RuntimeError("our list does not tell the truth")
    if "fastmcp" in arena.peers:
        commands["fastmcp"] = [str(arena.peers["fastmcp"]), "-c", _FASTMCP, str(config)]
    if "hermes" in arena.peers:
        environment["HERMES_HOME"] = str(folder)
        commands["hermes"] = [str(arena.peers["hermes"].with_name("hermes")), "mcp", "list"]
    if "codex" in arena.peers:
        commands["codex"] = [str(arena.peers["codex"]), "mcp", "list"]
        _codex_home(folder, environment)
    if "mcporter" in arena.peers:
        (folder / "mcporter.json").write_text(
            json.dumps({"mcpServers": {"notes": {"url": "https://notes.example/mcp"}, "files": {"command": "true"}}})
        )
        commands["mcporter"] = [
            str(arena.peers["mcporter"]), "--config", str(folder / "mcporter.json"), "config", "list",
        ]  # fmt: skip
    works = {name: partial(whole_process, command, environment) for name, command in commands.items()}
    for work in works.values():
        _tried(work)
    figures = arena.interleaved(works, "seconds")
    if "codex" in figures and figures["codex"].median is not None:
        return _against(row, figures, "codex", 1.0)
    return Result(row, figures, _median(figures, "ours"), 0.184, f"{_median(figures, 'ours') or 0:.3f} s of 0.184 s")


def _tried(work: Callable[[], Any]) -> None:
    """Once without a stopwatch: compiled files and the disk's cache are there afterwards."""
    try:
        work()
    except Failed:
        return  # The measured rounds will say so.


def _codex_home(folder: Path, environment: dict[str, str]) -> None:
    home = folder / "codex"
    home.mkdir()
    (home / "config.toml").write_text(
        '[mcp_servers.notes]\nurl = "https://notes.example/mcp"\n'
        '[mcp_servers.search]\nurl = "https://search.example/mcp"\nbearer_token_env_var = "SEARCH_KEY"\n'
        '[mcp_servers.files]\ncommand = "npx"\nargs = ["-y", "files-server", "/srv"]\n'
    )
    environment["CODEX_HOME"] = str(home)


# -- signing in ------------------------------------------------------------------------------


def _links(arena: Arena, name: str, count: int, work: str = "links") -> Callable[[], Any]:
    def run() -> Any:
        names = [f"s{number}" for number in range(count)]
        return arena.do(name, work, base=arena.base, names=names, warm=["warm0", "warm1"])

    return run


def link(row: Row, arena: Arena) -> Result:
    arena.control(f"delay={DELAY_MS}")
    figures = arena.interleaved(_link_works(arena, 1), "seconds")
    return _against(row, figures, "sdk", 0.8)


def _link_works(arena: Arena, count: int) -> dict[str, Callable[[], Any]]:
    works = {name: _links(arena, name, count) for name in arena.contestants("limit", "ours", "sdk")}
    works["sdk as documented"] = _links(arena, "sdk", count, "links_as_documented")
    for name in arena.contestants("fastmcp", "hermes"):
        # These bring a client of their own for each server.
        works[name] = _links(arena, name, count, "links_as_documented")
    return works


def links(row: Row, arena: Arena) -> Result:
    arena.control(f"delay={DELAY_MS}")
    sizes = (20,) if arena.quick else (1, 5, 10, 40)
    curves: dict[str, list[tuple[float, float]]] = {}
    for size in sizes if not arena.quick else ():
        works = {name: _links(arena, name, size) for name in ("limit", "ours", "sdk")}
        for name, figure in arena.interleaved(works, "seconds").items():
            if figure.median is not None:
                curves.setdefault(name, []).append((size, figure.median * 1000))
    figures = arena.interleaved(_link_works(arena, 20), "seconds")
    for name, points in curves.items():
        median = figures[name].median
        if median is not None:
            points.append((20, median * 1000))
    return _against(row, figures, "limit", 1.1, curves=curves, axis=("servers", "ms to all links"))


def repeat(row: Row, arena: Arena) -> Result:
    arena.control(f"delay={DELAY_MS}")
    names = arena.contestants("ours", "sdk", "fastmcp", "hermes")
    works = {name: partial(arena.do, name, "repeat", base=arena.base) for name in names}
    figures = arena.interleaved(works, "seconds")
    ours = _median(figures, "ours")
    requests = figures["ours"].notes.get("requests")
    verdict = f"{requests} requests, {(ours or 0) * 1000:.2f} ms"
    return Result(row, figures, ours if requests == 0 else None, 0.001, verdict)


# -- using the token -------------------------------------------------------------------------


def concurrent(row: Row, arena: Arena) -> Result:
    arena.control(f"delay={DELAY_MS}")
    names = arena.contestants("limit", "ours", "sdk", "fastmcp", "hermes")
    curves: dict[str, list[tuple[float, float]]] = {}
    for size in () if arena.quick else (1, 10, 50, 200):
        works = {n: partial(arena.do, n, "concurrent", base=arena.base, count=size) for n in ("limit", "ours")}
        for name, figure in arena.interleaved(works, "seconds").items():
            if figure.median is not None:
                curves.setdefault(name, []).append((size, figure.median * 1000))
    works = {name: partial(arena.do, name, "concurrent", base=arena.base, count=100) for name in names}
    figures = arena.interleaved(works, "seconds")
    for name, points in curves.items():
        median = figures[name].median
        if median is not None:
            points.append((100, median * 1000))
    return _against(row, figures, "limit", 1.2, curves=curves, axis=("concurrent requests", "ms for all"))


def layer(row: Row, arena: Arena) -> Result:
    arena.control("delay=0")
    names = arena.contestants("ours", "sdk", "fastmcp", "hermes")
    works = {name: partial(arena.do, name, "layer", base=arena.base, count=10_000) for name in names}
    figures = arena.interleaved(works, "microseconds")
    ours = _median(figures, "ours")
    return Result(row, figures, ours, 10.0, f"{ours or 0:.1f} us of 10 us")


# -- finishing -------------------------------------------------------------------------------


def completions(row: Row, arena: Arena) -> Result:
    arena.control("delay=0")
    count = 200 if arena.quick else 400
    works = {name: partial(_complete, arena, name, count) for name in ("limit", "ours")}
    figures = arena.interleaved(works, "per_second")
    ours, limit = _median(figures, "ours"), _median(figures, "limit")
    if ours is None or limit is None:
        return Result(row, figures, None, None, "not measured")
    # More is better here, so what decides is the time for one.
    return Result(row, figures, 1 / ours, 1 / (0.7 * limit), f"{ours / limit:.2f} of the limit")


def _complete(arena: Arena, name: str, count: int) -> dict[str, Any]:
    folder = arena.folder()
    with arena.started(name, "completions", base=arena.base, count=count, folder=str(folder)) as process:
        if process.stdout is None:
            raise Failed("it has no output")
        line = process.stdout.readline()
        if not line:
            raise Failed((process.stderr.read() if process.stderr else "")[-200:] or "it said nothing")
        ready = json.loads(line)
        seconds = load(ready["callback"], ready.get("host"), ready["states"])
        done = finished(process)["done"]
    if done != count:
        raise Failed(f"{done} of {count} were finished")
    return {"per_second": count / seconds}


def waiting(row: Row, arena: Arena) -> Result:
    arena.control("delay=0")
    count = 1000 if arena.quick else 10_000
    curves: dict[str, list[tuple[float, float]]] = {}
    for size in () if arena.quick else (100, 1000):
        result = arena.do("ours", "waiting", base=arena.base, count=size)
        curves.setdefault("ours", []).append((size, max(result["bytes"], 0) * size / 1e6))
    rounds, arena.rounds = arena.rounds, 1
    works: dict[str, Any] = {"ours": partial(arena.do, "ours", "waiting", base=arena.base, count=count)}
    for name in arena.contestants("sdk", "fastmcp", "hermes"):
        works[name] = partial(arena.do, name, "waiting", base=arena.base, count=200 if arena.quick else 1000)
    figures = arena.interleaved(works, "bytes")
    arena.rounds = rounds
    ours = figures["ours"]
    if ours.median is not None and curves:
        curves["ours"].append((count, ours.median * count / 1e6))
    reached = max(ours.median or 0, ours.notes.get("stored", 0)) if ours.why is None else None
    notes = ours.notes
    stored, tasks = notes.get("stored", 0), notes.get("tasks")
    verdict = f"{ours.median or 0:.0f} bytes of memory, {stored:.0f} stored, {tasks} tasks"
    if tasks:
        reached = None
    return Result(row, figures, reached, 2000, verdict, curves, ("open sign-ins", "MB of memory"))


# -- many processes --------------------------------------------------------------------------


def storm(row: Row, arena: Arena) -> Result:
    arena.control(f"delay={DELAY_MS}")
    rounds, arena.rounds = arena.rounds, min(arena.rounds, 2)
    names = arena.contestants("ours", "sdk", "fastmcp", "hermes")
    figures = arena.interleaved({name: partial(_storm, arena, name, 16) for name in names}, "signed_in")
    arena.rounds = rounds
    ours = figures["ours"]
    refreshes = ours.notes.get("refreshes")
    good = ours.why is None and ours.values and min(ours.values) == 16 and refreshes == 1
    return Result(row, figures, 1.0 if good else None, 1.0, f"{refreshes} refresh, {min(ours.values or [0]):.0f} of 16")


def _storm(arena: Arena, name: str, count: int) -> dict[str, Any]:
    folder = str(arena.folder())
    arena.do(name, "storm_begin", base=arena.base, folder=folder)
    arena.control("reset")
    with ExitStack() as stack:
        children = [
            stack.enter_context(arena.started(name, "storm", base=arena.base, folder=folder)) for _ in range(count)
        ]
        for child in children:
            if child.stdout is None or child.stdin is None or child.stdout.readline() != "ready\n":
                raise Failed("it did not start")
        for child in children:
            if child.stdin is not None:
                child.stdin.write("\n")
                child.stdin.flush()
        answers = []
        for child in children:
            try:
                answers.append(finished(child))
            except Failed as error:
                answers.append({"status": 0, "why": str(error)})
    counted = arena.control("count")
    lost = next((answer["why"] for answer in answers if "why" in answer), None)
    return {
        "signed_in": float(sum(answer["status"] == 200 for answer in answers)),
        "refreshes": counted.get("refresh", 0),
        "lost": lost,
    }


def answers(row: Row, arena: Arena) -> Result:
    allowed = {10: 0.001, 100: 0.003, 1000: 0.030}
    figures: dict[str, Figure] = {}
    for size in allowed:
        works = {f"ours, {size}": partial(arena.do, "ours", "answers", count=size)}
        figures |= arena.interleaved(works, "seconds")
    medians = {size: figures[f"ours, {size}"].median for size in allowed}
    if any(median is None for median in medians.values()):
        return Result(row, figures, None, None, "not measured")
    points = [(float(size), (median or 0) * 1000) for size, median in medians.items()]
    worst = max((median or 0) / allowed[size] for size, median in medians.items())
    verdict = " / ".join(f"{value:.2f}" for _, value in points) + " ms"
    return Result(row, figures, worst, 1.0, verdict, {"ours": points}, ("servers", "ms to the first reply"))


def people(row: Row, arena: Arena) -> Result:
    sizes = (1, 100, 1000)
    figures: dict[str, Figure] = {}
    for size in sizes:
        works = {f"ours, {size}": partial(arena.do, "ours", "people", count=size)}
        figures |= arena.interleaved(works, "seconds")
    medians = [figures[f"ours, {size}"].median for size in sizes]
    if any(median is None for median in medians):
        return Result(row, figures, None, None, "not measured")
    points = [(float(size), (median or 0) * 1000) for size, median in zip(sizes, medians, strict=True)]
    verdict = " / ".join(f"{value:.2f}" for _, value in points) + " ms"
    growth = points[-1][1] / points[0][1]
    return Result(row, figures, growth, 2.0, verdict, {"ours": points}, ("people with grants", "ms to the first reply"))


ROWS = (
    Row(
        "cold start",
        "Cold start of listing three servers, the whole process",
        "not slower than Codex, at most 40 MiB, with true status",
        "s",
        cold_start,
    ),
    Row("link", f"Sign-in to link, {DELAY_MS} ms an answer, first time", "at most 0.8 x the SDK", "ms", link),
    Row("links", "The same, 20 servers at once", "at most 1.1 x the limit", "ms", links),
    Row("repeat", "Repeat sign-in at a known server", "0 requests, under 1 ms", "ms", repeat),
    Row("concurrent", "100 concurrent requests of 50 ms with a valid token", "at most 1.2 x plain", "ms", concurrent),
    Row("layer", "The auth layer alone, a request", "at most 10 us", "us", layer),
    Row("completions", "Completions a second, synced to the disk", "at least 0.7 of the limit", "/s", completions),
    Row("waiting", "10,000 open sign-ins, each", "at most 2 kB, no task", "B", waiting),
    Row("storm", "16 processes, one expired grant, reuse ends the family", "one refresh, 16 of 16", "of 16", storm),
    Row("answers", "/mcp answered, 10 / 100 / 1,000 servers", "under 1 / 3 / 30 ms", "ms", answers),
    Row("people", "/mcp answered, 1 / 100 / 1,000 people with grants", "does not grow with people", "ms", people),
)
