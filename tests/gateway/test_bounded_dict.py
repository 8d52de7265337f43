from __future__ import annotations

from gateway.bounded_dict import BoundedDict


def test_one_more_than_there_is_room_for_forgets_the_oldest() -> None:
    recent: BoundedDict[str, int] = BoundedDict(2)
    recent["a"] = 1
    recent["b"] = 2
    recent["c"] = 3
    assert list(recent.items()) == [("b", 2), ("c", 3)]


def test_what_is_set_again_counts_as_new() -> None:
    recent: BoundedDict[str, int] = BoundedDict(2)
    recent["a"] = 1
    recent["b"] = 2
    recent["a"] = 3
    recent["c"] = 4
    assert list(recent.items()) == [("a", 3), ("c", 4)]


def test_a_default_is_an_entry_as_any_other() -> None:
    recent: BoundedDict[str, list[int]] = BoundedDict(2)
    for key in ("a", "b", "c"):
        recent.setdefault(key, []).append(1)
    assert list(recent) == ["b", "c"]
