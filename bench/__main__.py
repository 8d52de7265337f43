"""`python -m bench`: measures slash-mcp against the limit and the peers, and writes `docs/performance.md`.

--quick      two minutes, without foreign peers; fails when a count is not met, or a ratio is beyond twice its target
--rounds N   how often each contestant does each work (default 3)
--only ROW   one row; the page then takes the others from the runs before (`--quick` writes nothing)
--page       measure nothing, and write the page of the runs before
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import report, rows
from bench.arena import Arena

ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=[row.name for row in rows.ROWS], action="append")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    cache = ROOT / ".cache" / "bench"
    peers = {} if options.quick else found_peers(cache)
    if options.page:
        report.write(report.kept(cache / "rows"), ROOT / "docs", peers=peers)
        return 0
    missed = False
    with Arena(peers, rounds=options.rounds, quick=options.quick) as arena:
        for row in rows.ROWS:
            if options.only and row.name not in options.only:
                continue
            print(f"{row.name} ...", file=sys.stderr, flush=True)
            result = row.measure(arena)
            print(report.as_text(result, quick=options.quick), flush=True)
            for check in result.missed(quick=options.quick):
                missed = True
                print(f"{row.name}: {check.text}, and {check.limit(quick=options.quick)}", file=sys.stderr)
            if not options.quick:
                report.keep(result, cache / "rows")
    if options.quick:
        return 1 if missed else 0
    report.write(report.kept(cache / "rows"), ROOT / "docs", peers=peers)
    return 0


def found_peers(folder: Path) -> dict[str, Path]:
    """Name -> interpreter or program, of those that scripts/bench could install."""
    places = {
        "fastmcp": folder / "fastmcp" / "bin" / "python",
        "hermes": folder / "hermes" / "bin" / "python",
        "mcporter": folder / "node" / "node_modules" / ".bin" / "mcporter",
        "codex": folder / "node" / "node_modules" / ".bin" / "codex",
    }
    return {name: place for name, place in places.items() if place.exists()}


if __name__ == "__main__":
    sys.exit(main())
