"""`python -m bench`: measures slash-mcp against the limit and the peers, and writes `docs/performance.md`.

--quick      two minutes, without foreign peers; fails when a count is not met, or a ratio is beyond twice its target
--rounds N   how often each contestant does each work (default 3)
--only ROW   one row, for profiling; writes nothing
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
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", choices=[row.name for row in rows.ROWS])
    options = parser.parse_args()
    peers = {} if options.quick else found_peers(ROOT / ".cache" / "bench")
    rounds = options.rounds or 3
    chosen = [row for row in rows.ROWS if options.only in (None, row.name)]
    results = []
    with Arena(peers, rounds=rounds, quick=options.quick) as arena:
        for row in chosen:
            print(f"{row.name} ...", file=sys.stderr, flush=True)
            result = row.measure(arena)
            results.append(result)
            print(report.as_text(result, quick=options.quick), flush=True)
    if options.quick or options.only:
        missed = [(result, check) for result in results for check in result.missed(quick=options.quick)]
        for result, check in missed:
            print(f"{result.row.name}: {check.text}, and {check.limit(quick=options.quick)}", file=sys.stderr)
        return 1 if missed else 0
    report.write(results, ROOT / "docs", rounds=rounds, peers=peers)
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
