"""The table: on the terminal, and as `docs/performance.md` with its plots."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from bench.arena import Figure
from bench.rows import Result

_COMMAND = "scripts/bench"
_NAMES = {"sdk": "SDK", "fastmcp": "FastMCP", "hermes": "Hermes", "codex": "Codex", "mcporter": "mcporter"}


def as_text(result: Result, *, quick: bool = False) -> str:
    met = "met" if result.holds(quick=quick) else "NOT met"
    lines = [f"{result.row.title}: {result.verdict} ({met}: {result.row.target})"]
    lines += [f"    {name:<18} {_shown(result, figure)}" for name, figure in result.figures.items()]
    return "\n".join(lines)


def write(results: list[Result], docs: Path, *, rounds: int, peers: dict[str, Path]) -> None:
    """`performance.md`, the plots, and the raw figures beside them."""
    images = docs / "images"
    images.mkdir(exist_ok=True)
    plotted = [result for result in results if result.curves]
    curves = {result.row.name: {"axis": result.axis, "curves": result.curves} for result in plotted}
    (images / "performance.json").write_text(json.dumps(curves, indent=1) + "\n")
    lines = [
        "# Performance",
        "",
        "What slash-mcp costs, beside the least that the work needs (limit) and beside programs that do the same.",
        "Everything ran on loopback, interleaved, in one run of:",
        "",
        "```console",
        f"$ {_COMMAND}",
        "```",
        "",
        f"Figures are medians of {rounds} rounds (least to most in brackets); who cannot do the work says why.",
        f"Machine: {_machine()}. Python {platform.python_version()}, {_versions(peers)}.",
        "",
        "| work | limit | slash-mcp | target | reached | others |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(result) for result in results),
        "",
        "## How cost grows with the work",
        "",
    ]
    for result in plotted:
        lines += [f"![{result.row.title}](images/performance-{_slug(result.row.name)}.svg)", ""]
    lines += [(Path(__file__).parent / "reading.md").read_text().rstrip(), ""]
    (docs / "performance.md").write_text("\n".join(lines))


def _row(result: Result) -> str:
    figures = dict(result.figures)
    limit = figures.pop("limit", None)
    ours = [figures.pop(name) for name in list(figures) if name.startswith("ours")]
    own = "<br>".join(_shown(result, figure) for figure in ours)
    others = "<br>".join(f"{_NAMES.get(name, name)} {_shown(result, figure)}" for name, figure in figures.items())
    reached = f"{'yes' if result.holds() else '**no**'}: {result.verdict}"
    cells = (result.row.title, _shown(result, limit) if limit else "", own, result.row.target, reached, others)
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _shown(result: Result, figure: Figure) -> str:
    if figure.why is not None:
        return f"failed: {figure.why}"
    if figure.median is None:
        return "not measured"
    unit = result.row.unit
    scale = 1000 if unit == "ms" else 1
    digits = 3 if unit == "s" else 2 if unit == "ms" and figure.median < 0.01 else 1 if unit == "us" else 0
    low, middle, high = (
        f"{value * scale:,.{digits}f}" for value in (min(figure.values), figure.median, max(figure.values))
    )
    text = f"{middle} {unit}" if low == high else f"{middle} {unit} ({low} to {high})"
    notes = figure.notes
    if "mib" in notes:
        text += f", {notes['mib']:.0f} MiB"
    if "requests" in notes:
        text += f", {notes['requests']} requests"
    if "tasks" in notes:
        text += f", {notes['tasks']} tasks"
    if "refreshes" in notes:
        text += f", {notes['refreshes']} refreshes" + (f" ({notes['lost']})" if notes.get("lost") else "")
    return text


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
