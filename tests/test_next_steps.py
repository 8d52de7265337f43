"""Whatever the program tells people to type is a command: read out of the source, each in place of its names."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.cli.cli import _parser
from gateway import grammar
from gateway.commands import parse

ROOT = Path(__file__).parents[1]
# A command ends with its sentence, or where prose goes on.
_TYPED = re.compile(r"(?<![\w/])(?P<program>/mcp|slash-mcp)(?P<rest>(?: [\w'<>\[\]@:./-]+)*)")
# What stands for an argument, and one that fits. A name of the source, in braces, is a server.
_ARGUMENTS = {
    "SERVER": "notes",
    "CODE": "ACDE-FGHJ",
    "ADDRESS": "https://x/?code=1",
    "URL": "https://x/",
    "NAME": "notes",
}
_ARGUMENTS |= {"WHO": "telegram:2", "ID": "telegram:2", "PRINCIPAL": "telegram:2", "PERSON": "ann"}
# The program's name, and no command of it.
_PROSE = {"into", "as", "twice"}


def text_of(node: ast.expr) -> str | None:
    """A string of the source; `{...}` of an f-string reads as a server's name."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "notes" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def steps(tree: ast.AST) -> Iterator[str]:
    """What people are told to do: each `next_step`, what stands after "Next: ", and what stands in backticks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "next_step":
            yield from (text for part in ast.walk(node.value) if isinstance(part, ast.expr) and (text := text_of(part)))
        text = text_of(node) if isinstance(node, ast.expr) else None
        if text is not None and "Next: " in text:
            yield text.partition("Next: ")[2]
        if text is not None and "\n" not in text:
            yield from re.findall(r"`([^`]+)`", text)


def commands() -> dict[str, str]:
    """Each command that people are told to type, and where."""
    found: dict[str, str] = {}
    for package in ("mcp_auth", "gateway", "adapters"):
        for file in sorted((ROOT / package).rglob("*.py")):
            if "demo" in file.parts or file.name == "testing.py":
                continue
            for text in steps(ast.parse(file.read_text(encoding="utf-8"))):
                for match in _TYPED.finditer(text):
                    words = match["rest"].rstrip(".").split()
                    if words and words[0] not in _PROSE:
                        found.setdefault(f"{match['program']} {' '.join(words)}", f"{package}/{file.name}")
    return found


COMMANDS = commands()


def test_many_are_found() -> None:
    assert sum(command.startswith("/mcp ") for command in COMMANDS) > 15
    assert sum(command.startswith("slash-mcp ") for command in COMMANDS) > 10


def _filled(words: list[str]) -> list[str]:
    return [_ARGUMENTS.get(word.strip("[]<>'"), word.strip("[]'")) for word in words]


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("/mcp ")])
def test_a_chat_takes_it(command: str) -> None:
    verb, *rest = _filled(command.split()[1:])
    # Prose may go on behind it.
    read = parse(" ".join([verb, *rest[:1]]), ["notes"])
    alone = parse(verb, ["notes"])
    assert not isinstance(read, grammar.Suggestion) or not isinstance(alone, grammar.Suggestion), COMMANDS[command]


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("slash-mcp ")])
def test_a_shell_takes_it(command: str) -> None:
    words = shlex.split(" ".join(_filled(command.split()[1:])))
    # What follows may be prose, and an argument may be left for people to fill in.
    tries = [words[:amount] for amount in range(len(words), 0, -1)]
    for typed in [*tries, [*words, "notes"], [*words, "notes", "https://x/"]]:
        try:
            _parser().parse_args(typed)
        except SystemExit as end:
            if not end.code:
                return
            continue
        return
    pytest.fail(f"{command} ({COMMANDS[command]})")
