from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mcp_auth.records import OPEN, SIGN_IN_STEPS, KeyForm, Origin, SignInStatus, stepped

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


# From each state of a sign-in or key form, where it may go.
ENDS = "refused failed expired cancelled"
STEPS: dict[SignInStatus, str] = {
    "started": f"opened confirmed exchanging {ENDS}",
    "opened": f"opened confirmed exchanging {ENDS}",
    "confirmed": f"opened confirmed answered exchanging {ENDS}",
    "answered": f"opened confirmed answered exchanging {ENDS}",
    "exchanging": "done failed",
}


@pytest.mark.parametrize("after", SIGN_IN_STEPS)
@pytest.mark.parametrize("before", SIGN_IN_STEPS)
def test_a_record_goes_only_where_the_table_says(before: SignInStatus, after: SignInStatus) -> None:
    form = KeyForm(
        id="x",
        server="api",
        owner="shared",
        status=before,
        origin=Origin(principal="cli:local"),
        created_at=1.0,
        expires_at=2.0,
    )
    moved = stepped(form, after, 7.0)
    assert (moved is not None) is (after in STEPS.get(before, "").split())
    assert (before in OPEN) is (before in STEPS)
    if moved is not None:
        assert moved.status == after
        assert moved.ended_at == (None if after in STEPS else 7.0)


def test_a_sign_in_goes_on_or_ends_and_never_comes_back() -> None:
    ends = {"exchanging", "refused", "failed", "expired", "cancelled"}
    steps: dict[str, set[str]] = {
        "started": ends | {"opened", "confirmed"},
        "opened": ends | {"opened", "confirmed"},
        "confirmed": ends | {"opened", "confirmed", "answered"},
        "answered": ends | {"opened", "confirmed", "answered"},
        "exchanging": {"done", "failed"},
        **{end: set() for end in ("done", "refused", "failed", "expired", "cancelled")},
    }
    assert steps == SIGN_IN_STEPS
    assert {status for status, onward in steps.items() if onward} == OPEN
