"""The tests' own rule: they wait by looking often, and nothing is judged by how long it took."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE

TESTS = Path(__file__).parent
_SLEEPS = {"asyncio.sleep", "time.sleep"}
_CLOCKS = {"time.monotonic", "time.perf_counter", "perf_counter", "monotonic"}
_BOUNDS = {"asyncio.timeout", "asyncio.wait_for"}
# Of processes, threads, futures and events, and of pytest's own mark: each takes its bound by name or first.
_ENDS = {"wait", "join", "result", "communicate", "timeout"}
# Of our own platforms, chats and programs, with the bound last.
_LOOKS = {"until", "connected", "sees", "message", "notice", "answered", "reading", "posted", "wait_for_error"}
_RUNS = {"subprocess.run", "subprocess.check_call", "subprocess.check_output"}

# Their own bound is five seconds.
_CLIENTS = {f"httpx2.{name}" for name in ("AsyncClient", "Client", "get", "post", "put", "request")}

# So short a bound is one that a test wants to be over.
_OVER = 0.1

# Who may pause without looking, and why: the pause is played or tested, and never a hope that something is done.
PAUSES = {
    "adapters/matrix/test_adapter.py": "history is told by the homeserver's own clock, which nobody can move",
    "adapters/slack/test_service.py": "a network that is gone for a moment",
    "adapters/telegram/test_run.py": "stands in for the pauses of the adapter",
    "attacks/test_bodies.py": "a client that drips, and a webhook that answers late",
    "gateway/test_dispatcher.py": "a server that never answers",
    "gateway/test_serve.py": "a platform that runs",
    "mcp_auth/stores/test_contract.py": "one holds the lease while others come",
    "mcp_auth/stores/test_hermes.py": "a lock is held; what comes too early is seen, what comes late is fine",
    "mcp_auth/config/test_env_file.py": "a writer is killed at many different moments",
    "platforms/discord.py": "a fault that delays",
    "servers/oauth.py": "a knob that delays",
}

# A bound that has to be reached, and what is seen when something ends too early.
EARLY = {("adapters/cli/test_streams.py", 1.0): "a process that was told to ignore a signal"}


def sources() -> list[Path]:
    return [path for path in sorted(TESTS.rglob("*.py")) if path != Path(__file__)]


def calls(tree: ast.AST, looking: bool = False) -> Iterator[tuple[ast.Call, bool]]:
    """Every call, and whether it stands in a `while`, which looks again."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call):
            yield node, looking
        yield from calls(node, looking or isinstance(node, ast.While))


def dotted(node: ast.AST) -> str:
    """`asyncio.sleep`; empty for anything but names."""
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def value(node: ast.AST) -> float | None:
    return float(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, int | float) else None


def bound_of(call: ast.Call) -> float | None:
    """After how many seconds this call gives up, where it says so in digits."""
    name = dotted(call)
    if name in _BOUNDS:
        return value(call.args[-1])
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name not in _RUNS and method not in _ENDS | _LOOKS:
        return None
    named = [one.value for one in call.keywords if one.arg == "timeout"]
    placed = call.args[:1] if method in _ENDS else call.args[-1:] if method in _LOOKS else []
    return next((value(one) for one in named + placed), None)


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("asyncio.wait_for(x, 5)", 5),
        ("process.wait(30)", 30),
        ("process.communicate(timeout=1)", 1),
        ("future.result(20)", 20),
        ("pytest.mark.timeout(30)", 30),
        ("subprocess.run(command, timeout=60)", 60),
        ("slack.connected(30)", 30),
        ("slack.until(lambda: found == 3, 20)", 20),
        ("slack.until(lambda: found == 3)", None),
        ("process.wait(PATIENCE)", None),
        ("subprocess.run(command)", None),
        ("thread.join()", None),
        ("','.join(names)", None),
        ("auth.probe('notes', timeout=0.5)", None),
    ],
)
def test_every_way_to_give_up_is_known(line: str, seconds: float | None) -> None:
    call = ast.parse(line, mode="eval").body
    assert isinstance(call, ast.Call)
    assert bound_of(call) == seconds


def test_nobody_sleeps_and_hopes() -> None:
    found = set()
    for path in sources():
        for call, looking in calls(ast.parse(path.read_text())):
            if dotted(call) in _SLEEPS and not looking and value(call.args[0]) != 0:
                found.add(path.relative_to(TESTS).as_posix())
    assert found - set(PAUSES) == set()


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_test_judges_how_long_something_took(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for call, looking in calls(tree):
        asks = dotted(call) in _CLIENTS
        assert not asks or {"timeout", "transport"} & {one.arg for one in call.keywords}, f"{path}:{call.lineno}"
        bound = bound_of(call)
        early = (path.relative_to(TESTS).as_posix(), bound) in EARLY
        assert bound is None or looking or early or bound >= PATIENCE or bound <= _OVER, (
            f"{path}:{call.lineno} gives up after {bound} s"
        )
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            takes = dotted(node.left) in _CLOCKS
            assert not takes or path.parent.name == "platforms", f"{path}:{node.lineno} takes the time"
