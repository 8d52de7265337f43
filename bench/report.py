"""The table: on the terminal, and as `docs/performance.md` with its plots."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from bench.arena import Figure
from bench.rows import ROWS, Check, Result

_COMMAND = "scripts/bench"
_NAMES = {
    "ours": "slash-mcp",
    "sdk as documented": "SDK as documented",
    "sdk": "SDK",
    "fastmcp": "FastMCP",
    "hermes": "Hermes",
    "codex": "Codex",
    "mcporter": "mcporter",
}


def as_text(result: Result, *, quick: bool = False) -> str:
    met = "met" if result.holds(quick=quick) else "NOT met"
    lines = [f"{result.row.title}: {result.verdict} ({met}: {result.row.target})"]
    lines += [f"    {name:<18} {_shown(result, figure)}" for name, figure in result.figures.items()]
    return "\n".join(lines)


def keep(result: Result, folder: Path) -> None:
    """What was measured, as JSON: a page is made of the last run of every row."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {name: asdict(figure) for name, figure in result.figures.items()}
    (folder / f"{_slug(result.row.name)}.json").write_text(json.dumps({"load": result.load, "figures": figures}))


def kept(folder: Path) -> list[Result]:
    results = []
    for row in ROWS:
        place = folder / f"{_slug(row.name)}.json"
        if place.exists():
            known = json.loads(place.read_text())
            figures = {name: Figure(**figure) for name, figure in known["figures"].items()}
            results.append(row.judged(figures, tuple(known["load"])))
    return results


def write(results: list[Result], docs: Path, *, peers: dict[str, Path]) -> None:
    """`performance.md`, the plots, and the raw figures beside them."""
    images = docs / "images"
    images.mkdir(exist_ok=True)
    plotted = [result for result in results if result.curves]
    curves = {result.row.name: {"axis": result.row.axis, "curves": result.curves} for result in plotted}
    (images / "performance.json").write_text(json.dumps(curves, indent=1) + "\n")
    rounds = max((len(f.values) for result in results for f in result.figures.values()), default=0)
    loads = [load for result in results for load in result.load]
    lines = [
        "# Performance",
        "",
        "What slash-mcp costs, beside the least that the work needs (limit) and beside programs that do the same.",
        "Everything ran on loopback. Within a row everybody took turns in one run of:",
        "",
        "```console",
        f"$ {_COMMAND}",
        "```",
        "",
        "What decides is the median of the ratios of rounds that followed each other, or a count. Absolute figures",
        "depend on the machine and on what else it does, so compare them within a row only.",
        f"Its load average was {min(loads):.0f} to {max(loads):.0f} on {os.cpu_count()} cores; each row says its own.",
        "",
        f"Figures are medians of at most {rounds} rounds (least to most in brackets); who cannot do the work says why.",
        f"Machine: {_machine()}. Python {platform.python_version()}, {_versions(peers)}.",
        "",
        "| work | slash-mcp | target | reached | load |",
        "| --- | --- | --- | --- | --- |",
        *(_row(result) for result in results),
        "",
        "## The figures",
        "",
    ]
    for result in results:
        lines += [f"### {result.row.title}", "", *_table(result), ""]
    lines += ["## How cost grows with the work", ""]
    for result in plotted:
        lines += [f"![{result.row.title}](images/performance-{_slug(result.row.name)}.svg)", ""]
    lines += [(Path(__file__).parent / "reading.md").read_text().rstrip(), ""]
    (docs / "performance.md").write_text("\n".join(lines))


def _row(result: Result) -> str:
    own = "<br>".join(
        f"{_size(name)}{_shown(result, figure)}" for name, figure in result.figures.items() if name.startswith("ours")
    )
    reached = f"{'yes' if result.holds() else '**no**'}: {', '.join(_told(check) for check in result.checks)}"
    load = f"{result.load[0]:.0f} to {result.load[1]:.0f}"
    cells = (result.row.title, own, result.row.target, reached, load)
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _told(check: Check) -> str:
    return check.text if check.holds() else f"**{check.text}** ({check.limit()})"


def _table(result: Result) -> list[str]:
    """One line for each contestant, one column for each size."""
    sizes = list(dict.fromkeys(name.partition(", ")[2] for name in result.figures))
    names = list(dict.fromkeys(name.partition(", ")[0] for name in result.figures))
    lines = [f"| | {' | '.join(sizes)} |", f"| --- |{' --- |' * len(sizes)}"]
    for name in names:
        cells = []
        for size in sizes:
            figure = result.figures.get(f"{name}, {size}" if size else name)
            cells.append("" if figure is None else _shown(result, figure))
        lines.append(f"| {_NAMES.get(name, name)} | {' | '.join(cells)} |")
    return lines


def _size(name: str) -> str:
    size = name.partition(", ")[2]
    return f"{size}: " if size else ""


def _shown(result: Result, figure: Figure) -> str:
    if figure.why is not None:
        return f"failed: {figure.why}".replace("|", "/")
    if figure.median is None:
        return "not measured"
    unit = result.row.unit
    text = _range(figure.values, unit)
    if "first" in figure.series:
        text = f"{_range(figure.series['first'], unit)}, then {text}"
    if "processor" in figure.series and unit != "us":
        text += f", processor {_range(figure.series['processor'], 'ms')}"
    notes = figure.notes
    words = {"mib": "MiB", "requests": "requests", "stored": "B on the disk", "set aside": "B set aside"}
    words |= {"tasks": "tasks", "calls": "system calls", "syncs": "waits for the disk", "refreshes": "refreshes"}
    words |= {"reused": "tokens used twice"}
    for name, word in words.items():
        if name in notes:
            text += f", {notes[name]:,.0f} {word}"
    return f"{text} ({notes['lost']})" if notes.get("lost") else text


def _range(values: list[float], unit: str) -> str:
    """The median, and from where to where."""
    scale = 1000 if unit == "ms" else 1
    middle = statistics.median(values) * scale
    digits = 3 if unit == "s" else 2 if unit == "ms" and middle < 10 else 1 if unit == "us" else 0
    low, shown, high = (f"{value:,.{digits}f}" for value in (min(values) * scale, middle, max(values) * scale))
    return f"{shown} {unit}" if low == high else f"{shown} {unit} ({low} to {high})"


def _slug(name: str) -> str:
    return name.replace(" ", "-")


def _machine() -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return f"{os.cpu_count()} cores ({cpu}), Linux {platform.release().split('-')[0]}"


def _versions(peers: dict[str, Path]) -> str:
    found = [f"mcp {version('mcp')}"]
    for name, package in (("fastmcp", "fastmcp"), ("hermes", "hermes-agent")):
        if name in peers:
            code = f"from importlib.metadata import version; print(version('{package}'))"
            found.append(f"{package} {_said([str(peers[name]), '-c', code])}")
    found += [f"{name} {_said([str(peers[name]), '--version'])}" for name in ("codex", "mcporter") if name in peers]
    return ", ".join(found)


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split()[-1]
