from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec

from mcp_auth.outcome import Next, Outcome
from mcp_auth.records import BrowserBinding, KeyForm, SignIn, Visit, decode, encode
from mcp_auth.stores.files import FileStore

ROOT = Path(__file__).parents[2]

# Types of its own for each round, as each is described once; threads that give way as often as they can.
ROUNDS = """
import sys, threading
import msgspec
from mcp_auth.records import decode

sys.setswitchinterval(1e-6)
for _ in range(60):
    members = [("a", "dict[str, list[int] | None] | None"), ("b", "tuple[str, ...] | None", None)]
    inner = msgspec.defstruct("Inner", members, namespace={"__module__": __name__})
    kind = msgspec.defstruct("Kind", [("one", inner), ("two", list[inner])], namespace={"__module__": __name__})
    together = threading.Barrier(3)

    def read():
        together.wait()
        for _ in range(5):
            decode(kind, b'{"one": {"a": {"x": [1]}}, "two": [{"a": null}]}')

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_that_read_the_first_record_of_a_kind_at_once_do_not_end_the_process() -> None:
    """The store is listed in a thread while a callback reads its sign-in on the loop: msgspec's description of a type
    to itself is not made for that (0.22), and the process died of a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", ROUNDS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_browser_binding_is_read_and_written_under_the_name_that_it_always_had() -> None:
    stored = (
        b'{"version":2,"id":"a","server":"notes","owner":"shared","status":"opened",'
        b'"origin":{"principal":"telegram:1"},"created_at":1.0,"expires_at":601.0,"gate":{"tickets":["00"],"opened":"00","browser":"11",'
        b'"kept_in":"storage","visit":{"browser":"Firefox on Linux","at":3.0},"attempts":1}}'
    )
    form = decode(KeyForm, stored)
    assert form.binding == BrowserBinding(
        tickets=("00",),
        opened="00",
        browser="11",
        kept_in="storage",
        visit=Visit(browser="Firefox on Linux", at=3.0),
        attempts=1,
    )
    assert encode(form) == stored


# As the version before wrote how something ended: a sentence, and a command in the words of a chat.
OLD_SIGN_IN = (
    b'{"id":"00000000000000000000000000000000","server":"notes","owner":"shared","status":"refused","origin":'
    b'{"principal":"telegram:1"},"created_at":1000.0,"expires_at":1600.0,"version":3,"ended_at":1100.0,"outcome":'
    b'"Access was denied.","next_step":"/mcp auth notes","server_url":"https://notes.example/mcp","issuer":'
    b'"https://as.example","metadata":{"issuer":"https://as.example","authorization_endpoint":"https://as.example/a",'
    b'"token_endpoint":"https://as.example/t"},"registration":{"client_id":"c","issuer":"https://as.example",'
    b'"source":"dynamic","redirect_uri":"http://127.0.0.1:8765/callback"}}'
)
OLD_FORM = (
    b'{"id":"11111111111111111111111111111111","server":"api","owner":"shared","status":"done","origin":{"principal":'
    b'"telegram:1"},"created_at":1000.0,"expires_at":1600.0,"version":4,"ended_at":1100.0,"outcome":'
    b'"The key for api works and is stored."}'
)


async def test_a_home_of_the_version_before_says_how_things_ended(tmp_path: Path) -> None:
    for folder, record in (("sign-ins", OLD_SIGN_IN), ("key-forms", OLD_FORM)):
        (tmp_path / folder).mkdir(mode=0o700)
        (tmp_path / folder / f"{json.loads(record)['id']}.json").write_bytes(record)

    store = FileStore(tmp_path)
    sign_in, form = await store.sign_ins.get("0" * 32), await store.key_forms.get("1" * 32)
    await store.close()

    assert sign_in is not None and form is not None
    assert sign_in.result == Outcome("refused", "Access was denied.", "notes", "/mcp auth notes")
    assert form.result == Outcome("done", "The key for api works and is stored.")
    # Its next end is written in data alone, and the version before still reads all of it but that
    ended = msgspec.structs.replace(sign_in, end=Outcome("cancelled", "It was cancelled.", next_step=Next("auth", "x")))
    assert decode(SignIn, encode(ended)).result == ended.end
