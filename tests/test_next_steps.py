"""Whatever the program tells people to type is a command."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from adapters.cli.cli import _parser
from gateway import grammar
from gateway.commands import parse
from gateway.surfaces import HOST_ONLY, IN_CHATS, Typed, chat_command, in_chat, in_shell, shell_command
from mcp_auth.outcome import Next, Verb

ROOT = Path(__file__).parents[1]
NAMES = ["notes", "my server", "auth", "a'b", 'a"b', "-x", "$(id)", "/mcp", "ü"]
# What stands for an argument, and one that fits.
ARGUMENTS = {
    "CODE": "ACDE-FGHJ",
    "ADDRESS": "https://x/?code=1",
    "URL": "https://x/",
    "NAME": "notes",
    "SERVER": "notes",
    "DIR": "/tmp",
    "WHO": "telegram:2",
    "PERSON": "ann",
}
LEFT_OUT = {"allow": "ABC", "deny": "telegram:2", "paste": "https://x/?code=1", "confirm": "ABC", "logout": "notes"}
TAKES_SERVER: tuple[Verb, ...] = ("list", "auth", "key", "cancel", "logout", "test")


def source() -> Iterator[tuple[str, ast.Module]]:
    for package in ("mcp_auth", "gateway", "adapters"):
        for file in sorted((ROOT / package).rglob("*.py")):
            if "demo" not in file.parts and file.name != "testing.py":
                yield str(file.relative_to(ROOT)), ast.parse(file.read_text(encoding="utf-8"))


def text_of(node: ast.expr) -> str:
    """A constant of the source; a name, and `{...}` of an f-string, read as a server's name."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "notes" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "notes"


def said_steps() -> dict[str, Next]:
    """Each `Next` that the source makes. A verb that is chosen when it runs is tried with every choice."""
    found: dict[str, Next] = {}
    for file, tree in source():
        for call in ast.walk(tree):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Next"):
                continue
            given = dict(zip(("verb", "server", "arguments"), call.args, strict=False))
            given |= {one.arg: one.value for one in call.keywords if one.arg}
            words = given.get("arguments", ast.Tuple([]))
            arguments = [text_of(one) for one in words.elts] if isinstance(words, ast.Tuple) else []
            for verb in ast.walk(given["verb"]):
                if isinstance(verb, ast.Constant) and verb.value in get_args(Verb):
                    step = Next(
                        verb.value,
                        text_of(given["server"]) if "server" in given else None,
                        tuple(ARGUMENTS.get(one.strip("[]"), one) for one in arguments),
                        on_host="on_host" in given,
                    )
                    found.setdefault(f"{file}: {step}", step)
    return found


STEPS = said_steps()


def test_many_are_found() -> None:
    assert len(STEPS) > 40
    assert {step.verb for step in STEPS.values()} >= {"auth", "key", "test", "paste", "doctor", "list", "add"}


def read_by_shell(typed: str) -> dict[str, object]:
    program, *words = shlex.split(typed)
    assert program == "slash-mcp"
    return vars(_parser().parse_args(words))


@pytest.mark.parametrize("step", [pytest.param(step, id=name) for name, step in STEPS.items()])
def test_a_step_that_is_said_can_be_typed(step: Next) -> None:
    # People fill in what the sentence around it names.
    left_out = {
        "allow": "ABC",
        "deny": "telegram:2",
        "paste": "https://x/?code=1",
        "confirm": "ACDE-FGHJ",
        "logout": "notes",
    }
    missing = () if step.server or step.arguments or step.verb not in left_out else (left_out[step.verb],)
    filled = Next(step.verb, step.server, (*step.arguments, *missing), step.on_host)
    assert read_by_shell(in_shell(filled))
    if step.verb in IN_CHATS and not step.on_host:
        read = parse(in_chat(filled), ["notes"])
        assert not isinstance(read, grammar.Suggestion | grammar.ArgumentMissing), read


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("verb", TAKES_SERVER)
def test_a_server_of_any_name_is_reached_by_what_is_said(verb: Verb, name: str) -> None:
    step = Next(verb, name)
    read = parse(in_chat(step), NAMES)
    assert type(read) is {"list": grammar.Detail}.get(verb, getattr(grammar, verb.capitalize(), None))
    assert (read.servers if isinstance(read, grammar.Auth) else (read.server,)) == (name,)  # type: ignore[union-attr]
    typed = read_by_shell(in_shell(step))
    assert typed["command"] == verb
    assert typed["servers" if verb == "auth" else "server"] == ([name] if verb == "auth" else name)


def test_every_verb_has_a_place_where_it_is_typed() -> None:
    assert set(get_args(Verb)) == IN_CHATS | HOST_ONLY
    for verb in sorted(IN_CHATS):
        assert not isinstance(parse(chat_command(Next(verb)), ["notes"]), grammar.Suggestion), verb
    for verb in sorted(HOST_ONLY):
        assert chat_command(Next(verb)) == shell_command(Next(verb)) == f"slash-mcp {verb}"


def test_words_stand_around_a_command_and_a_program_reads_it_as_data() -> None:
    step = Next("auth", "my notes", around="wait a moment, then {}")
    assert in_chat(step) == 'wait a moment, then /mcp auth "my notes"'
    assert in_shell(step) == "wait a moment, then slash-mcp auth 'my notes'"
    assert str(step) == "wait a moment, then auth my notes"
    assert (in_chat("try again"), in_shell("try again")) == ("try again", "try again")
    on_host = Next("auth", "notes", ("--fresh",), on_host=True)
    assert in_chat(on_host) == in_shell(on_host) == "slash-mcp auth notes --fresh"
    assert chat_command(Next("list"), "/mcp-dev") == "/mcp-dev"
    assert chat_command(Typed("auth notes"), "!mcp") == "!mcp auth notes"


def test_the_library_names_no_command_of_a_surface() -> None:
    """`mcp_auth` knows verbs; `/mcp` and `slash-mcp` are written where they are shown."""
    for file, tree in source():
        if not file.startswith("mcp_auth/") or file == "mcp_auth/start.py":
            continue
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                assert not re.search(r"(?<![\w/~.-])/mcp\b|slash-mcp [a-z]", node.value), (file, node.value)
