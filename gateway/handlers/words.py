"""What is answered where no command was understood, or not all of it."""

from __future__ import annotations

from gateway import grammar, sentences
from gateway.replies import Button, Reply, Text, say
from gateway.request import Request
from gateway.surfaces import Words


async def suggest(command: grammar.Suggestion, request: Request) -> Reply:
    return _choices(sentences.suggestion(command.commands), command.commands)


async def ask_which(command: grammar.Ambiguous, request: Request) -> Reply:
    return _choices(sentences.ambiguous(command.commands), command.commands)


async def ask_whole_name(command: grammar.WholeNameNeeded, request: Request) -> Reply:
    return say(sentences.whole_name(command.commands), ok=False)


async def ask_argument(command: grammar.ArgumentMissing, request: Request) -> Reply:
    if command.verb == "paste" and not request.may_paste(private=True):
        return say(sentences.PASTE_OFF_TEAM, ok=False)
    return say(sentences.argument_missing(command.verb, command.commands), ok=False)


def _choices(text: Words, commands: tuple[str, ...]) -> Reply:
    buttons = tuple(Button(command, command=command) for command in commands[:4])
    return Reply((Text(text, tone="warning"),), buttons=buttons, ok=False)
