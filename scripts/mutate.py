"""Measures what the tests notice: changes the code on purpose, one small change at a time, and runs the tests.

1. The project is copied; nothing below touches the work tree.
2. The fast tests run once under coverage, which tells the tests that reach each line. Kept until a file changes.
3. From every group of modules a sample is drawn. A change is drawn by a hash of the seed, its function and itself, so
   that the same ones come again after the code around them has moved.
4. For each change, tests that reach its line run in a forked process, which has the libraries imported already. The
   first test that fails, or does not come back, and does so again alone has noticed it.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "mutate"
TREE = CACHE / "tree"
GROUPS = {
    "oauth": [
        *(
            "agent",
            "net/sites",
            "oauth/authorization",
            "oauth/challenge",
            "oauth/clients",
            "oauth/discovery",
            "oauth/refresh",
        ),
        *("oauth/rejections", "oauth/registration", "oauth/sign_in", "oauth/token_words", "oauth/tokens"),
        *("oauth/exchange", "oauth/profiles", "oauth/renewal", "credentials"),
    ],
    "proof": [
        *(
            "links/verification",
            "links/codes",
            "links/tickets",
            "states",
            "kinds",
            "web/callbacks",
            "web/forms",
            "web/endpoint",
            "web/key_forms",
            "web/loopback",
            "web/pages",
        ),
        "gateway/key_prompts",
    ],
    "network": ["net/http", "net/rules"],
    "stores": [
        *("config/env_file", "keys", "records", "stores/durable", "stores/files", "stores/hermes", "stores/memory"),
        "stores/updates",
        "stores/base",
        "stores/index",
    ],
    "who-may-what": [
        *("limits", "gateway/policy", "gateway/dispatcher", "gateway/people", "gateway/sign_ins", "gateway/pairing"),
        *("gateway/handlers/finish", "gateway/handlers/keys", "gateway/handlers/people", "gateway/handlers/sign_in"),
    ],
}
# What may notice. The tests of the chats run through all of it, take long, and are about something else, but for a
# login as the proof.
TESTS = ["tests/mcp_auth", "tests/gateway", "tests/attacks", "tests/adapters/telegram/test_login.py"]
GOAL = 90
# Of tests, for each change: nearly all of them reach some lines.
AT_MOST = 200
# Of them, those that run before the files of the others are read.
_STEPS = (12, 48)
_FILES_AT_ONCE = 8
PYTEST = ["-o", "addopts=", "--import-mode=importlib", "-q", "-p", "no:cacheprovider", "-n", "0"]
NOT_SERVICES = ["-m", "not service"]
# Slow to import, and no part of the project: imported once, before forking.
WARM = ("pytest", "pytest_asyncio", "hypothesis", "coverage", "httpx2", "jinja2", "mcp", "mcp.client.sse")
WARM += ("mcp.client.stdio", "mcp.client.streamable_http", "mcp.server.lowlevel", "prompt_toolkit", "ruamel.yaml")
WARM += ("starlette.routing", "trustme", "uvicorn", "yaml")
# When changed files say that they were written: a second of its own for each, in this run and in those before it, so
# that Python compiles every one anew.
_TIMES = itertools.count(int(time.time()) - 1_000_000_000)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: `before` at the byte `start` of `path` becomes `after`.

    `at_import`: no function's call runs it. `used` are then the lines that go by it: of the function whose default it
    is, or that name the constant.
    """

    path: str
    function: str
    line: int
    start: int
    before: str
    after: str
    at_import: bool = False
    used: frozenset[int] = frozenset()

    def __str__(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{self.path}:{self.line} {self.function}: {_short(before)}  ->  {_short(after)}"

    def rank(self, seed: int, again: int) -> str:
        text = f"{seed}\0{self.path}\0{self.function}\0{self.before}\0{self.after}\0{again}"
        return hashlib.sha256(text.encode()).hexdigest()

    def applied(self, source: bytes) -> bytes:
        end = self.start + len(self.before.encode())
        if source[self.start : end] != self.before.encode():
            raise AssertionError(f"{self} is not where it was found")
        return source[: self.start] + self.after.encode() + source[end:]


def main() -> int:
    options = _options()
    groups = _chosen(options.what)
    mutants = {group: sample(paths, options.seed, options.sample) for group, paths in groups.items()}
    if options.list:
        for group, chosen in mutants.items():
            print(f"{group}: {len(chosen)}")
            for mutant in sorted(chosen, key=_by_place):
                print(f"  {mutant}")
        return 0
    # A run that is ended takes along what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for name in WARM:
        __import__(name)
    began, shares = time.monotonic(), {}
    copy_project()
    reached = tests_by_line(ends=began + 60 * options.minutes)
    results: list[dict[str, Any]] = []
    for place, (group, chosen) in enumerate(mutants.items()):
        survivors, tried = [], 0
        now = time.monotonic()
        # What a group leaves of its time is for those after it.
        ends = now + max(0.0, began + 60 * options.minutes - now) / (len(mutants) - place)
        for mutant in chosen:
            if time.monotonic() > ends:
                break
            tried += 1
            by = noticed_by(mutant, reached)
            results.append({"group": group, "mutant": str(mutant), "noticed_by": by})
            if by is None:
                survivors.append(mutant)
            if options.verbose:
                print(f"  {tried}/{len(chosen)} {mutant}  [{by or 'SURVIVED'}]", flush=True)
        shares[group] = 100 * (tried - len(survivors)) / max(1, tried)
        print(f"{group}: {tried - len(survivors)} of {tried} noticed ({shares[group]:.0f} %)", flush=True)
        if tried < len(chosen):
            print(f"  not tried: {len(chosen) - tried}. Next: scripts/mutate {group} --minutes N", flush=True)
        for mutant in sorted(survivors, key=_by_place):
            why = "" if reached.of(mutant) else "  (no test gets there)"
            print(f"  not noticed: {mutant}{why}", flush=True)
    (CACHE / "last.json").write_text(json.dumps(results, indent=1))
    print(f"seed {options.seed}, {len(results)} changes, {time.monotonic() - began:.0f} s; goal {GOAL} % in each group")
    return 0 if all(share >= GOAL for share in shares.values()) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("what", nargs="*", help=f"groups ({', '.join(GROUPS)}) or files; default: every group")
    parser.add_argument("--sample", type=int, default=40, help="changes in each group; 0: all of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=45, help="begins no change after these; default: %(default)s")
    parser.add_argument("--list", action="store_true", help="print the changes and try none")
    parser.add_argument("--verbose", action="store_true", help="print what noticed each change")
    return parser.parse_args()


def _chosen(what: list[str]) -> dict[str, list[str]]:
    chosen = {}
    for name in what or GROUPS:
        paths = [_path(module) for module in GROUPS[name]] if name in GROUPS else [name]
        missing = [path for path in paths if not (ROOT / path).is_file()]
        if missing:
            sys.exit(f"There is no {' and no '.join(missing)}. Next: name a file, or one of {', '.join(GROUPS)}.")
        chosen[name] = paths
    return chosen


def _path(module: str) -> str:
    return f"{module}.py" if module.startswith("gateway/") else f"mcp_auth/{module}.py"


def sample(paths: list[str], seed: int, amount: int) -> list[Mutant]:
    """The first `amount` changes of these files in the order of `seed`. However few of them are tried are a sample."""
    ranked: list[tuple[str, Mutant]] = []
    for path in paths:
        seen: dict[str, int] = {}
        for mutant in mutants_of(path, (ROOT / path).read_text()):
            plain = mutant.rank(seed, 0)
            again = seen[plain] = seen.get(plain, -1) + 1
            ranked.append((mutant.rank(seed, again), mutant))
    ranked.sort(key=lambda pair: pair[0])
    chosen = [mutant for _, mutant in ranked]
    return chosen[:amount] if amount else chosen


def _by_place(mutant: Mutant) -> tuple[str, int]:
    return mutant.path, mutant.start


# --- what is changed


_OPPOSITE: dict[type[ast.AST], str] = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
}
_SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any"}
# Words for people and for logs: other tests read those.
_WORDS = frozenset({"next_step", "description", "help"})


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Every change of one file, from top to bottom."""
    return list(dict.fromkeys(_Finder(path, source).found()))


class _Finder:
    def __init__(self, path: str, source: str) -> None:
        self._path = path
        self._source = source.encode()
        self._tree = ast.parse(source)
        self._lines = [0]
        for line in self._source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._depth = 0
        self._used: frozenset[int] = frozenset()
        self._named: dict[str, set[int]] = {}
        for one in ast.walk(self._tree):
            if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load):
                self._named.setdefault(one.id, set()).add(one.lineno)
            elif isinstance(one, ast.Attribute):
                self._named.setdefault(one.attr, set()).add(one.lineno)

    def found(self) -> Iterator[Mutant]:
        yield from self._in_body(self._tree.body, "module")

    def _in_body(self, body: list[ast.stmt], function: str) -> Iterator[Mutant]:
        for statement in body:
            yield from self._in_statement(statement, function)

    def _in_statement(self, node: ast.stmt, function: str) -> Iterator[Mutant]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from self._in_definition(node, function)
            return
        if self._depth == 0:
            self._used = self._lines_naming(node)
        if isinstance(node, ast.If | ast.While) and _is_not_for_running(node):
            return
        if isinstance(node, ast.Expr) and (isinstance(node.value, ast.Constant) or _is_log(node.value)):
            return
        yield from self._of_statement(node, function)
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "targets", "target", "names", "type", "optional_vars"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.stmt):
                    yield from self._in_statement(child, function)
                elif isinstance(child, ast.ExceptHandler):
                    if not isinstance(child.body[0], ast.Raise):
                        yield self._change(child.body[0], child.body[-1], "raise", function)
                    yield from self._in_body(child.body, function)
                elif isinstance(child, ast.withitem):
                    yield from self._in_expression(child.context_expr, function)
                elif isinstance(child, ast.match_case):
                    yield from self._in_body(child.body, function)
                elif isinstance(child, ast.expr) and not (isinstance(node, ast.Raise) and field == "cause"):
                    yield from self._in_expression(child, function)

    def _in_definition(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, function: str
    ) -> Iterator[Mutant]:
        inside = node.name if function == "module" else f"{function}.{node.name}"
        if isinstance(node, ast.ClassDef):
            if not any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases):
                yield from self._in_body(node.body, inside)
            return
        if self._depth == 0:
            self._used = frozenset(range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1))
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                yield from self._in_expression(default, inside)
        self._depth += 1
        yield from self._in_body(node.body, inside)
        self._depth -= 1

    def _lines_naming(self, node: ast.stmt) -> frozenset[int]:
        """The lines of this module that name what `node` gives a value to."""
        names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
        return frozenset(line for name in names for line in self._named.get(name, ()))

    def _of_statement(self, node: ast.stmt, function: str) -> Iterator[Mutant]:
        match node:
            case ast.Return(value=ast.expr() as value) if not _is_none(value):
                yield self._change(value, value, "None", function)
            case ast.Raise(exc=ast.expr()) | ast.Expr(value=ast.Call() | ast.Await()) | ast.Delete():
                yield self._change(node, node, "pass", function)
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.AugAssign():
                yield self._change(node, node, "pass", function)
            case ast.Continue():
                yield self._change(node, node, "break", function)
            case ast.Break():
                yield self._change(node, node, "continue", function)
            case ast.If() | ast.While():
                yield self._change(node.test, node.test, "False", function)
                if isinstance(node, ast.If):
                    yield self._change(node.test, node.test, "True", function)

    def _in_expression(self, node: ast.expr, function: str) -> Iterator[Mutant]:
        if isinstance(node, ast.JoinedStr | ast.Lambda) or _is_log(node) or _is_type(node):
            if isinstance(node, ast.Lambda):
                yield from self._in_expression(node.body, function)
            return
        yield from self._of_expression(node, function)
        for field, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.expr) and not (field == "values" and _is_plain_text(child)):
                    yield from self._in_expression(child, function)
                elif isinstance(child, ast.keyword):
                    if child.arg not in _WORDS:
                        yield from self._in_expression(child.value, function)
                elif isinstance(child, ast.comprehension):
                    yield from self._in_expression(child.iter, function)
                    for condition in child.ifs:
                        yield self._change(condition, condition, "True", function)
                        yield from self._in_expression(condition, function)

    def _of_expression(self, node: ast.expr, function: str) -> Iterator[Mutant]:
        match node:
            case ast.Compare():
                for left, operator, right in zip(
                    [node.left, *node.comparators], node.ops, node.comparators, strict=False
                ):
                    yield self._between(left, right, _OPPOSITE[type(operator)], function)
            case ast.BinOp() if type(node.op) in _OPPOSITE and not _is_plain_text(node.left):
                yield self._between(node.left, node.right, _OPPOSITE[type(node.op)], function)
            case ast.BoolOp():
                other = "or" if isinstance(node.op, ast.And) else "and"
                for left, right in zip(node.values, node.values[1:], strict=False):
                    yield self._between(left, right, other, function)
                neutral = "True" if isinstance(node.op, ast.And) else "False"
                for value in node.values:
                    # `or ""` tells the type checker what is known already.
                    if not _is_empty(value):
                        yield self._change(value, value, neutral, function)
            case ast.UnaryOp(op=ast.Not()):
                yield self._change(node, node, f"bool({self._text(node.operand, node.operand)})", function)
            case ast.IfExp():
                yield self._change(node.test, node.test, "True", function)
                yield self._change(node.test, node.test, "False", function)
            case ast.Constant(value=bool() as value):
                yield self._change(node, node, str(not value), function)
            case ast.Constant(value=int() as value):
                yield self._change(node, node, str(value + 1), function)
            case ast.Constant(value=float() as value):
                # Seconds, nearly always: one more of a minute is nothing that anybody could notice.
                yield self._change(node, node, str(value * 2 or 1.0), function)
            case ast.Constant(value=str() as value) if value and " " not in value and value.isprintable():
                yield self._change(node, node, repr(f"XX{value}"), function)
            case ast.Call(func=ast.Name(id=name)) if name in _SWAPPED:
                yield self._change(node.func, node.func, _SWAPPED[name], function)
            case ast.Call(keywords=keywords):
                for keyword in keywords:
                    if keyword.arg is not None and keyword.arg not in _WORDS:
                        yield from self._without(keyword, function)

    def _without(self, keyword: ast.keyword, function: str) -> Iterator[Mutant]:
        """The call without one of its keywords, and the comma behind it."""
        start, end = self._start(keyword), self._end(keyword)
        rest = self._source[end : end + 200].decode(errors="ignore")
        comma = len(rest) - len(rest.lstrip())
        if rest[comma : comma + 1] == ",":
            end += comma + 1
        before = self._source[start:end].decode()
        yield self._mutant(function, keyword.lineno, start, before, "")

    def _between(self, left: ast.expr, right: ast.expr, operator: str, function: str) -> Mutant:
        """The operator between two operands. Brackets around these are between them, too: they stay."""
        start, end = self._end(left), self._start(right)
        gap = self._source[start:end].decode()
        lines = [line.partition("#")[0] for line in gap.split("\n")]
        inner = "\n".join(lines).strip().lstrip(")").rstrip("(").strip()
        at = gap.index(inner)
        line = left.end_lineno or left.lineno
        line += gap[:at].count("\n")
        return self._mutant(function, line, start + len(gap[:at].encode()), inner, operator)

    def _change(self, first: ast.stmt | ast.expr, last: ast.stmt | ast.expr, after: str, function: str) -> Mutant:
        return self._mutant(function, first.lineno, self._start(first), self._text(first, last), after)

    def _mutant(self, function: str, line: int, start: int, before: str, after: str) -> Mutant:
        at_import = self._depth == 0
        used = self._used if at_import else frozenset[int]()
        return Mutant(self._path, function, line, start, before, after, at_import=at_import, used=used)

    def _text(self, first: ast.AST, last: ast.AST) -> str:
        return self._source[self._start(first) : self._end(last)].decode()

    def _start(self, node: Any) -> int:
        return self._lines[node.lineno - 1] + int(node.col_offset)

    def _end(self, node: Any) -> int:
        return self._lines[node.end_lineno - 1] + int(node.end_col_offset)


def _is_not_for_running(node: ast.If | ast.While) -> bool:
    """For the type checker: `if TYPE_CHECKING`, and what only raises an AssertionError or a TypeError."""
    if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    match node.body:
        case [ast.Raise(exc=ast.Call(func=ast.Name(id="AssertionError" | "TypeError")))]:
            return True
    return False


def _is_log(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="logger" | "_log"))):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Name(id="logging"), attr="getLogger")):
            return True
    return False


def _is_type(node: ast.expr) -> bool:
    """`Literal["a"]`, `TypeVar("T")` and such: nothing that a test could notice."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "TypeVar":
        return True
    return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in ("Literal", "cast")


def _is_empty(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=value):
            return not value
        case ast.List(elts=[]) | ast.Tuple(elts=[]) | ast.Dict(keys=[]):
            return True
    return False


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_plain_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _short(text: str) -> str:
    if not text:
        return "(nothing)"
    return text if len(text) <= 70 else f"{text[:45]} ... {text[-20:]}"


# --- which tests reach it


@dataclass(frozen=True, slots=True)
class Reached:
    """`lines`: path -> line -> tests. `seconds`: how long each test took. `breadth`: how many lines it reaches."""

    lines: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]
    breadth: Counter[str]

    def of(self, mutant: Mutant) -> list[str]:
        """The tests that reach a change: those of its own module, then the narrowest of every file in turn.

        What runs at the import is reached by whoever runs anything of the module; those that use it come first.
        """
        lines = self.lines.get(mutant.path, {})
        if not mutant.at_import:
            return self._ranked(mutant, set(lines.get(mutant.line, [])))
        using = {test for line in mutant.used for test in lines.get(line, [])}
        others = {test for of_line in lines.values() for test in of_line} - using
        return self._ranked(mutant, using) + self._ranked(mutant, others)

    def _ranked(self, mutant: Mutant, tests: set[str]) -> list[str]:
        own = f"/test_{Path(mutant.path).name}"
        turns: Counter[str] = Counter()
        ranked = []
        for test in sorted(tests, key=lambda test: (self.breadth[test], test)):
            file = _file_of(test)
            turns[file] += 1
            ranked.append((0 if file.endswith(own) else turns[file], self.breadth[test], test))
        return [test for _, _, test in sorted(ranked)]


def copy_project() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    wanted = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    TREE.mkdir(parents=True, exist_ok=True)
    for old in TREE.rglob("*.py"):
        if str(old.relative_to(TREE)) not in wanted:
            old.unlink()
    for name in wanted:
        target = TREE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)


def tests_by_line(ends: float) -> Reached:
    """From the last run, as far as the code is the same; test files that changed since run anew, until `ends`."""
    tests = {str(path.relative_to(TREE)): path for where in TESTS for path in _test_files(TREE / where)}
    code = [path for folder in ("adapters", "gateway", "mcp_auth", "tests") for path in (TREE / folder).rglob("*.py")]
    others = [path for path in code if str(path.relative_to(TREE)) not in tests and not path.name.startswith("test_")]
    version = _digest([*others, TREE / "pyproject.toml"])
    kept = CACHE / "reached.json"
    document: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    known = document["files"] if document.get("code") == version else {}
    digests = {name: _digest([path]) for name, path in tests.items()}
    files = {name: found for name, found in known.items() if found["digest"] == digests.get(name)}
    missing = sorted(digests.keys() - files.keys())
    if missing:
        print(f"running {len(missing)} test files, to see what each test reaches", flush=True)
    # Kept after every few, so that a run that is stopped goes on there.
    for start in range(0, len(missing), _FILES_AT_ONCE):
        some = missing[start : start + _FILES_AT_ONCE]
        if time.monotonic() > ends:
            sys.exit(
                f"Time is over, {len(missing) - start} of the files have not run. Next: run it again, it goes on there"
            )
        for name, found in _covered(some).items():
            files[name] = {"digest": digests[name], **found}
        kept.write_text(json.dumps({"code": version, "files": files}))
    reached = Reached({}, {}, Counter())
    for one in files.values():
        reached.seconds.update(one["seconds"])
        for test in one["failed"]:
            print(f"  fails without any change, so it notices none: {test}")
        for path, lines in one["lines"].items():
            of_path = reached.lines.setdefault(path, {})
            for line, numbers in lines.items():
                names = [one["tests"][number] for number in numbers]
                of_path.setdefault(int(line), []).extend(names)
                reached.breadth.update(names)
    return reached


def _test_files(where: Path) -> list[Path]:
    return [where] if where.is_file() else list(where.rglob("test_*.py"))


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(TREE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _covered(files: list[str]) -> dict[str, dict[str, Any]]:
    """For each test file: the lines that its tests reach, how long they took, and which failed."""
    found = CACHE / "found.json"
    found.unlink(missing_ok=True)
    code = _in_child(lambda: _run_covered(files, found), timeout=1800, log=CACHE / "covered.log")
    if code not in (0, 1) or not found.exists():
        sys.exit(f"The tests could not be run (exit {code}). Next: see {CACHE / 'covered.log'}")
    whole = json.loads(found.read_text())
    by_file: dict[str, dict[str, Any]] = {
        name: {"tests": [], "lines": {}, "seconds": {}, "failed": []} for name in files
    }
    numbers: dict[str, int] = {}
    for test, seconds in whole["seconds"].items():
        of_test = by_file[_file_of(test)]
        of_test["seconds"][test] = seconds
        numbers[test] = len(of_test["tests"])
        of_test["tests"].append(test)
    for test in whole["failed"]:
        by_file[_file_of(test)]["failed"].append(test)
    for path, lines in whole["lines"].items():
        for line, tests in lines.items():
            for test in tests:
                # What runs at an import has no test, and a test that fails by itself counts for nothing.
                if test in numbers:
                    of_file = by_file[_file_of(test)]["lines"]
                    of_file.setdefault(path, {}).setdefault(line, []).append(numbers[test])
    return by_file


def _file_of(test: str) -> str:
    return test.partition("::")[0]


class _Covering:
    """A pytest plugin: coverage by test, and the seconds of each."""

    def __init__(self, coverage: Any) -> None:
        self._coverage = coverage
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.add(report.nodeid)


def _run_covered(files: list[str], found: Path) -> int:
    import coverage
    import pytest

    measured = coverage.Coverage(
        data_file=None, config_file=False, source=[str(TREE / "mcp_auth"), str(TREE / "gateway")], messages=False
    )
    covering = _Covering(measured)
    measured.start()
    code = pytest.main([*PYTEST, *NOT_SERVICES, *files], plugins=[covering])
    measured.stop()
    data = measured.get_data()
    lines = {str(Path(path).relative_to(TREE)): data.contexts_by_lineno(path) for path in data.measured_files()}
    for test in covering.failed:
        covering.seconds.pop(test, None)
    result = {"lines": lines, "seconds": covering.seconds, "failed": sorted(covering.failed)}
    found.write_text(json.dumps(result))
    return int(code)


# --- whether they notice


class _Only:
    """A pytest plugin: runs these tests in this order, and writes down the first that fails."""

    def __init__(self, tests: list[str], told: Path) -> None:
        self._order = {test: place for place, test in enumerate(tests)}
        self._told = told

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self._order), key=lambda item: self._order[item.nodeid]
        )

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._told.write_text(nodeid)


def noticed_by(mutant: Mutant, reached: Reached) -> str | None:
    """The test that notices this change, or None. It fails twice: once could be anything, on a busy machine."""
    tests = reached.of(mutant)[:AT_MOST]
    path = TREE / mutant.path
    with _written(path, mutant.applied(path.read_bytes())):
        for some in in_steps(tests):
            failed = _fails_twice(some, reached.seconds)
            if failed is not None:
                return failed
    return None


def in_steps(tests: list[str]) -> Iterator[list[str]]:
    """The likeliest first and by themselves: all files are read before the first test runs, and reading takes long."""
    start = 0
    for amount in (*_STEPS, len(tests)):
        if start < len(tests):
            yield tests[start : start + amount]
        start += amount


def _fails_twice(tests: list[str], seconds: dict[str, float]) -> str | None:
    while tests:
        failed = _first_that_fails(tests, seconds)
        if failed is None:
            return None
        if failed not in tests or _first_that_fails([failed], seconds) is not None:
            return failed
        tests = tests[tests.index(failed) + 1 :]
    return None


def _first_that_fails(tests: list[str], seconds: dict[str, float]) -> str | None:
    told, log = CACHE / "told", CACHE / "last.log"
    told.unlink(missing_ok=True)
    longest, all_together = max(seconds[test] for test in tests), sum(seconds[test] for test in tests)
    code = _in_child(lambda: _run_only(tests, told, each=20 + 10 * longest), timeout=60 + 5 * all_together, log=log)
    if code in (0, 5):
        return None
    return told.read_text() if told.exists() else "the import"


def _run_only(tests: list[str], told: Path, each: float) -> int:
    import pytest

    files = list(dict.fromkeys(_file_of(test) for test in tests))
    return int(
        pytest.main([*PYTEST, *NOT_SERVICES, "-x", "-o", f"timeout={each:.0f}", *files], plugins=[_Only(tests, told)])
    )


@contextlib.contextmanager
def _written(path: Path, changed: bytes) -> Iterator[None]:
    """The changed file for a while."""
    before, source, written = path.stat(), path.read_bytes(), next(_TIMES)
    try:
        path.write_bytes(changed)
        os.utime(path, (written, written))
        yield
    finally:
        path.write_bytes(source)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _in_child(work: Callable[[], int], timeout: float, log: Path) -> int:
    """The exit code of `work` in a forked process of its own group; -9 when it took longer."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            for stream in (1, 2):
                os.dup2(output, stream)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.chdir(TREE)
            # Programs that the tests start see the copy as well.
            os.environ["PYTHONPATH"] = str(TREE)
            sys.path[0] = str(TREE)
            code = work()
            sys.stdout.flush()
        finally:
            os._exit(code)
    ends = time.monotonic() + timeout
    try:
        while time.monotonic() < ends:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
    finally:
        _kill_group(child)
    os.waitpid(child, 0)
    return -signal.SIGKILL


def _kill_group(leader: int) -> None:
    # What the tests started and left behind.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
