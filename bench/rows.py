"""The rows of the table: what is measured, who takes part, and what ours must reach.

Nothing is judged by the clock alone: what decides a row is a ratio to somebody who did the same work in the same run,
turn by turn, or a count. Absolute figures are shown.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench.arena import Arena, Failed, Figure, finished, load, whole_process
from mcp_auth.records import SHARED, Grant, Tokens
from mcp_auth.stores.files import FileStore

DELAY_MS = 50
# A busy or slow machine stretches the one more than the other now and then; the short form lets that pass.
SLACK = 2.0
Figures = dict[str, Figure]


@dataclass(frozen=True)
class Check:
    """One fact that decides a row: `reached` may be at most `allowed`. None: it was not measured.

    `best`: of a ratio, its best round. A count has none: it is the same on every machine.
    """

    text: str
    reached: float | None
    allowed: float
    best: float | None = None

    def holds(self, *, quick: bool = False) -> bool:
        if self.reached is None:
            return False
        if quick and self.best is not None:
            return self.best <= self.allowed * SLACK
        return self.reached <= self.allowed

    def limit(self, *, quick: bool = False) -> str:
        if quick and self.best is not None:
            return f"at most {self.allowed * SLACK:g} in the best round"
        return f"at most {self.allowed:g}" if self.allowed >= 0 else f"at least {-self.allowed:g}"


@dataclass
class Result:
    """One row, measured and judged. `curves`: name -> points (size, value) for a plot."""

    row: Row
    figures: Figures
    checks: list[Check]
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    # The load average of the machine while it ran, from and to.
    load: tuple[float, float] = (0.0, 0.0)

    def holds(self, *, quick: bool = False) -> bool:
        return not self.missed(quick=quick)

    def missed(self, *, quick: bool = False) -> list[Check]:
        if not self.checks:
            return [Check("nothing was judged", None, 0)]
        return [check for check in self.checks if not check.holds(quick=quick)]

    @property
    def verdict(self) -> str:
        return ", ".join(check.text for check in self.checks)


@dataclass(frozen=True)
class Row:
    """`run` measures; `judge` makes of the figures what decides."""

    name: str
    title: str
    target: str
    unit: str
    run: Callable[[Arena], Figures]
    judge: Callable[[Figures], list[Check]]
    axis: tuple[str, str] = ("", "")

    def measure(self, arena: Arena) -> Result:
        before = os.getloadavg()[0]
        figures = self.run(arena)
        return self.judged(figures, (before, os.getloadavg()[0]))

    def judged(self, figures: Figures, load: tuple[float, float]) -> Result:
        curves = _curves(figures, 1000 if self.unit == "ms" else 1) if self.axis[0] else {}
        return Result(self, figures, self.judge(figures), curves, load)


def _curves(figures: Figures, scale: float) -> dict[str, list[tuple[float, float]]]:
    """Of the figures that are named `NAME, SIZE`."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for called, figure in figures.items():
        name, comma, size = called.partition(", ")
        if comma and figure.median is not None:
            curves.setdefault(name, []).append((float(size.replace(",", "")), figure.median * scale))
    return {name: points for name, points in curves.items() if len(points) > 1}


def ratio(
    figures: Figures, other: str, allowed: float, *, ours: str = "ours", series: str | None = None, unit: str = ""
) -> Check:
    """What ours takes, in parts of what `other` took in the same round: the median of the rounds."""
    name, comma, size = other.partition(", ")
    kind = ours.partition(", ")[0].removeprefix("ours").strip()
    label = f"x {name}{f' at {size}' if comma else ''}{f' ({unit})' if unit else ''}{f' {kind}' if kind else ''}"
    if ours not in figures or other not in figures:
        return Check(f"{label}: not measured", None, allowed)
    pairs = list(zip(figures[ours].of(series), figures[other].of(series), strict=False))
    if not pairs or any(theirs <= 0 for _, theirs in pairs):
        return Check(f"{label}: not measured", None, allowed)
    ratios = [mine / theirs for mine, theirs in pairs]
    return Check(f"{statistics.median(ratios):.2f} {label}", statistics.median(ratios), allowed, min(ratios))


def count(figures: Figures, name: str, allowed: float, words: str, *, ours: str = "ours") -> Check:
    """The largest of a series of ours."""
    values = figures[ours].of(name) if ours in figures else []
    if not values:
        return Check(f"{words}: not counted", None, allowed)
    return Check(f"{max(values):,.0f} {words}", max(values), allowed)


def as_many(figures: Figures, name: str, words: str, *, ours: str = "ours", other: str = "limit") -> Check:
    """No more of something than `other` needed."""
    theirs = figures[other].of(name) if other in figures else []
    if not theirs:
        return Check(f"{words}: not counted", None, 0)
    return count(figures, name, max(theirs), words, ours=ours)


def same_requests(figures: Figures, size: int | None = None) -> Check:
    """Everybody who did the work (at this size) sent as many requests, by the servers' own count."""
    ending = "" if size is None else f", {size:,}"
    rivals = {name: figure for name, figure in figures.items() if name.endswith(ending) and figure.why is None}
    least = figures.get(f"limit{ending}")
    if least is None or not least.of("requests"):
        return Check("requests: not counted", None, 0)
    wanted = least.of("requests")[0]
    other = sorted(name for name, figure in rivals.items() if set(figure.of("requests")) != {wanted})
    said = f"{wanted:.0f} requests by everybody{'' if size is None else f' at {size}'}"
    return Check(f"other than {wanted:.0f} requests by {', '.join(other)}" if other else said, len(other), 0)


def at_least(figures: Figures, name: str | None, wanted: float, words: str, *, ours: str = "ours") -> Check:
    """The least of a series of ours."""
    values = figures[ours].of(name) if ours in figures else []
    if not values:
        return Check(f"{words}: not counted", None, -wanted)
    return Check(f"{min(values):,.0f} {words}", -min(values), -wanted)


# -- cold start ------------------------------------------------------------------------------

_LIST_CONFIG = """mcp_servers:
  notes: {url: "https://notes.example/mcp", auth: oauth}
  search:
    url: https://search.example/mcp
    headers: {Authorization: "Bearer ${SEARCH_KEY}"}
  files: {command: npx, args: [-y, files-server, /srv]}
"""
# What the least of a list reads: the configuration, the keys and the grant.
_READ = """import json, sys, yaml
yaml.safe_load(open(sys.argv[1])), open(sys.argv[2]).read(), json.load(open(sys.argv[3]))"""
_FASTMCP = """import sys, yaml, dotenv
from fastmcp import Client
keys = dotenv.dotenv_values(sys.argv[2])
for name, server in yaml.safe_load(open(sys.argv[1]))["mcp_servers"].items():
    for key, text in server.get("headers", {}).items():
        server["headers"][key] = text.replace("${SEARCH_KEY}", keys["SEARCH_KEY"])
    print(name, bool(Client({"mcpServers": {name: server}})))
"""
_NOTES = "https://notes.example/mcp"


def cold_start(arena: Arena) -> Figures:
    """Everybody has three servers: one signed in, one whose key is set, one that is a command."""
    folder = arena.folder()
    config, keys, grant = folder / "config.yaml", folder / ".env", folder / "mcp-tokens" / "notes.json"
    config.write_text(_LIST_CONFIG)
    keys.write_text("SEARCH_KEY=sk-of-the-bench\n")
    keys.chmod(0o600)
    tokens = Tokens(access_token="at", refresh_token="rt", obtained_at=time.time(), expires_at=time.time() + 86_400)
    if FileStore(folder).grants.write(Grant(server="notes", owner=SHARED, server_url=_NOTES, tokens=tokens)) is None:
        raise RuntimeError("the grant was not stored")
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"}
    slash_mcp = Path(sys.executable).with_name("slash-mcp")
    commands = {
        "limit": [sys.executable, "-c", _READ, str(config), str(keys), str(grant)],
        "ours": [str(slash_mcp), "--home", str(folder), "list"],
    }
    shown = subprocess.run(commands["ours"], capture_output=True, text=True, env=environment, check=True).stdout
    for words in ("signed in", "key set", "none needed"):
        if words not in shown:
            raise RuntimeError(f"our list does not tell the truth: {shown}")
    if "fastmcp" in arena.peers:
        commands["fastmcp"] = [str(arena.peers["fastmcp"]), "-c", _FASTMCP, str(config), str(keys)]
    if "hermes" in arena.peers:
        # The same home: its .env, and the tokens that we keep for it.
        environment["HERMES_HOME"] = str(folder)
        commands["hermes"] = [str(arena.peers["hermes"].with_name("hermes")), "mcp", "list"]
    if "codex" in arena.peers:
        commands["codex"] = [str(arena.peers["codex"]), "mcp", "list"]
        _codex_home(folder, environment)
    if "mcporter" in arena.peers:
        (folder / "mcporter.json").write_text(json.dumps({"mcpServers": _MCPORTER}))
        commands["mcporter"] = [
            str(arena.peers["mcporter"]), "--config", str(folder / "mcporter.json"), "config", "list",
        ]  # fmt: skip
    works = {name: partial(whole_process, command, environment) for name, command in commands.items()}
    for work in works.values():
        _tried(work)
    return arena.interleaved(works, "seconds")


def judge_cold_start(figures: Figures) -> list[Check]:
    checks = [
        ratio(figures, "limit", 3.0, series="processor", unit="processor time"),
        count(figures, "mib", 40, "MiB"),
    ]
    return [ratio(figures, "codex", 1.0), *checks] if "codex" in figures else checks


def _tried(work: Callable[[], Any]) -> None:
    """Once without a stopwatch: compiled files and the disk's cache are there afterwards."""
    try:
        work()
    except Failed:
        return  # The measured rounds will say so.


_MCPORTER = {
    "notes": {"url": _NOTES, "auth": "oauth"},
    "search": {"url": "https://search.example/mcp", "headers": {"Authorization": "Bearer ${SEARCH_KEY}"}},
    "files": {"command": "npx", "args": ["-y", "files-server", "/srv"]},
}


def _codex_home(folder: Path, environment: dict[str, str]) -> None:
    home = folder / "codex"
    home.mkdir()
    (home / "config.toml").write_text(
        'mcp_oauth_credentials_store = "file"\n'
        f'[mcp_servers.notes]\nurl = "{_NOTES}"\n'
        '[mcp_servers.search]\nurl = "https://search.example/mcp"\nbearer_token_env_var = "SEARCH_KEY"\n'
        '[mcp_servers.files]\ncommand = "npx"\nargs = ["-y", "files-server", "/srv"]\n'
    )
    (home / ".env").write_text("SEARCH_KEY=sk-of-the-bench\n")
    place = json.dumps({"headers": {}, "type": "http", "url": _NOTES}, separators=(",", ":"))
    grant = {
        "server_name": "notes",
        "server_url": _NOTES,
        "client_id": "c0",
        "access_token": "at",
        "refresh_token": "rt",
        "expires_at": int((time.time() + 86_400) * 1000),
        "scopes": ["read"],
    }
    key = f"notes|{hashlib.sha256(place.encode()).hexdigest()[:16]}"
    (home / ".credentials.json").write_text(json.dumps({key: grant}))
    environment["CODEX_HOME"] = str(home)


# -- signing in ------------------------------------------------------------------------------


def _links(arena: Arena, name: str, size: int, work: str = "links") -> Callable[[], Any]:
    names = [f"s{number}" for number in range(size)]
    return partial(arena.do, name, work, base=arena.base, names=names, warm=["warm0", "warm1"])


def _link_works(arena: Arena, size: int) -> dict[str, Callable[[], Any]]:
    works = {name: _links(arena, name, size) for name in arena.contestants("limit", "ours", "sdk")}
    works["sdk as documented"] = _links(arena, "sdk", size, "links_as_documented")
    for name in arena.contestants("fastmcp", "hermes"):
        # These bring a client of their own for each server.
        works[name] = _links(arena, name, size, "links_as_documented")
    return works


def link(arena: Arena) -> Figures:
    arena.control(f"delay={DELAY_MS}")
    return arena.interleaved(_link_works(arena, 1), "seconds")


def judge_link(figures: Figures) -> list[Check]:
    return [same_requests(figures), ratio(figures, "sdk", 0.8), ratio(figures, "limit", 1.1)]


def links(arena: Arena) -> Figures:
    arena.control(f"delay={DELAY_MS}")
    figures = {}
    for size in (20,) if arena.quick else (1, 5, 10, 20, 40, 50):
        works = _link_works(arena, size) if size == 20 else _only(_link_works(arena, size), "limit", "ours", "sdk")
        figures |= _sized(arena.interleaved(works, "seconds"), size)
    return figures


def judge_links(figures: Figures) -> list[Check]:
    checks = []
    for size, allowed in ((20, 1.1), (40, 1.2), (50, 1.2)):
        if f"ours, {size}" in figures:
            own, least = f"ours, {size}", f"limit, {size}"
            checks += [
                same_requests(figures, size),
                ratio(figures, least, allowed, ours=own),
            ]
    return checks


def _only(works: dict[str, Callable[[], Any]], *names: str) -> dict[str, Callable[[], Any]]:
    return {name: work for name, work in works.items() if name in names}


def _sized(figures: Figures, size: int) -> Figures:
    return {f"{name}, {size:,}": figure for name, figure in figures.items()}


def repeat(arena: Arena) -> Figures:
    arena.control(f"delay={DELAY_MS}")
    names = arena.contestants("limit", "ours", "sdk", "fastmcp", "hermes")
    return arena.interleaved({name: partial(arena.do, name, "repeat", base=arena.base) for name in names}, "seconds")


def judge_repeat(figures: Figures) -> list[Check]:
    return [count(figures, "requests", 0, "requests"), ratio(figures, "sdk", 0.1)]


# -- using the token -------------------------------------------------------------------------


def concurrent(arena: Arena) -> Figures:
    arena.control(f"delay={DELAY_MS}")
    figures = {}
    for size in (100,) if arena.quick else (1, 10, 50, 100, 200):
        names = arena.contestants("limit", "ours", "sdk", "fastmcp", "hermes") if size == 100 else ["limit", "ours"]
        works = {name: partial(arena.do, name, "concurrent", base=arena.base, count=size) for name in names}
        figures |= _sized(arena.interleaved(works, "seconds"), size)
    return figures


def judge_concurrent(figures: Figures) -> list[Check]:
    checks = []
    for size in (50, 100):
        own, least = f"ours, {size}", f"limit, {size}"
        if own in figures:
            checks += [
                same_requests(figures, size),
                ratio(figures, least, 1.2, ours=own, series="first", unit="first time"),
                ratio(figures, least, 1.2, ours=own),
            ]
    return checks


def layer(arena: Arena) -> Figures:
    arena.control("delay=0")
    names = arena.contestants("limit", "ours", "sdk", "fastmcp", "hermes")
    works = {name: partial(arena.do, name, "layer", base=arena.base, count=10_000) for name in names}
    return arena.interleaved(works, "microseconds")


def judge_layer(figures: Figures) -> list[Check]:
    peers = [ratio(figures, name, 1.0) for name in ("sdk", "fastmcp", "hermes") if name in figures]
    return [count(figures, "calls", 0.05, "system calls"), *peers]


# -- finishing -------------------------------------------------------------------------------


def completions(arena: Arena) -> Figures:
    arena.control("delay=0")
    size = 200 if arena.quick else 400
    return arena.interleaved({name: partial(_complete, arena, name, size) for name in ("limit", "ours")}, "per_second")


def judge_completions(figures: Figures) -> list[Check]:
    return [
        same_requests(figures),
        as_many(figures, "syncs", "waits for the disk"),
        ratio(figures, "limit", 3.0, series="processor", unit="processor time"),
    ]


def _complete(arena: Arena, name: str, size: int) -> dict[str, Any]:
    folder = arena.folder()
    with arena.started(name, "completions", base=arena.base, count=size, folder=str(folder)) as process:
        if process.stdout is None:
            raise Failed("it has no output")
        line = process.stdout.readline()
        if not line:
            raise Failed((process.stderr.read() if process.stderr else "")[-200:] or "it said nothing")
        ready = json.loads(line)
        arena.control("reset")
        seconds = load(ready["callback"], ready.get("host"), ready["states"])
        requests = arena.control("count")["requests"]
        said = finished(process)
    if said["done"] != size:
        raise Failed(f"{said['done']} of {size} were finished")
    return {
        "per_second": size / seconds,
        "processor": said["processor"] / size,
        "syncs": said["syncs"] / size,
        "requests": requests,
    }


def waiting(arena: Arena) -> Figures:
    arena.control("delay=0")
    figures = {}
    for size in (200,) if arena.quick else (100, 1000, 10_000):
        names = arena.contestants("limit", "ours", "sdk", "fastmcp", "hermes")
        works = {name: partial(arena.do, name, "waiting", base=arena.base, count=size) for name in names}
        figures |= _sized(arena.side_by_side(works, "bytes"), size)
    return figures


def judge_waiting(figures: Figures) -> list[Check]:
    size = max(int(name.partition(", ")[2].replace(",", "")) for name in figures)
    own = f"ours, {size:,}"
    # A process grows in steps of pages, so few sign-ins say little of each.
    allowed = 2000 if size >= 1000 else 4000
    return [
        count(figures, "bytes", allowed, "B of memory", ours=own),
        count(figures, "stored", 2000, "B on the disk", ours=own),
        count(figures, "tasks", 0, "tasks", ours=own),
    ]


# -- many processes --------------------------------------------------------------------------


def storm(arena: Arena) -> Figures:
    # Nothing here depends on time, so once is enough.
    rounds, arena.rounds = arena.rounds, 1
    arena.control(f"delay={DELAY_MS}")
    names = arena.contestants("limit", "ours", "sdk", "fastmcp", "hermes")
    size = 4 if arena.quick else 16
    figures = arena.interleaved({name: partial(_storm, arena, name, size) for name in names}, "signed_in")
    arena.rounds = rounds
    return _sized(figures, size)


def judge_storm(figures: Figures) -> list[Check]:
    own = next(name for name in figures if name.startswith("ours"))
    size = int(own.partition(", ")[2])
    return [
        count(figures, "refreshes", 1, "refresh", ours=own),
        count(figures, "reused", 0, "used twice", ours=own),
        at_least(figures, None, size, f"of {size}", ours=own),
    ]


def _storm(arena: Arena, name: str, size: int) -> dict[str, Any]:
    folder = str(arena.folder())
    arena.do(name, "storm_begin", base=arena.base, folder=folder)
    with ExitStack() as stack:
        children = [
            stack.enter_context(arena.started(name, "storm", base=arena.base, folder=folder)) for _ in range(size)
        ]
        for child in children:
            if child.stdout is None or child.stdin is None or child.stdout.readline() != "ready\n":
                raise Failed("it did not start")
        arena.control("expire")
        arena.control("reset")
        for child in children:
            if child.stdin is not None:
                child.stdin.write("\n")
                child.stdin.flush()
        answers = []
        for child in children:
            try:
                answers.append(finished(child))
            except Failed as error:
                answers.append({"before": 0, "status": 0, "why": str(error)})
    if any(answer["before"] != 200 for answer in answers):
        raise Failed("not everybody was signed in before the storm")
    kinds = arena.control("count")["by kind"]
    return {
        "signed_in": float(sum(answer["status"] == 200 for answer in answers)),
        "refreshes": kinds.get("refresh", 0),
        "reused": kinds.get("refresh refused", 0),
        "lost": next((answer["why"] for answer in answers if "why" in answer), None),
    }


# -- answering -------------------------------------------------------------------------------


def answers(arena: Arena) -> Figures:
    """At the terminal without a grant; a thousand in a chat too, and a hundred with a grant of each."""
    works = _by_size(arena, "answers", (10, 100, 1000))
    works["ours in a chat, 1,000"] = partial(arena.do, "ours", "answers", count=1000, who="telegram:1")
    works["ours with grants, 100"] = partial(arena.do, "ours", "answers", count=100, signed_in=True)
    return arena.interleaved(works, "seconds")


def people(arena: Arena) -> Figures:
    return arena.interleaved(_by_size(arena, "people", (1, 100, 1000)), "seconds")


def _by_size(arena: Arena, work: str, sizes: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    """All sizes in each round, so that they can be compared with each other too."""
    return {
        f"{name}, {size:,}": partial(arena.do, name, work, count=size) for size in sizes for name in ("limit", "ours")
    }


def judge_answers(figures: Figures) -> list[Check]:
    steps = [(10, 100, 12.0), (100, 1000, 12.0)]
    growth = [
        ratio(figures, f"ours, {few:,}", allowed, ours=f"ours, {many:,}", series="processor")
        for few, many, allowed in steps
    ]
    limits = [
        ratio(figures, other, allowed, ours=ours, series="processor")
        for ours, other, allowed in (
            ("ours, 1,000", "limit, 1,000", 2.0),
            ("ours with grants, 100", "limit, 100", 4.0),
            ("ours in a chat, 1,000", "ours, 1,000", 2.0),
        )
    ]
    return [*limits, *growth]


def judge_people(figures: Figures) -> list[Check]:
    return [ratio(figures, "ours, 1", 1.5, ours="ours, 1,000", series="processor")]


ROWS = (
    Row(
        "cold start",
        "Cold start of listing three servers, the whole process",
        "not slower than Codex, at most 40 MiB, with true status",
        "s",
        cold_start,
        judge_cold_start,
    ),
    Row(
        "link",
        f"Sign-in to link, {DELAY_MS} ms an answer, first time",
        "at most 0.8 x the SDK, 1.1 x the limit, as many requests",
        "ms",
        link,
        judge_link,
    ),
    Row(
        "links",
        "The same, several servers at once",
        "at most 1.1 x the limit at 20, 1.2 at 40 and 50",
        "ms",
        links,
        judge_links,
        ("servers", "ms to all links"),
    ),
    Row(
        "repeat",
        "Repeat sign-in at a known server",
        "0 requests, at most 0.1 x the SDK",
        "ms",
        repeat,
        judge_repeat,
    ),
    Row(
        "concurrent",
        f"Concurrent requests of {DELAY_MS} ms with a valid token",
        "at most 1.2 x the limit, the first time and the second",
        "ms",
        concurrent,
        judge_concurrent,
        ("concurrent requests", "ms for all"),
    ),
    Row(
        "layer",
        "The auth layer alone, a request",
        "no system call, not slower than any peer",
        "us",
        layer,
        judge_layer,
    ),
    Row(
        "completions",
        "Completions a second, synced to the disk",
        "waits for the disk as often as the limit, at most 3 x its processor time",
        "/s",
        completions,
        judge_completions,
    ),
    Row(
        "waiting",
        "Open sign-ins in files, each",
        "at most 2 kB of memory and 2 kB on the disk, no task",
        "B",
        waiting,
        judge_waiting,
        ("open sign-ins", "bytes of memory each"),
    ),
    Row(
        "storm",
        "16 processes, one ended access token, refresh tokens rotate",
        "one refresh, no token used twice, 16 of 16",
        "signed in",
        storm,
        judge_storm,
    ),
    Row(
        "answers",
        "/mcp answered, 10 / 100 / 1,000 servers",
        "grows as the servers do; at most 2 x the limit, 4 x with grants; in a chat at most 2 x at the terminal",
        "ms",
        answers,
        judge_answers,
        ("servers", "ms to the first reply"),
    ),
    Row(
        "people",
        "/mcp answered, 1 / 100 / 1,000 people with grants of their own",
        "does not grow with people",
        "ms",
        people,
        judge_people,
        ("people with grants", "ms to the first reply"),
    ),
)
