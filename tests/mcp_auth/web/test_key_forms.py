"""What becomes of typed keys when the form is over, when they cannot be stored, and when somebody else was faster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from starlette.responses import PlainTextResponse

from gateway.gateway import Gateway
from mcp_auth.errors import AlreadyFinished, Busy, KeyInvalid, KeyMissing, McpAuthError, SignInError, StoreError
from mcp_auth.keys import KeyTrial, KeyVariable, Verdict
from mcp_auth.outcome import Next
from mcp_auth.records import Requester
from mcp_auth.web.key_forms import TRIES
from tests.attacks.scene import KEY, api
from tests.browser import Browser, Page
from tests.gateway.chat import Chat, words
from tests.homes import Clock
from tests.public import ANN, BOB, key_link_of, public_gateway
from tests.servers.oauth import OAuthServer

VARIABLES = (KeyVariable(name="MY_API_KEY", where="Authorization", is_set=False),)


@asynccontextmanager
async def filled_in(folder: Path, oauth: OAuthServer, **options: Any) -> AsyncIterator[tuple[Gateway, Browser, Page]]:
    """A gateway, a browser, and the page on which the key is typed."""
    async with public_gateway(folder, api(oauth), **options) as gateway, Browser() as browser:
        yield gateway, browser, await browser.press(await browser.open(await key_link_of(Chat(gateway, ANN))))


async def state_of(gateway: Gateway) -> str:
    (form,) = await gateway.auth.store.key_forms.list()
    return form.status


def sent(oauth: OAuthServer, key: str) -> bool:
    return any(key in str(seen.headers) or key.encode() in seen.body for seen in oauth.seen)


@pytest.mark.parametrize("how", ["used", "cancelled", "expired", "failed"])
async def test_what_is_typed_into_a_form_that_is_over_goes_nowhere(
    tmp_path: Path, oauth: OAuthServer, how: str
) -> None:
    clock = Clock()
    async with filled_in(tmp_path, oauth, clock=clock) as (gateway, browser, form):
        match how:
            case "used":
                await browser.press(form, "key", key0=KEY)
            case "cancelled":
                await Chat(gateway, ANN).say("cancel my-api")
            case "expired":
                clock.ahead = 601
            case "failed":
                for _ in range(TRIES):
                    await browser.press(form, "key", key0="sk-wrong")
        before = dotenv_values(gateway.config.env_file)

        page = await browser.press(form, "key", key0="sk-typed-too-late")
        again = await browser.press(form, "key", key0="sk-typed-too-late", untried="yes")

        assert "key0" not in page.fields and "key0" not in again.fields
        # And whoever gets past the pages, in the moment in which it ends
        await gateway.auth.sweep()
        (record,) = await gateway.auth.store.key_forms.list()
        secret = browser.kept(form.url, form.kept or "")
        assert secret is not None and record.status != "confirmed"
        with pytest.raises(AlreadyFinished):
            await gateway.auth.parts.key_forms.fill(record, secret, {"MY_API_KEY": "sk-typed-too-late"}, untried=True)
        assert not sent(oauth, "sk-typed-too-late")
        assert dotenv_values(gateway.config.env_file) == before


async def test_only_who_could_not_be_tried_is_offered_to_be_stored_untried(tmp_path: Path, oauth: OAuthServer) -> None:
    async with filled_in(tmp_path, oauth) as (gateway, browser, form):
        assert "untried" not in form.fields
        page = await browser.press(form, "key", key0="sk-wrong")
        assert "refuses this key" in page.text and "untried" not in page.fields
        # The word that it be stored untried counts for nothing where it was tried
        page = await browser.press(page, "key", key0="sk-wrong", untried="yes")
        assert "refuses this key" in page.text
        oauth.knobs.mcp_answers = [PlainTextResponse("", 503) for _ in range(4)]
        page = await browser.press(page, "key", key0=KEY)
        assert "could not be tried" in page.text and "untried" in page.fields
        assert not gateway.config.env_file.exists()
        assert await state_of(gateway) == "confirmed"


@pytest.mark.parametrize(
    "error",
    [
        StoreError("The disk is full.", next_step="make room"),
        Busy("Another writer holds the file.", next_step="try again"),
        SignInError("Somebody changed the configuration.", next_step="look at it"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_key_that_cannot_be_stored_ends_the_form_and_says_why(
    tmp_path: Path, oauth: OAuthServer, error: McpAuthError
) -> None:
    async with filled_in(tmp_path, oauth) as (gateway, browser, form):
        chat = Chat(gateway, ANN)

        async def fails(*arguments: Any, **options: Any) -> None:
            raise error

        gateway.auth.parts.keys.set = fails  # type: ignore[method-assign]
        page = await browser.press(form, "key", key0=KEY)

        assert page.status >= 400
        assert "is stored" not in page.text
        assert await state_of(gateway) == "failed"
        notice = await chat.notice(error.message)
        assert not notice.reply.ok and str(error.next_step) in words(notice.reply)
        assert error.message in (await browser.open(form.url)).text
        # And a new link works
        del gateway.auth.parts.keys.set  # type: ignore[method-assign]
        form = await browser.press(await browser.open(await key_link_of(chat)))
        assert (await browser.press(form, "key", key0=KEY)).heading == "The key for my-api is stored"


async def test_a_folder_in_the_place_of_the_file_is_no_place_for_a_key(tmp_path: Path, oauth: OAuthServer) -> None:
    async with filled_in(tmp_path, oauth) as (gateway, browser, form):
        gateway.config.env_file.mkdir()
        page = await browser.press(form, "key", key0=KEY)
        assert page.status >= 400 and "is stored" not in page.text
        assert await state_of(gateway) in ("failed", "confirmed")
        assert KEY not in page.source


async def test_a_key_that_no_line_can_hold_is_asked_for_again_and_counted(tmp_path: Path, oauth: OAuthServer) -> None:
    """Found only when it is written, after it was tried."""
    async with filled_in(tmp_path, oauth) as (gateway, browser, form):

        async def fails(*arguments: Any, **options: Any) -> None:
            raise KeyInvalid("The value holds a line break.")

        gateway.auth.parts.keys.set = fails  # type: ignore[method-assign]
        for number in range(1, TRIES):
            form = await browser.press(form, "key", key0=KEY)
            assert (form.status, "line break" in form.text, "key0" in form.fields) == (422, True, True)
            (stored,) = await gateway.auth.store.key_forms.list()
            assert (stored.status, stored.tries) == ("confirmed", number)
        await browser.press(form, "key", key0=KEY)
        assert await state_of(gateway) == "failed"


@pytest.mark.parametrize("verdict", [Verdict.REFUSED, Verdict.ACCEPTED])
async def test_a_form_that_ends_while_its_key_is_tried_shows_its_end(
    tmp_path: Path, oauth: OAuthServer, verdict: Verdict
) -> None:
    async with filled_in(tmp_path, oauth) as (gateway, browser, form):

        async def meanwhile(*arguments: Any, **options: Any) -> KeyTrial:
            assert await gateway.auth.cancel_key_form("my-api") is True
            return KeyTrial(verdict, "")

        gateway.auth.parts.keys.attempt = meanwhile  # type: ignore[method-assign]
        page = await browser.press(form, "key", key0=KEY)
        assert page.heading == "This was cancelled"
        assert not gateway.config.env_file.exists()
        assert await state_of(gateway) == "cancelled"


async def test_cancelling_says_whether_there_was_something_to_cancel(tmp_path: Path, oauth: OAuthServer) -> None:
    clock = Clock()
    async with public_gateway(tmp_path, api(oauth), clock=clock) as gateway, Browser() as browser:
        auth, chat = gateway.auth, Chat(gateway, ANN)
        assert await auth.cancel_key_form("my-api") is False
        await key_link_of(chat)
        assert [await auth.cancel_key_form("my-api") for _ in range(2)] == [True, False]
        form = await browser.press(await browser.open(await key_link_of(chat)))
        clock.ahead = 601
        assert await auth.cancel_key_form("my-api") is False
        await auth.sweep()
        assert await state_of(gateway) == "expired"
        clock.ahead = 0
        form = await browser.press(await browser.open(await key_link_of(chat)))
        tried: list[str] = []

        async def storing(*arguments: Any, **options: Any) -> None:
            for ask in (auth.cancel_key_form("my-api"), key_link_again()):
                with pytest.raises(SignInError, match="being stored right now"):
                    await ask
            tried.append("both")

        async def key_link_again() -> None:
            await auth.key_form("my-api", "shared", Requester(principal=str(ANN)), VARIABLES)

        auth.parts.keys.set = storing  # type: ignore[method-assign]
        assert (await browser.press(form, "key", key0=KEY)).heading == "The key for my-api is stored"
        assert tried == ["both"]
        assert await auth.cancel_key_form("my-api") is False


async def test_an_open_form_is_handed_out_again_to_who_began_it_for_the_same_keys(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    clock = Clock()
    async with public_gateway(tmp_path, api(oauth), clock=clock) as gateway:
        ann = Requester(principal=str(ANN))
        begin = gateway.auth.key_form
        first = await begin("my-api", "shared", ann, VARIABLES)
        clock.ahead = 30
        again = await begin("my-api", "shared", ann, VARIABLES)
        assert (again.form.created_at, again.link != first.link) == (first.form.created_at, True)
        with pytest.raises(SignInError, match="Another account"):
            await gateway.auth.parts.key_forms.begin(api(oauth), "shared", Requester(principal=str(BOB)), VARIABLES)
        other = (KeyVariable(name="OTHER_KEY", where="X-Key", is_set=False),)
        changed = await begin("my-api", "shared", ann, other)
        assert changed.form.created_at > first.form.created_at
        assert [field.name for field in changed.form.fields] == ["OTHER_KEY"]
        assert changed.form.expires_at - changed.form.created_at == pytest.approx(600)


@pytest.mark.parametrize(("lost", "works"), [(1, True), (3, True), (1000, False)])
async def test_a_link_is_made_although_others_write_at_the_same_time(
    tmp_path: Path, oauth: OAuthServer, lost: int, works: bool
) -> None:
    async with public_gateway(tmp_path, api(oauth)) as gateway, Browser() as browser:
        put, left = gateway.auth.store.key_forms.put_if, [lost]

        async def overtaken(form: Any) -> Any:
            left[0] -= 1
            return None if left[0] >= 0 else await put(form)

        gateway.auth.store.key_forms.put_if = overtaken  # type: ignore[method-assign]
        ask = gateway.auth.key_form("my-api", "shared", Requester(principal=str(ANN)), VARIABLES)
        if not works:
            with pytest.raises(StoreError, match="changes all the time"):
                await ask
            return
        assert (await browser.open((await ask).link)).heading == "Enter a key for my-api"


async def test_a_form_ends_at_the_second_that_it_says(tmp_path: Path, oauth: OAuthServer) -> None:
    now = [1_800_000_000.0]
    async with public_gateway(tmp_path, api(oauth), clock=lambda: now[0]) as gateway:
        form = (await gateway.auth.key_form("my-api", "shared", Requester(principal=str(ANN)), VARIABLES)).form
        now[0] = form.expires_at - 0.5
        assert [one.status for one in await gateway.auth.open_key_forms()] == ["started"]
        now[0] = form.expires_at
        assert await gateway.auth.open_key_forms() == []
        await gateway.auth.sweep()
        assert await state_of(gateway) == "expired"


async def test_a_page_asks_for_what_is_missing_in_words_and_names_no_command(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with filled_in(tmp_path, oauth) as (gateway, browser, form):

        async def lacks(*arguments: Any, **options: Any) -> None:
            raise KeyMissing("OTHER has no value.", variables=("OTHER",), next_step=Next("key", "my-api"))

        gateway.auth.parts.keys.attempt = lacks  # type: ignore[method-assign, assignment]
        page = await browser.press(form, "key", key0=KEY)
        assert "OTHER has no value." in page.text and "Next: " not in page.text
        assert "key0" in page.fields
