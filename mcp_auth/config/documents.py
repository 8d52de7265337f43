"""Reading a configuration file into plain data, within limits, and finding its lines again for an error's text.

YAML comes from libyaml's events and not from PyYAML's loader: that one composes by recursion in C,
where deep nesting ends the process, and it needs about twenty times as long for a large file.
No text made here holds a value of the file.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import yaml

from mcp_auth.errors import ConfigError, TooManyOpenFiles, is_out_of_descriptors
from mcp_auth.outcome import Next
from mcp_auth.redaction import Redacted
from mcp_auth.small_files import FileTooLarge, NotRegularFile, read_small_file

MAX_BYTES = 20_000_000
MAX_DEPTH = 60
_TOO_DEEP = f"the nesting is deeper than {MAX_DEPTH} levels"

KeyPath = tuple[str | int, ...]


class Fault(msgspec.Struct, frozen=True):
    """Something at `path` that cannot be taken as data; there the data holds None or the last of several values."""

    path: KeyPath
    line: int | None
    message: str


class Document(Redacted, msgspec.Struct, frozen=True):
    """One file as plain data: mappings with text keys, lists, text, numbers, booleans, None.

    `locate` tells the line (from 1) of the deepest part of a path that exists.
    """

    __secret__: ClassVar[frozenset[str]] = frozenset({"data"})

    file: Path
    data: dict[str, Any]
    faults: tuple[Fault, ...]
    locate: Callable[[KeyPath], int | None]
    is_json: bool


def read_document(file: Path, wanted: Collection[str]) -> Document:
    """Read `file`: JSON (comments allowed, as VS Code writes them) when it is named `*.json`, else YAML 1.1.

    Of a YAML file only the top level keys in `wanted` are built; the others are None.

    Raises:
        ConfigError: not a readable regular file of at most 20 MB in UTF-8, or no mapping.
    """
    text = _read_text(file)
    with _collector_paused(len(text)):
        if file.suffix in {".json", ".jsonc"}:
            return _json_document(file, text)
        return _yaml_document(file, text, wanted)


@contextmanager
def _collector_paused(size: int) -> Iterator[None]:
    """A large file makes millions of objects and no garbage; the cyclic collector would double the time."""
    if size < 1_000_000 or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _read_text(file: Path) -> str:
    try:
        data, _ = read_small_file(file, MAX_BYTES)
    except FileNotFoundError:
        step = Next("init", around="check the name of the file, or write one with: {}")
        raise ConfigError("there is no such file.", file=str(file), next_step=step) from None
    except (NotRegularFile, FileTooLarge) as error:
        raise ConfigError(f"{error.strerror}.", file=str(file)) from None
    except OSError as error:
        if is_out_of_descriptors(error):
            raise TooManyOpenFiles from None
        raise ConfigError(
            f"the file cannot be read ({error.strerror or 'input/output error'})", file=str(file)
        ) from None
    except ValueError:
        raise ConfigError("the file name contains characters that no file can have") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            "the file is not UTF-8 text", file=str(file), line=data.count(b"\n", 0, error.start) + 1
        ) from None


# YAML: a tree of nodes first, which knows the lines; data for the wanted parts only.


class _Node:
    """`value`: text (scalar), a list of nodes (sequence) or a list of pairs of nodes (mapping)."""

    __slots__ = ("line", "plain", "tag", "value")

    def __init__(self, line: int, tag: str | None, value: Any, plain: bool = False) -> None:
        self.line = line
        self.tag = tag
        self.value = value
        self.plain = plain

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.value, _Pairs)


class _Pairs(list[tuple[_Node, _Node]]):
    """The value of a mapping."""

    @cached_property
    def own(self) -> dict[str, tuple[int, _Node]]:
        """Line and value of each key; of a key that is defined twice, the last."""
        return {
            key.value: (key.line, value) for key, value in self if isinstance(key.value, str) and not _is_merge(key)
        }


def _yaml_document(file: Path, text: str, wanted: Collection[str]) -> Document:
    root = _yaml_tree(file, text)
    if root is None or (root.plain and root.tag is None and _implicit_tag(root.value) == _TAG + "null"):
        return Document(file, {}, (), lambda path: None, is_json=False)
    if not root.is_mapping:
        raise ConfigError("the file must be a mapping of keys to values", file=str(file), line=root.line)
    # Without aliases a file has fewer nodes than characters, so only repeated expansion gets beyond that.
    builder = _Builder(file, budget=len(text) + 1000)
    data = builder.root(root, wanted)
    return Document(file, data, tuple(builder.faults), lambda path: _yaml_line(root, path), is_json=False)


def _yaml_tree(file: Path, text: str) -> _Node | None:
    events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    try:
        return _tree_of(file, events)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise ConfigError(_yaml_problem(error, text, line), file=str(file), line=line) from None
    except yaml.YAMLError:
        raise ConfigError("the file contains characters that YAML does not allow", file=str(file)) from None


def _yaml_problem(error: yaml.MarkedYAMLError, text: str, line: int | None) -> str:
    lines = text.splitlines()
    broken = lines[line - 1] if line and line <= len(lines) else ""
    if "\t" in broken[: len(broken) - len(broken.lstrip())]:
        return "YAML needs spaces here, not a tab"
    if "nesting" in (error.problem or ""):
        # libyaml reads ahead, and since 0.2.6 it meets its own limit before ours.
        return _TOO_DEEP
    # libyaml's own sentences are constant texts, and name no part of the file.
    hint = "; inside {...}, put ${VAR} in quotes" if "${" in broken else ""
    return f"this is not valid YAML: {error.problem}{hint}"


def _tree_of(file: Path, events: Iterator[Any]) -> _Node | None:
    root: _Node | None = None
    anchors: dict[str, _Node] = {}
    # Open collections, each with the key that waits for its value.
    stack: list[list[Any]] = []
    for event in events:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            node = _Node(event.start_mark.line + 1, event.tag, event.value, plain=event.implicit[0])
        elif kind is yaml.AliasEvent:
            found = anchors.get(event.anchor)
            if found is None:
                raise ConfigError("an alias has no anchor above it", file=str(file), line=event.start_mark.line + 1)
            node = found
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            node = _Node(event.start_mark.line + 1, event.tag, _Pairs() if kind is yaml.MappingStartEvent else [])
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            stack.pop()
            continue
        elif kind is yaml.DocumentStartEvent and root is not None:
            raise ConfigError("the file contains several documents", file=str(file), line=event.start_mark.line + 1)
        else:
            continue
        if kind is not yaml.AliasEvent and event.anchor is not None:
            anchors[event.anchor] = node
        if stack:
            _attach(stack[-1], node)
        else:
            root = node
        if kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            stack.append([node.value, None])
            if len(stack) > MAX_DEPTH:
                raise ConfigError(_TOO_DEEP, file=str(file), line=node.line)
    return root


def _attach(place: list[Any], node: _Node) -> None:
    collection, key = place
    if not isinstance(collection, _Pairs):
        collection.append(node)
    elif key is None:
        place[1] = node
    else:
        collection.append((key, node))
        place[1] = None


_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_TEXT = frozenset({_TAG + "str", _TAG + "timestamp", _TAG + "value", _MERGE})
_CONSTRUCTORS: dict[str, Callable[[Any, yaml.ScalarNode], Any]] = {
    _TAG + "null": yaml.constructor.SafeConstructor.construct_yaml_null,
    _TAG + "bool": yaml.constructor.SafeConstructor.construct_yaml_bool,
    _TAG + "int": yaml.constructor.SafeConstructor.construct_yaml_int,
    _TAG + "float": yaml.constructor.SafeConstructor.construct_yaml_float,
}


class _Builder:
    """Nodes to data. Aliases are copied out; `budget` bounds how many nodes that may make."""

    def __init__(self, file: Path, budget: int) -> None:
        self.file = file
        self.budget = budget
        self.faults: list[Fault] = []
        self._constructor = yaml.constructor.SafeConstructor()

    def root(self, node: _Node, wanted: Collection[str]) -> dict[str, Any]:
        return self._mapping(node, (), lambda key: key in wanted)

    def _value(self, node: _Node, path: KeyPath) -> Any:
        self.budget -= 1
        if self.budget < 0:
            raise ConfigError("the aliases of this file expand to too much", file=str(self.file), line=node.line)
        if len(path) > MAX_DEPTH:
            return self._fault(node, path[:4], f"is nested deeper than {MAX_DEPTH} levels, or contains itself")
        if node.is_mapping:
            if node.tag not in (None, "!", _TAG + "map"):
                return self._fault(node, path, "has a YAML tag; tags are not allowed here")
            return self._mapping(node, path)
        if isinstance(node.value, list):
            if node.tag not in (None, "!", _TAG + "seq"):
                return self._fault(node, path, "has a YAML tag; tags are not allowed here")
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: _Node, path: KeyPath, wanted: Callable[[str], bool] | None = None) -> dict[str, Any]:
        own: dict[str, Any] = {}
        lines: dict[str, int] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if _is_merge(key_node):
                merged = {**self._merge(value_node, path), **merged}
                continue
            key = key_node.value
            if not isinstance(key, str):
                self._fault(key_node, path, "has a key that is not a plain word")
                continue
            if key in own:
                self._fault(key_node, (*path, key), f"is defined twice (lines {lines[key]} and {key_node.line})")
            lines[key] = key_node.line
            own[key] = self._value(value_node, (*path, key)) if wanted is None or wanted(key) else None
        return {**merged, **own}

    def _merge(self, node: _Node, path: KeyPath) -> dict[str, Any]:
        sources = [node] if node.is_mapping else node.value
        if isinstance(sources, str) or not all(source.is_mapping for source in sources):
            self._fault(node, path, "merges (<<) something that is not a mapping")
            return {}
        merged: dict[str, Any] = {}
        for source in sources:
            # One step deeper than the keys belong, so that a mapping that merges itself ends at the depth limit.
            value = self._value(source, (*path, "<<"))
            merged = {**(value or {}), **merged}
        return merged

    def _scalar(self, node: _Node, path: KeyPath) -> Any:
        tag = node.tag
        if tag is None or tag == "!":
            tag = _implicit_tag(node.value) if node.plain and tag is None else _TAG + "str"
        if tag in _TEXT:
            return node.value
        construct = _CONSTRUCTORS.get(tag)
        if construct is None:
            return self._fault(node, path, "has a YAML tag; tags are not allowed here")
        try:
            return construct(self._constructor, yaml.ScalarNode(tag, node.value))
        except (ValueError, KeyError, IndexError):
            return self._fault(node, path, "does not match its YAML tag or form")

    def _fault(self, node: _Node, path: KeyPath, message: str) -> None:
        self.faults.append(Fault(path, node.line, message))


def _is_merge(node: _Node) -> bool:
    return node.value == "<<" and (node.tag == _MERGE or (node.plain and node.tag is None))


def _implicit_tag(value: str) -> str:
    # A date is text here: `MCP-Protocol-Version: 2025-06-18` means what it looks like.
    for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers.get(value[:1], ()):
        if pattern.match(value):
            return str(tag)
    return _TAG + "str"


def _yaml_line(root: _Node, path: KeyPath) -> int | None:
    node, line = root, root.line
    for step in path:
        found = _child(node, step, MAX_DEPTH)
        if found is None:
            break
        line, node = found
    return line


def _child(node: _Node, step: str | int, depth: int) -> tuple[int, _Node] | None:
    if isinstance(step, int):
        if node.is_mapping or isinstance(node.value, str) or step >= len(node.value):
            return None
        return node.value[step].line, node.value[step]
    if not node.is_mapping or depth == 0:
        return None
    if step in node.value.own:
        own: tuple[int, _Node] = node.value.own[step]
        return own
    for key, value in node.value:
        for source in ([value] if value.is_mapping else value.value) if _is_merge(key) else ():
            found = _child(source, step, depth - 1)
            if found is not None:
                return found
    return None


# JSON: the standard library's parser; a line is found by walking the text again.


class _Object(dict[str, Any]):
    """A JSON object that remembers keys that stood there twice."""

    twice: tuple[str, ...] = ()

    @classmethod
    def of(cls, pairs: list[tuple[str, Any]]) -> _Object:
        made = cls(pairs)
        if len(made) != len(pairs):
            keys = sorted(key for key, _ in pairs)
            made.twice = tuple({key for key, following in pairwise(keys) if key == following})
        return made


def _json_document(file: Path, text: str) -> Document:
    if not text.strip():
        return Document(file, {}, (), lambda path: None, is_json=True)
    text, value = _parse_json(file, text)
    if not isinstance(value, dict):
        raise ConfigError("the file must be a JSON object", file=str(file), line=1)

    line = _JsonLines(text)
    faults: list[Fault] = []
    data = _plain(value, (), faults, line)
    return Document(file, data, tuple(faults), line, is_json=True)


def _parse_json(file: Path, text: str) -> tuple[str, Any]:
    """The text that was parsed (comments blanked out when there were any), and its value."""
    import json

    try:
        try:
            return text, json.loads(text, object_pairs_hook=_Object.of)
        except json.JSONDecodeError:
            text = _without_comments(text)
            return text, json.loads(text, object_pairs_hook=_Object.of)
    except json.JSONDecodeError as error:
        raise ConfigError(f"this is not valid JSON: {error.msg}", file=str(file), line=error.lineno) from None
    except ValueError:
        raise ConfigError("a number in this file is too long", file=str(file)) from None
    except RecursionError:
        raise ConfigError(_TOO_DEEP, file=str(file)) from None


_JSON_PART = r'(?s)"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/|,(?=(?:\s|//[^\n]*\n|/\*.*?\*/)*[}\]])'


def _without_comments(text: str) -> str:
    """Comments and trailing commas become blanks, so that lines and columns stay what they were."""
    return re.sub(_JSON_PART, lambda part: part[0] if part[0][0] == '"' else re.sub(r"[^\n]", " ", part[0]), text)


_HALF_PAIR = "[\ud800-\udfff]"


def _plain(value: Any, path: KeyPath, faults: list[Fault], line: Callable[[KeyPath], int | None]) -> Any:
    def fault(message: str) -> None:
        faults.append(Fault(path, line(path), message))

    if len(path) > MAX_DEPTH:
        return fault(f"is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        return (
            fault("contains half a surrogate pair") if not value.isascii() and re.search(_HALF_PAIR, value) else value
        )
    if isinstance(value, list):
        return [_plain(item, (*path, index), faults, line) for index, item in enumerate(value)]
    if not isinstance(value, _Object):
        return value
    for key in value.twice:
        faults.append(Fault((*path, key), line((*path, key)), "is defined twice"))
    return {key: _plain(item, (*path, key), faults, line) for key, item in value.items()}


_BLANK = r"[ \t\n\r]*"


class _JsonLines:
    """Where things stand in a text that is known to be valid JSON."""

    def __init__(self, text: str) -> None:
        import json

        self._text = text
        self._decoder = json.JSONDecoder()
        self._members: dict[int, dict[str | int, tuple[int, int]]] = {}

    def __call__(self, path: KeyPath) -> int | None:
        shown = at = _skip(self._text, 0)
        for step in path:
            if at not in self._members:
                self._members[at] = {step: (begins, value) for step, begins, value in self._walk(at)}
            if step not in self._members[at]:
                break
            shown, at = self._members[at][step]
        from bisect import bisect_left

        return bisect_left(self._line_ends, shown) + 1

    @cached_property
    def _line_ends(self) -> list[int]:
        return [match.start() for match in re.finditer("\n", self._text)]

    def _walk(self, at: int) -> Iterator[tuple[str | int, int, int]]:
        """Key or index of each member of the object or array at `at`, where it begins, and where its value begins."""
        text, decode = self._text, self._decoder.raw_decode
        opening, index, at = text[at], 0, _skip(text, at + 1)
        if opening not in "{[":
            return
        while text[at] not in "}]":
            step: str | int = index
            begins = at
            if opening == "{":
                step, at = decode(text, at)
                at = _skip(text, _skip(text, at) + 1)
            yield step, begins, at
            at = _skip(text, decode(text, at)[1])
            if text[at] == ",":
                at = _skip(text, at + 1)
            index += 1


def _skip(text: str, at: int) -> int:
    match = re.compile(_BLANK).match(text, at)
    return match.end() if match else at
