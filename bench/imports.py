"""`python bench/imports.py MODULE ...`: what each import costs a process, in milliseconds of the processor.

Runs with nothing but the standard library, so that any interpreter can be asked.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

ROUNDS = 15


def main(modules: list[str]) -> None:
    costs: dict[str, list[float]] = {name: [] for name in ("", *modules)}
    for _ in range(ROUNDS):
        for name, seconds in costs.items():
            seconds.append(processor_seconds(f"import {name}" if name else "pass"))
    bare = statistics.median(costs.pop(""))
    print(f"{'python':<24} {1000 * bare:4.0f} ms")
    for name, seconds in costs.items():
        print(f"{name:<24} {1000 * (statistics.median(seconds) - bare):+4.0f} ms")


def processor_seconds(code: str) -> float:
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{code} failed")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(sys.argv[1:])
