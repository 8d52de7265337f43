"""Another replica that writes a record a moment before: the step is taken all the same, and once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.gateway import Gateway
from mcp_auth.errors import CodeRejected, StoreError, WrongPerson
from mcp_auth.links.codes import CODE_ATTEMPTS
from mcp_auth.records import SignIn
from tests.attacks.scene import notes
from tests.browser import Browser
from tests.gateway.chat import Chat
from tests.homes import Clock
from tests.public import ANN, BOB, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer

WRONG = "ACDE-FGHJ"


class Rival:
    """Writes every sign-in once more before the next `times` writes but for `skip`, which lose their race by that."""

    def __init__(self, gateway: Gateway) -> None:
        self.skip = 0
        self.times = 0
        self.met = 0
        self._records: Any = gateway.auth.store.sign_ins
        self._put = self._records.put_if
        self._records.put_if = self.put_if

    async def put_if(self, record: SignIn) -> SignIn | None:
        if self.skip > 0:
            self.skip -= 1
        elif self.times > 0:
            self.times -= 1
            self.met += 1
            current = await self._records.get(record.id)
            assert await self._put(current) is not None
        written: SignIn | None = await self._put(record)
        return written


@dataclass
class Scene:
    gateway: Gateway
    browser: Browser
    rival: Rival
    clock: Clock

    async def confirm(self, code: str, who: object = ANN) -> SignIn:
        confirmed = await self.gateway.auth.confirm(code, str(who), private=True)
        assert isinstance(confirmed, SignIn)
        return confirmed

    async def record(self, server: str = "notes") -> SignIn:
        return next(one for one in await self.gateway.auth.store.sign_ins.list() if one.server == server)


@asynccontextmanager
async def scene(folder: Path, oauth: OAuthServer, *, script: bool = True) -> AsyncIterator[Scene]:
    clock = Clock()
    servers = notes(oauth), notes(oauth, "mail")
    async with (
        public_gateway(folder, *servers, clock=clock, **team()) as gateway,
        Browser(script=script) as browser,
    ):
        yield Scene(gateway, browser, Rival(gateway), clock)


async def begin(on: Scene, server: str = "notes") -> Any:
    return await on.browser.open(await link_of(Chat(on.gateway, ANN), server))


async def press_continue(on: Scene, lose: Callable[[], None]) -> None:
    start = await begin(on)
    lose()
    page = await on.browser.press(start)
    assert page.has_code
    assert (await on.confirm(page.code)).status == "confirmed"


async def renew_the_code(on: Scene, lose: Callable[[], None]) -> None:
    page = await on.browser.press(await begin(on))
    on.clock.ahead = 301
    over = await on.browser.open(page.url)
    lose()
    renewed = await on.browser.press(over, "code")
    assert renewed.has_code and renewed.code != page.code
    with pytest.raises(CodeRejected):
        await on.confirm(page.code)
    assert (await on.confirm(renewed.code)).status == "confirmed"


async def send_the_code(on: Scene, lose: Callable[[], None]) -> None:
    page = await on.browser.press(await begin(on))
    lose()
    assert (await on.confirm(page.code)).status == "confirmed"
    record = await on.record()
    assert record.binding is not None and (record.binding.proof, record.binding.code) == ("code", None)
    assert (await on.browser.open(page.url)).next is not None


async def send_a_wrong_code(on: Scene, lose: Callable[[], None]) -> None:
    page = await on.browser.press(await begin(on))
    lose()
    with pytest.raises(CodeRejected, match="4 tries are left"):
        await on.confirm(WRONG)
    record = await on.record()
    assert record.binding is not None and record.binding.attempts == 1
    assert (await on.confirm(page.code)).status == "confirmed"


async def send_the_code_of_another_page(on: Scene, lose: Callable[[], None]) -> None:
    """What it cost here is given back."""
    await on.browser.press(await begin(on))
    other = await on.browser.press(await begin(on, "mail"))
    lose()
    assert (await on.confirm(other.code)).server == "mail"
    record = await on.record()
    assert record.binding is not None and record.binding.attempts == 0


async def send_the_fifth_wrong_code(on: Scene, lose: Callable[[], None]) -> None:
    page = await on.browser.press(await begin(on))
    for _ in range(CODE_ATTEMPTS - 1):
        with pytest.raises(CodeRejected):
            await on.confirm(WRONG)
    lose()
    with pytest.raises(CodeRejected, match="fifth wrong code"):
        await on.confirm(WRONG)
    assert (await on.record()).status == "failed"
    assert (await on.browser.open(page.url)).heading == "notes is not connected"


async def send_somebody_elses_code(on: Scene, lose: Callable[[], None]) -> None:
    page = await on.browser.press(await begin(on))
    lose()
    with pytest.raises(WrongPerson):
        await on.confirm(page.code, BOB)
    assert (await on.record()).status == "failed"


Step = Callable[[Scene, Callable[[], None]], Awaitable[None]]
# Each with how often it writes: counted before it is compared, given back, and then the step itself.
STEPS: list[tuple[Step, int]] = [
    (press_continue, 1),
    (renew_the_code, 1),
    (send_the_code, 2),
    (send_a_wrong_code, 1),
    (send_the_code_of_another_page, 4),
    (send_the_fifth_wrong_code, 2),
    (send_somebody_elses_code, 1),
]


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize(
    ("step", "before"),
    [
        pytest.param(step, before, id=f"{step.__name__} {before + 1}")
        for step, writes in STEPS
        for before in range(writes)
    ],
)
async def test_a_step_that_loses_its_race_is_taken_again(
    tmp_path: Path, oauth: OAuthServer, step: Step, before: int, times: int
) -> None:
    async with scene(tmp_path, oauth) as on:

        def lose() -> None:
            on.rival.skip, on.rival.times = before, times

        await step(on, lose)
        assert on.rival.met == times


@pytest.mark.parametrize("times", [1, 3])
async def test_the_last_page_of_a_browser_without_script_is_asked_for_all_the_same(
    tmp_path: Path, oauth: OAuthServer, times: int
) -> None:
    async with scene(tmp_path, oauth, script=False) as on:
        redirect = await on.browser.authorize(await on.browser.press(await begin(on)))
        on.rival.times = times
        last = await on.browser.open(redirect)
        assert on.rival.met == times
        assert last.has_code and oauth.requests("/token") == []
        on.rival.times = times
        early = await on.browser.press(last, "finish")
        assert early.has_code and oauth.requests("/token") == []
        assert (await on.confirm(last.code)).status == "answered"
        done = await on.browser.press(early, "finish")
        assert done.heading == "notes is connected"
        assert len(oauth.requests("/token")) == 1


async def test_a_last_page_whose_code_is_over_shows_a_new_one(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, oauth, script=False) as on:
        redirect = await on.browser.authorize(await on.browser.press(await begin(on)))
        last = await on.browser.open(redirect)
        on.clock.ahead = 301
        on.rival.times = 2
        again = await on.browser.press(last, "finish")
        assert on.rival.met == 2
        assert again.has_code and again.code != last.code
        with pytest.raises(CodeRejected):
            await on.confirm(last.code)
        await on.confirm(again.code)
        assert (await on.browser.press(again, "finish")).heading == "notes is connected"


async def test_a_record_that_never_rests_is_an_error_and_nothing_is_counted(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, oauth) as on:
        start = await begin(on)
        on.rival.times = 1000
        assert (await on.browser.press(start)).status == 503
        on.rival.times = 0
        page = await on.browser.press(start)
        on.rival.times = 1000
        with pytest.raises(StoreError, match="changes all the time"):
            await on.confirm(page.code)
        on.clock.ahead = 301
        over = await on.browser.open(page.url)
        assert (await on.browser.press(over, "code")).status == 503
        on.rival.times = 0
        assert (await on.confirm((await on.browser.press(over, "code")).code)).status == "confirmed"
