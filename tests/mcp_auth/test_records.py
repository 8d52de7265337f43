from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mcp_auth.records import BrowserBinding, KeyForm, Visit, decode, encode

ROOT = Path(__file__).parents[2]

# Types of its own for each round, as each is described once; threads that give way as often as they can.
ROUNDS = """
import sys, threading
import msgspec
from mcp_auth.records import decode

sys.setswitchinterval(1e-6)
for _ in range(60):
    members = [("a", "dict[str, list[int] | None] | None"), ("b", "tuple[str, ...] | None", None)]
    inner = msgspec.defstruct("Inner", members, namespace={"__module__": __name__})
    kind = msgspec.defstruct("Kind", [("one", inner), ("two", list[inner])], namespace={"__module__": __name__})
    together = threading.Barrier(3)

    def read():
        together.wait()
        for _ in range(5):
            decode(kind, b'{"one": {"a": {"x": [1]}}, "two": [{"a": null}]}')

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_that_read_the_first_record_of_a_kind_at_once_do_not_end_the_process() -> None:
    """The store is listed in a thread while a callback reads its sign-in on the loop: msgspec's description of a type
    to itself is not made for that (0.22), and the process died of a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", ROUNDS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_browser_binding_is_read_and_written_under_the_name_that_it_always_had() -> None:
    stored = (
        b'{"version":2,"id":"a","server":"notes","owner":"shared","status":"opened",'
        b'"origin":{"principal":"telegram:1"},"created_at":1.0,"expires_at":601.0,"gate":{"tickets":["00"],"opened":"00","browser":"11",'
        b'"kept_in":"storage","visit":{"browser":"Firefox on Linux","at":3.0},"attempts":1}}'
    )
    form = decode(KeyForm, stored)
    assert form.binding == BrowserBinding(
        tickets=("00",),
        opened="00",
        browser="11",
        kept_in="storage",
        visit=Visit(browser="Firefox on Linux", at=3.0),
        attempts=1,
    )
    assert encode(form) == stored
