"""Draws the plots of `docs/performance.md` from `docs/images/performance.json`. Needs matplotlib."""

from __future__ import annotations

import json
import sys
from pathlib import Path

COLORS = {"ours": "#1f6feb", "limit": "#6e7781", "sdk": "#bc4c00", "fastmcp": "#8250df", "hermes": "#1a7f37"}
LABELS = {"ours": "slash-mcp", "limit": "limit", "sdk": "MCP SDK", "fastmcp": "FastMCP", "hermes": "Hermes"}


def main(folder: Path) -> None:
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "slash-mcp", "font.size": 11, "svg.fonttype": "none"})
    for name, plot in json.loads((folder / "performance.json").read_text()).items():
        figure, axes = plt.subplots(figsize=(6, 3.4))
        for contestant, points in plot["curves"].items():
            points.sort()
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, marker="o", color=COLORS[contestant], label=LABELS[contestant])
        axes.set_xlabel(plot["axis"][0])
        axes.set_ylabel(plot["axis"][1])
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(plot["curves"]) > 1:
            axes.legend(frameon=False)
        figure.savefig(
            folder / f"performance-{name.replace(' ', '-')}.svg", bbox_inches="tight", metadata={"Date": None}
        )
        plt.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
