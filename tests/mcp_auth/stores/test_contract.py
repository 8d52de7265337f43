"""What every store promises (`mcp_auth.stores.base`), the same tests over each of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_auth.errors import Busy
from mcp_auth.records import BrowserBinding, Grant, KeyForm, Requester, ServerProfile, SignIn, Stored, grant_key
from mcp_auth.stores.base import Store, answering, news_id
from tests.mcp_auth.stores.backends import (
    URL,
    Backend,
    connection,
    full_grant,
    grant,
    key_form,
    sign_in,
    tokens,
)
from tests.patience import PATIENCE

OWNERS = ("shared", "person:ann", "person:shared", "principal:cli:local", "principal:slack:T024/U01")


async def stored(store: Store, owner: str = "shared", server: str = "notes") -> Grant:
    found = await store.grants.get(owner, server, URL)
    assert found is not None
    return found


def unversioned(record: Grant) -> Grant:
    """As the caller wrote it: without what the store adds."""
    mine = {name: getattr(record, name) for name in Grant.__struct_fields__}
    return Grant(**{**mine, "version": 0})


# -- everything of several servers -----------------------------------------------------------


async def test_what_is_there_of_several_comes_in_their_order_and_each_kind_by_itself(backend: Backend) -> None:
    ELSEWHERE = "https://elsewhere.example/mcp"
    places = [
        ("shared", "nothing", "https://nothing.example/mcp"),
        ("shared", "notes", URL),
        ("person:ann", "notes", URL),
        ("shared", "weather", ELSEWHERE),
        ("shared", "notes", URL),
    ]
    store = backend.open()
    assert await store.get_many(places) == [Stored()] * 5
    assert await store.get_many([]) == []

    # When one after the other is written, by this store or by another one
    for writer in (store, backend.open()):
        for kind in range(4):
            before = await store.get_many(places)
            if kind == 0:
                written = await writer.grants.put_if(before[1].grant or grant())
            elif kind == 1:
                written = await writer.grants.put_if(before[2].grant or grant(owner="person:ann"))
            elif kind == 2:
                slot = await writer.sign_ins.slot("person:ann", "notes")
                written = await writer.sign_ins.put_if(before[2].sign_in or sign_in(slot))
            else:
                known = before[3].connection or ServerProfile(server_url=ELSEWHERE)
                written = await writer.profiles.put_if(known)
            assert written is not None
            # Then it is there, as if it were asked for alone, and the rest is as it was
            found = await store.get_many(places)
            for (owner, server, url), stored in zip(places, found, strict=True):
                assert stored.grant == await store.grants.get(owner, server, url)
                assert stored.sign_in == await store.sign_ins.latest(owner, server)
                assert stored.connection == await store.profiles.get(url)
                assert stored.trouble is None
            changed = [one for one, two in zip(before, found, strict=True) if one != two]
            assert len(changed) == (2 if kind == 0 else 1)

    # And what is deleted is not there
    gone = (await store.get_many(places))[1].grant
    assert gone is not None
    assert await backend.open().grants.delete_if(gone)
    assert [stored.grant is None for stored in await store.get_many(places)] == [True, True, False, True, True]


# -- grants ----------------------------------------------------------------------------------


async def test_nothing_is_stored_at_first(store: Store) -> None:
    assert await store.grants.get("shared", "notes", URL) is None
    assert await store.grants.list() == []
    assert await store.grants.delete_if(grant()) is False


@pytest.mark.parametrize("owner", OWNERS)
async def test_a_grant_comes_back_whole(backend: Backend, owner: str) -> None:
    written = await backend.open().grants.put_if(full_grant(owner))
    assert written is not None and written.version == 1
    found = await stored(backend.open(), owner)
    assert found == written
    assert unversioned(found) == full_grant(owner)


async def test_a_write_counts_only_on_the_version_that_was_read(store: Store) -> None:
    first = await store.grants.put_if(grant(name="1"))
    assert first is not None
    second = await store.grants.put_if(msgspec.structs.replace(first, tokens=tokens("2")))
    assert second is not None and second.version == 2
    # Once more from the first version, and as if nothing were there
    assert await store.grants.put_if(msgspec.structs.replace(first, tokens=tokens("3"))) is None
    assert await store.grants.put_if(grant(name="4")) is None
    assert await stored(store) == second


async def test_a_write_on_a_version_that_never_was_does_not_count(store: Store) -> None:
    assert await store.grants.put_if(grant(version=1)) is None
    assert await store.grants.get("shared", "notes", URL) is None


async def test_a_deletion_counts_only_on_the_version_that_was_read(store: Store) -> None:
    first = await store.grants.put_if(grant())
    assert first is not None
    second = await store.grants.put_if(first)
    assert second is not None
    assert await store.grants.delete_if(first) is False
    assert await stored(store) == second
    assert await store.grants.delete_if(second) is True
    assert await store.grants.get("shared", "notes", URL) is None
    assert await store.grants.delete_if(second) is False
    again = await store.grants.put_if(grant())
    assert again is not None and again.version == 1


async def test_the_caller_s_record_is_left_alone_and_what_is_given_out_is_a_copy(store: Store) -> None:
    mine = grant()
    written = await store.grants.put_if(mine)
    assert written is not None and mine.version == 0
    written.account = "edited"
    found = await stored(store)
    found.account = "edited"
    assert (await stored(store)).account is None


async def test_a_grant_of_another_url_is_returned_as_it_is(store: Store) -> None:
    written = await store.grants.put_if(grant())
    assert await store.grants.get("shared", "notes", "https://elsewhere.example/mcp") == written


async def test_owners_and_servers_never_mix(store: Store) -> None:
    for owner in OWNERS:
        for server in ("notes", "Notes", "notes/2", "ノート", "a b"):
            assert await store.grants.put_if(grant(server, owner, f"{owner} {server}")) is not None
    for owner in OWNERS:
        of_owner = await store.grants.list(owner)
        assert {g.owner for g in of_owner} == {owner} and len(of_owner) == 5
        found = await stored(store, owner, "Notes")
        assert found.tokens is not None and found.tokens.access_token == f"at-{owner} Notes"
    assert len(await store.grants.list()) == len(OWNERS) * 5
    # And what one owner deletes is nobody else's loss
    assert await store.grants.delete_if(await stored(store, "person:ann"))
    assert len(await store.grants.list()) == len(OWNERS) * 5 - 1
    assert len(await store.grants.list("person:ann")) == 4


@pytest.mark.parametrize("owner", ["ann", "", "person:", "person:a b", "principal:", "SHARED", "shared\n", "team:x"])
async def test_a_bare_name_is_no_owner(store: Store, owner: str) -> None:
    with pytest.raises(ValueError, match="an owner is"):
        await store.grants.get(owner, "notes", URL)
    with pytest.raises(ValueError, match="an owner is"):
        await store.grants.put_if(grant(owner=owner))
    with pytest.raises(ValueError, match="an owner is"):
        await store.sign_ins.slot(owner, "notes")


@given(st.lists(st.tuples(st.sampled_from(OWNERS), st.text(max_size=12)), min_size=2, max_size=6, unique=True))
def test_no_two_of_owner_and_server_share_a_key(pairs: list[tuple[str, str]]) -> None:
    keys = {grant_key(owner, server) for owner, server in pairs}
    assert len(keys) == len(pairs)
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)


async def test_of_many_writers_at_once_one_wins(backend: Backend) -> None:
    first = await backend.open().grants.put_if(grant())
    assert first is not None
    stores = [backend.open() for _ in range(4)]
    attempts = [
        stores[i % 4].grants.put_if(msgspec.structs.replace(first, tokens=tokens(f"writer-{i}"))) for i in range(12)
    ]
    winners = [written for written in await asyncio.gather(*attempts) if written is not None]
    assert len(winners) == 1
    assert await stored(backend.open()) == winners[0]


async def test_writers_that_try_again_lose_nothing(backend: Backend) -> None:
    async def count(store: Store, times: int) -> None:
        for _ in range(times):
            while True:
                found = await store.grants.get("shared", "notes", URL) or grant()
                found.refresh_failures += 1
                if await store.grants.put_if(found) is not None:
                    break

    await asyncio.gather(*(count(backend.open(), 4) for _ in range(4)))
    found = await stored(backend.open())
    assert (found.refresh_failures, found.version) == (16, 16)


# -- sign-ins --------------------------------------------------------------------------------


async def test_a_slot_is_stable_and_belongs_to_one_owner_and_server(backend: Backend) -> None:
    store, again = backend.open(), backend.open()
    slots = {(owner, server): await store.sign_ins.slot(owner, server) for owner in OWNERS for server in ("a", "b")}
    assert len(set(slots.values())) == len(slots)
    for (owner, server), slot in slots.items():
        assert re.fullmatch("[0-9a-f]{32}", slot)
        assert await again.sign_ins.slot(owner, server) == slot


async def test_a_sign_in_comes_back_whole_and_steps_on_from_its_version_only(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    slot = await store.sign_ins.slot("shared", "notes")
    assert await store.sign_ins.get(slot) is None
    new = sign_in(slot, resource=URL, scope="read", code_verifier="v" * 43, authorization_url="https://login.example/a")
    first = await store.sign_ins.put_if(new)
    assert first is not None and first.version == 1
    assert await other.sign_ins.get(slot) == first
    claims = [store.sign_ins.put_if(msgspec.structs.replace(first, status="exchanging")) for store in (store, other)]
    claimed = [claim for claim in await asyncio.gather(*claims) if claim is not None]
    assert len(claimed) == 1 and claimed[0].version == 2
    assert await store.sign_ins.put_if(new) is None
    assert await other.sign_ins.get(slot) == claimed[0]
    assert await other.sign_ins.latest("shared", "notes") == claimed[0]
    assert await other.sign_ins.latest("person:ann", "notes") is None


async def test_every_slot_is_listed_ended_ones_too(store: Store) -> None:
    assert await store.sign_ins.list() == []
    for server, status in (("a", "started"), ("b", "done"), ("c", "failed")):
        slot = await store.sign_ins.slot("shared", server)
        assert await store.sign_ins.put_if(sign_in(slot, server, status=status)) is not None
    assert {s.server: s.status for s in await store.sign_ins.list()} == {"a": "started", "b": "done", "c": "failed"}


# -- key forms -------------------------------------------------------------------------------


async def test_key_forms_have_the_slots_of_sign_ins_and_a_space_of_their_own(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    slot = await store.sign_ins.slot("shared", "notes")
    assert await store.key_forms.get(slot) is None
    assert await store.sign_ins.put_if(sign_in(slot)) is not None
    first = await store.key_forms.put_if(key_form(slot))
    assert first is not None and first.version == 1
    assert await other.key_forms.get(slot) == first
    opened = await other.key_forms.put_if(msgspec.structs.replace(first, tries=1))
    assert opened is not None and opened.version == 2
    assert await store.key_forms.put_if(first) is None
    assert await store.key_forms.list() == [opened]
    kept = await store.sign_ins.get(slot)
    assert kept is not None and kept.version == 1


# -- open and due ----------------------------------------------------------------------------


def slots_of(found: Sequence[SignIn]) -> set[str]:
    return {one.server for one in found}


async def test_what_is_open_is_found_by_who_began_it_and_by_the_codes_of_its_page(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    for number, (status, principal) in enumerate(
        [("opened", "telegram:1"), ("opened", "telegram:2"), ("done", "telegram:1"), ("started", "telegram:1")]
    ):
        slot = await store.sign_ins.slot("shared", f"n{number}")
        shown = BrowserBinding(code=f"code{number}", voided=(f"old{number}",)) if status == "opened" else None
        made = sign_in(slot, f"n{number}", status=status, origin=Requester(principal=principal), binding=shown)
        assert await (store, other)[number % 2].sign_ins.put_if(made) is not None
    for each in (store, other, backend.open()):
        assert slots_of(await each.sign_ins.open()) == {"n0", "n1", "n3"}
        assert slots_of(await each.sign_ins.open(principal="telegram:1")) == {"n0", "n3"}
        assert slots_of(await each.sign_ins.open(code="code1")) == slots_of(await each.sign_ins.open(code="old1"))
        assert slots_of(await each.sign_ins.open(code="code1", principal="telegram:1")) == set()
        assert slots_of(await each.sign_ins.open(code="code9")) == set()
    # And what changes is found as it is now, whoever asks
    (first,) = await store.sign_ins.open(code="code0")
    assert await store.sign_ins.put_if(msgspec.structs.replace(first, status="cancelled")) is not None
    for each in (store, other):
        assert slots_of(await each.sign_ins.open(principal="telegram:1")) == {"n3"}
        assert await each.sign_ins.open(code="code0") == []


async def test_what_is_due_is_found_and_nothing_before(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    slot = await store.sign_ins.slot("shared", "notes")
    assert await other.sign_ins.due(2e10) == []
    first = await store.sign_ins.put_if(sign_in(slot))
    assert first is not None
    assert await other.sign_ins.due(first.expires_at - 1) == []
    assert [one.id for one in await other.sign_ins.due(first.expires_at)] == [slot]
    later = await other.sign_ins.put_if(msgspec.structs.replace(first, expires_at=first.expires_at + 100))
    assert later is not None
    assert await store.sign_ins.due(first.expires_at + 99) == []
    assert await other.sign_ins.delete_if(later) is True
    assert await store.sign_ins.due(2e10) == [] and await other.sign_ins.due(2e10) == []


async def test_a_grant_is_due_when_it_is_time_to_refresh_it(store: Store) -> None:
    assert await store.grants.put_if(grant("notes")) is not None
    assert await store.grants.put_if(grant("other", reauthorization="ended")) is not None
    assert await store.grants.put_if(grant("third", tokens=tokens("3", refresh_token=None))) is not None
    assert await store.grants.due(2e9 - 301) == []
    assert [one.server for one in await store.grants.due(2e9 - 300)] == ["notes"]


async def test_changes_are_told_once_and_at_first_everything_may_have_changed(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    slots = [await store.sign_ins.slot("shared", f"n{number}") for number in range(3)]
    assert await store.sign_ins.put_if(sign_in(slots[0])) is not None
    place, keys = await other.sign_ins.changes(None)
    assert keys is None
    assert await other.sign_ins.changes(place) == (place, [])
    for slot in slots[1:]:
        assert await store.sign_ins.put_if(sign_in(slot)) is not None
    later, keys = await other.sign_ins.changes(place)
    assert keys is not None and set(keys) == set(slots[1:])
    assert await other.sign_ins.changes(later) == (later, [])


# -- the outbox ------------------------------------------------------------------------------


def ended(slot: str, **fields: object) -> SignIn:
    told = Requester(principal="telegram:1", chat={"platform": "telegram"})
    return sign_in(slot, status="failed", origin=told, ended_at=1.9e9, **fields)


async def test_an_end_is_written_with_its_news_and_an_end_that_lost_is_not(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    slot = await store.sign_ins.slot("shared", "notes")
    assert await store.sign_ins.put_if(ended(slot, version=7)) is None
    assert await other.outbox.due(2e10) == []
    # Nobody is told where there is no chat, nor by news what a reply tells
    quiet = await store.sign_ins.put_if(sign_in(slot, status="failed", ended_at=1.9e9))
    assert quiet is not None
    with answering("telegram:1"):
        quiet = await store.sign_ins.put_if(ended(slot, version=quiet.version))
    assert quiet is not None and await other.outbox.due(2e10) == []

    stored = await store.sign_ins.put_if(ended(slot, version=quiet.version))
    assert stored is not None
    (row,) = await other.outbox.due(2e10)
    assert (row.about, row.server, row.owner, row.origin) == ("sign_in", "notes", "shared", stored.origin)
    assert row.id == news_id(stored) and row.sign_in is not None and row.sign_in.status == "failed"
    assert await store.outbox.get(row.id) == row


async def test_news_of_a_grant_is_written_with_it(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    told = Requester(principal="telegram:1", chat={"platform": "telegram"})
    first = await store.grants.put_if(grant(origin=told))
    assert first is not None
    row = await store.grants.news_of(first, 1.9e9)
    assert row is not None
    assert await store.grants.put_if(grant(), row) is None and await other.outbox.due(2e10) == []
    assert await store.grants.put_if(first, row) is not None
    assert [one.about for one in await other.outbox.due(2e10)] == ["grant"]


async def test_one_claims_a_row_and_when_its_time_is_over_another(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    assert await store.sign_ins.put_if(ended("0" * 32)) is not None
    (row,) = await store.outbox.due(1.9e9)
    claims = await asyncio.gather(*(each.outbox.claim(row, 1.9e9, 60) for each in (store, other) * 3))
    assert sum(one is not None for one in claims) == 1
    assert await other.outbox.due(1.9e9 + 59) == []
    (again,) = await other.outbox.due(1.9e9 + 60)
    assert await other.outbox.claim(again, 1.9e9 + 59, 60) is None
    last = await other.outbox.claim(again, 1.9e9 + 60, 60)
    assert last is not None and await other.outbox.delete_if(last)
    assert await store.outbox.due(2e10) == []


# -- connections -----------------------------------------------------------------------------


async def test_what_is_known_of_a_server_is_kept_by_its_url(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    assert await store.profiles.get(URL) is None
    known = connection(needs_sign_in=True, fetched_at=1.9e9, refused_scopes=["admin"], challenge_scope="read")
    first = await store.profiles.put_if(known)
    assert first is not None and first.version == 1
    assert await other.profiles.get(URL) == first
    assert await other.profiles.get(f"{URL}/") is None
    second = await other.profiles.put_if(msgspec.structs.replace(first, needs_sign_in=False))
    assert second is not None
    assert await store.profiles.put_if(first) is None
    assert await store.profiles.get(URL) == second


# -- races of all kinds ----------------------------------------------------------------------

Put = Callable[[Store], Awaitable[Grant | SignIn | KeyForm | ServerProfile | None]]


@pytest.mark.parametrize(
    "put",
    [
        pytest.param(lambda store: store.grants.put_if(grant()), id="grant"),
        pytest.param(lambda store: store.sign_ins.put_if(sign_in("0" * 32)), id="sign-in"),
        pytest.param(lambda store: store.key_forms.put_if(key_form("0" * 32)), id="key-form"),
        pytest.param(lambda store: store.profiles.put_if(connection()), id="connection"),
    ],
)
async def test_of_many_that_write_first_one_is_first(backend: Backend, put: Put) -> None:
    written = await asyncio.gather(*(put(backend.open()) for _ in range(8)))
    assert sum(record is not None for record in written) == 1


# -- leases ----------------------------------------------------------------------------------


async def test_a_lease_is_held_by_one_at_a_time(backend: Backend) -> None:
    inside, most, turns = 0, 0, 0

    async def work(store: Store) -> None:
        nonlocal inside, most, turns
        async with store.grants.lease("shared", "notes", ttl=30, wait=PATIENCE):
            inside, turns = inside + 1, turns + 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    shared = backend.open()
    await asyncio.gather(*(work(store) for store in [shared] * 4 + [backend.open() for _ in range(2)]))
    assert (most, turns) == (1, 6)


async def test_who_waits_too_long_for_a_lease_is_told(backend: Backend) -> None:
    async with backend.open().grants.lease("shared", "notes", ttl=30, wait=PATIENCE):
        for store in (backend.open(), backend.open()):
            with pytest.raises(Busy, match="notes") as caught:
                async with store.grants.lease("shared", "notes", ttl=30, wait=0.05):
                    pytest.fail("two hold the lease")
            assert caught.value.next_step == "try again"


async def test_leases_of_other_owners_and_servers_are_free(store: Store) -> None:
    async with store.grants.lease("shared", "notes", ttl=30, wait=PATIENCE):
        for owner, server in (("person:ann", "notes"), ("shared", "other"), ("principal:cli:local", "notes")):
            async with store.grants.lease(owner, server, ttl=30, wait=PATIENCE):
                pass


async def test_a_lease_has_a_name_and_its_holders_are_numbered(backend: Backend) -> None:
    store, fences = backend.open(), []
    for each in (store, backend.open(), store):
        async with each.backend.lease("leader of telegram", ttl=30, wait=PATIENCE) as held:
            fences.append(held.fence)
            assert held.deadline > each.backend.now()
            with pytest.raises(Busy):
                async with store.backend.lease("leader of telegram", ttl=30, wait=0.01):
                    pytest.fail("two hold the lease")
            async with store.backend.lease("leader of slack", ttl=30, wait=PATIENCE):
                pass
    assert fences == sorted(set(fences))


async def test_an_error_and_a_cancellation_give_the_lease_back(backend: Backend) -> None:
    store = backend.open()
    with pytest.raises(ZeroDivisionError):
        async with store.grants.lease("shared", "notes", ttl=30, wait=PATIENCE):
            raise ZeroDivisionError
    held = asyncio.Event()

    async def hold() -> None:
        async with store.grants.lease("shared", "notes", ttl=30, wait=PATIENCE):
            held.set()
            await asyncio.Event().wait()

    holder = asyncio.create_task(hold())
    await held.wait()
    # One who waits gives up without harm
    waiting = asyncio.create_task(hold())
    await asyncio.sleep(0)
    for task in (waiting, holder):
        task.cancel()
    await asyncio.gather(waiting, holder, return_exceptions=True)
    async with backend.open().grants.lease("shared", "notes", ttl=30, wait=PATIENCE):
        pass


async def test_records_can_be_written_under_the_lease_and_beside_it(backend: Backend) -> None:
    store, other = backend.open(), backend.open()
    async with store.grants.lease("shared", "notes", ttl=30, wait=PATIENCE):
        first = await store.grants.put_if(grant())
        assert first is not None
        # The version, not the lease, decides about writes
        second = await asyncio.wait_for(other.grants.put_if(first), PATIENCE)
        assert second is not None
        assert await store.grants.put_if(first) is None
        assert await store.grants.delete_if(second) is True


async def test_a_store_is_closed_more_than_once_without_harm(store: Store) -> None:
    await store.grants.put_if(grant())
    await store.close()
    await store.close()
