"""Questions for keys: who may answer them, how often, how long, and what is left when they are over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from starlette.responses import PlainTextResponse

from gateway import key_prompts, sentences
from gateway.invocations import Principal
from gateway.key_prompts import TRIES, KeyPrompts
from gateway.replies import Reply
from gateway.surfaces import in_chat
from mcp_auth import McpAuth
from mcp_auth.config.models import Server
from mcp_auth.errors import KeyInvalid, NotAllowed, StoreError
from mcp_auth.keys import KeyTrial, KeyVariable, Verdict
from mcp_auth.stores.memory import MemoryStore
from tests.gateway.chat import configure, prompt_of, words
from tests.homes import Clock
from tests.public import ANN, BOB
from tests.servers.oauth import OAuthServer

KEY = "sk-canary-0123456789"
ONE = (KeyVariable(name="MY_API_KEY", where="Authorization", is_set=False),)
TWO = (*ONE, KeyVariable(name="MY_REGION", where="X-Region", is_set=False))


class Asking:
    """The questions of one gateway. `stored`: what it told of."""

    def __init__(self, auth: McpAuth) -> None:
        self.auth = auth
        self.clock = Clock()
        self.stored: list[tuple[Principal, str]] = []
        self.prompts = KeyPrompts(auth, lambda who, server: self.stored.append((who, server)), self.clock)

    def ask(self, variables: tuple[KeyVariable, ...] = ONE, who: Principal = ANN) -> str:
        return prompt_of(self.prompts.ask(who, "my-api", "shared", variables)).id

    async def answer(self, prompt: str, value: str = KEY, who: Principal = ANN) -> Reply:
        return await self.prompts.submit(who, prompt, value)

    def kept(self) -> dict[str, str | None]:
        return dict(dotenv_values(self.auth.config.env_file))


@asynccontextmanager
async def asking(home: Path, oauth: OAuthServer) -> AsyncIterator[Asking]:
    oauth.knobs.api_key = KEY
    headers = {"Authorization": "Bearer ${MY_API_KEY}", "X-Region": "${MY_REGION:-eu}"}
    config = configure(home, Server(name="my-api", url=oauth.url, headers=headers), allow=(str(ANN), str(BOB)))
    async with McpAuth.open(config, store=MemoryStore()) as auth:
        yield Asking(auth)


async def test_a_good_key_is_stored_once_and_told_of(tmp_path: Path, oauth: OAuthServer) -> None:
    async with asking(tmp_path, oauth) as on:
        prompt = on.ask()
        reply = await on.answer(prompt)
        assert (words(reply), reply.ok) == (sentences.key_stored("my-api", verified=True), True)
        assert on.kept() == {"MY_API_KEY": KEY}
        assert on.stored == [(ANN, "my-api")]
        again = await on.answer(prompt, "sk-other")
        assert (words(again), again.ok) == (in_chat(sentences.PROMPT_OVER), False)
        assert not on.prompts.is_open(ANN, prompt)


async def test_only_who_was_asked_may_answer(tmp_path: Path, oauth: OAuthServer) -> None:
    async with asking(tmp_path, oauth) as on:
        prompt = on.ask()
        assert (on.prompts.is_open(ANN, prompt), on.prompts.is_open(BOB, prompt)) == (True, False)
        for _ in range(TRIES + 1):
            foreign = await on.answer(prompt, who=BOB)
            assert (words(foreign), foreign.ok) == (sentences.PROMPT_NOT_YOURS, False)
        assert on.kept() == {}
        assert (await on.answer(prompt)).ok


@pytest.mark.parametrize("value", ["sk-wrong", "", "  "])
async def test_nothing_and_what_is_refused_is_asked_for_again_five_times(
    tmp_path: Path, oauth: OAuthServer, value: str
) -> None:
    async with asking(tmp_path, oauth) as on:
        prompt = on.ask()
        for _ in range(TRIES - 1):
            reply = await on.answer(prompt, value)
            assert not reply.ok and prompt_of(reply).id == prompt
        last = await on.answer(prompt, value)
        assert not last.ok and "Next: /mcp key my-api" in words(last)
        assert words(await on.answer(prompt)) == in_chat(sentences.PROMPT_OVER)
        assert (on.kept(), on.stored) == ({}, [])
        # And one try fewer does not
        prompt = on.ask()
        for _ in range(TRIES - 1):
            await on.answer(prompt, value)
        assert (await on.answer(prompt)).ok


async def test_several_keys_are_asked_for_one_by_one_and_stored_together(tmp_path: Path, oauth: OAuthServer) -> None:
    async with asking(tmp_path, oauth) as on:
        first = on.ask(TWO)
        reply = await on.answer(first)
        second = prompt_of(reply)
        assert (second.variable, second.id != first, on.kept()) == ("MY_REGION", True, {})
        assert words(await on.answer(first)) == in_chat(sentences.PROMPT_OVER)
        # Nothing of it is kept where the last one is missing, or all of it was wrong
        assert prompt_of(await on.answer(second.id, " ")).variable == "MY_API_KEY"
        third = prompt_of(await on.answer(second.id))
        assert (await on.answer(third.id, "us")).ok
        assert on.kept() == {"MY_API_KEY": KEY, "MY_REGION": "us"}


async def test_what_could_not_be_tried_is_stored_on_a_word_of_who_was_asked(tmp_path: Path, oauth: OAuthServer) -> None:
    async with asking(tmp_path, oauth) as on:
        prompt = on.ask()
        oauth.knobs.mcp_answers = [PlainTextResponse("", 503) for _ in range(9)]
        reply = await on.answer(prompt)
        assert not reply.ok and on.kept() == {}
        (button,) = reply.buttons
        verb, _, word = (button.command or "").partition(" ")
        assert verb == "key-store"
        # The question itself takes no answer any more, and an open one no word
        assert words(await on.answer(prompt)) == words(await on.answer(word)) == in_chat(sentences.PROMPT_OVER)
        assert words(await on.prompts.store_anyway(ANN, on.ask())) == in_chat(sentences.PROMPT_OVER)
        assert words(await on.prompts.store_anyway(BOB, word)) == sentences.PROMPT_NOT_YOURS
        assert on.kept() == {}
        on.clock.ahead = 599
        stored = await on.prompts.store_anyway(ANN, word)
        assert (words(stored), stored.ok) == (sentences.key_stored("my-api", verified=False), True)
        assert (on.kept(), on.stored) == ({"MY_API_KEY": KEY}, [(ANN, "my-api")])
        assert words(await on.prompts.store_anyway(ANN, word)) == in_chat(sentences.PROMPT_OVER)


@pytest.mark.parametrize(("later", "over"), [(599, False), (600, True), (601, True)])
async def test_a_question_lives_ten_minutes(tmp_path: Path, oauth: OAuthServer, later: float, over: bool) -> None:
    async with asking(tmp_path, oauth) as on:
        prompt = on.ask()
        on.clock.ahead = later
        assert on.prompts.is_open(ANN, prompt) is not over
        assert (words(await on.answer(prompt)) == in_chat(sentences.PROMPT_OVER)) is over


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict.NO_DIFFERENCE, sentences.key_no_difference("my-api")),
        (Verdict.NOT_TRIED, "my-api: stored. It is a command. Next: /mcp test my-api"),
        (Verdict.ACCEPTED, sentences.key_stored("my-api", verified=True)),
    ],
)
async def test_it_is_said_how_far_a_stored_key_is_known_to_work(
    tmp_path: Path, oauth: OAuthServer, verdict: Verdict, said: str
) -> None:
    async with asking(tmp_path, oauth) as on:

        async def tried(*arguments: Any, **options: Any) -> KeyTrial:
            return KeyTrial(verdict, "It is a command.")

        on.auth.try_keys = tried  # type: ignore[method-assign]
        reply = await on.answer(on.ask())
        assert (words(reply), reply.ok) == (said, True)
        assert on.kept() == {"MY_API_KEY": KEY}


async def test_an_answer_that_comes_twice_is_tried_once(tmp_path: Path, oauth: OAuthServer) -> None:
    async with asking(tmp_path, oauth) as on:
        prompt, tried, go_on = on.ask(), asyncio.Event(), asyncio.Event()

        async def slowly(*arguments: Any, **options: Any) -> KeyTrial:
            tried.set()
            await go_on.wait()
            return KeyTrial(Verdict.REFUSED, "")

        on.auth.try_keys = slowly  # type: ignore[method-assign]
        first = asyncio.create_task(on.answer(prompt))
        await tried.wait()
        second = await on.answer(prompt)
        assert (words(second), second.ok) == (sentences.PROMPT_BUSY, False)
        go_on.set()
        assert prompt_of(await first).id == prompt
        # And then it is open again
        assert prompt_of(await on.answer(prompt)).id == prompt


@pytest.mark.parametrize(
    ("error", "stays"),
    [(KeyInvalid("It holds a line break."), True), (StoreError("The disk is full."), False)],
    ids=lambda value: type(value).__name__,
)
async def test_a_key_that_cannot_be_kept_is_asked_for_again_where_another_one_could(
    tmp_path: Path, oauth: OAuthServer, error: Exception, stays: bool
) -> None:
    async with asking(tmp_path, oauth) as on:

        async def fails(*arguments: Any, **options: Any) -> None:
            raise error

        on.auth.set_keys = fails  # type: ignore[method-assign]
        prompt = on.ask()
        if stays:
            assert "line break" in words(await on.answer(prompt))
        else:
            with pytest.raises(StoreError):
                await on.answer(prompt)
        assert on.prompts.is_open(ANN, prompt) is stays
        assert on.stored == []


async def test_who_may_no_longer_stores_nothing_although_the_question_is_open(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    class Policy:
        async def decide(self, *who: str) -> Any:
            from mcp_auth.links.policy import PolicyDecision

            return PolicyDecision(allowed=False)

    async with asking(tmp_path, oauth) as on:
        prompt = on.ask()
        on.auth.policy = Policy()  # type: ignore[assignment]
        with pytest.raises(NotAllowed):
            await on.answer(prompt)
        assert (on.kept(), on.stored, oauth.seen) == ({}, [], [])


async def test_so_many_questions_are_kept_and_no_more(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_prompts, "_OPEN_AT_MOST", 3)
    async with asking(tmp_path, oauth) as on:
        prompts = [on.ask() for _ in range(6)]
        assert [on.prompts.is_open(ANN, one) for one in prompts] == [False, False, False, True, True, True]
        on.prompts.close()
        assert not any(on.prompts.is_open(ANN, one) for one in prompts)
