"""What scripts/mutate changes, and that the same seed draws the same changes."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from scripts import mutate

ROOT = Path(__file__).parents[1]


def changed(source: str) -> set[str]:
    """Every changed form of `source`."""
    return {mutant.applied(source.encode()).decode() for mutant in mutate.mutants_of("x.py", source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a == b", {"a != b"}),
        ("a < b <= c", {"a <= b <= c", "a < b < c"}),
        ("(a) in (b)", {"(a) not in (b)"}),
        ("a and b", {"a or b", "True and b", "a and True"}),
        ("a or b", {"a and b", "False or b", "a or False"}),
        ('a or ""', {'a and ""', 'False or ""'}),
        ("not a", {"bool(a)"}),
        ("f(a, b=1)", {"pass", "f(a, )", "f(a, b=2)"}),
        ("x = 'schlüssel' + y", {"x = 'XXschlüssel' + y"}),
        ("x = a + 1", {"x = a - 1", "x = a + 2"}),
        ("x.y = 7", {"pass", "x.y = 8"}),
        ("x = min(a, b)", {"x = max(a, b)"}),
        ("x = [a for a in b if c]", {"x = [a for a in b if True]"}),
        ("def f(a=1):\n    return a", {"def f(a=2):\n    return a", "def f(a=1):\n    return None"}),
        ("if a:\n    raise B(c)", {"if True:\n    raise B(c)", "if False:\n    raise B(c)", "if a:\n    pass"}),
        ("try:\n    a = b\nexcept C:\n    a = d", {"try:\n    a = b\nexcept C:\n    raise"}),
        # For people, for the log, for the type checker
        ("'''A docstring.'''", set()),
        ("logger.info('x %s', y == 1)", set()),
        ("x = f'{y}'", set()),
        ("x = 'two words'", set()),
        ("x: Literal['a']", set()),
        ("if TYPE_CHECKING:\n    import x", set()),
        ("if a is None:\n    raise AssertionError(b)", set()),
    ],
)
def test_each_change_is_one_that_a_test_could_notice(source: str, expected: set[str]) -> None:
    assert changed(source) == expected


@pytest.mark.parametrize("paths", mutate.GROUPS.values(), ids=mutate.GROUPS)
def test_every_change_of_the_groups_is_valid_python_and_no_two_are_one(paths: list[str]) -> None:
    for path in [mutate._path(name) for name in paths]:
        source = (ROOT / path).read_bytes()
        mutants = mutate.mutants_of(path, source.decode())
        assert mutants, path
        assert len({(one.start, one.before, one.after) for one in mutants}) == len(mutants)
        for mutant in mutants[::17]:
            ast.parse(mutant.applied(source))


def test_the_same_changes_are_drawn_after_the_code_around_them_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    path, text = tmp_path / "x.py", "def f(a, b):\n    return a < b and a != 7\n"
    path.write_text(text)
    first = mutate.sample(["x.py"], seed=1, amount=4)
    path.write_text(f"import os\n\n\n{text}\n\ndef g():\n    pass\n")
    moved = mutate.sample(["x.py"], seed=1, amount=4)
    assert [(one.function, one.before, one.after) for one in first] == [
        (one.function, one.before, one.after) for one in moved
    ]
    assert [one.line + 3 for one in first] == [one.line for one in moved]
    assert mutate.sample(["x.py"], seed=2, amount=4) != moved


def test_a_default_runs_at_the_import_and_a_body_does_not() -> None:
    found = mutate.mutants_of("x.py", "A = 1\n\n\nclass B:\n    c = 2\n\n    def d(self, e=3):\n        return 4\n")
    assert {one.before: one.at_import for one in found} == {"1": True, "2": True, "3": True, "4": False}


def test_of_a_constant_and_a_default_it_is_known_where_they_are_used() -> None:
    found = mutate.mutants_of("x.py", "A = 1\n\n\ndef b(c=2):\n    d = c\n    return d == A\n")
    assert {one.before: set(one.used) for one in found if one.at_import} == {"1": {6}, "2": {5, 6}}
    assert {one.used for one in found if not one.at_import} == {frozenset()}


def test_whoever_uses_what_runs_at_the_import_comes_first() -> None:
    lines = {"x.py": {2: ["t.py::narrow", "t.py::of_it"], 3: ["t.py::of_it"]}}
    reached = mutate.Reached(lines, {}, Counter({"t.py::narrow": 1, "t.py::of_it": 9}))
    mutant = mutate.Mutant("x.py", "module", 1, 0, "1", "2", at_import=True, used=frozenset({3}))
    assert reached.of(mutant) == ["t.py::of_it", "t.py::narrow"]
    assert reached.of(replace(mutant, at_import=False, line=2)) == ["t.py::narrow", "t.py::of_it"]


@pytest.mark.parametrize("amount", [0, 1, 12, 13, 60, 61, 200])
def test_every_test_runs_once_in_order(amount: int) -> None:
    tests = [str(number) for number in range(amount)]
    steps = list(mutate.in_steps(tests))
    assert all(steps)
    assert [test for step in steps for test in step] == tests


@pytest.mark.parametrize("where", mutate.TESTS)
def test_what_may_notice_is_there(where: str) -> None:
    assert mutate._test_files(ROOT / where)
