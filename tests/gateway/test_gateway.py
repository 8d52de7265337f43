"""The composition root: opening, starting, notices."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import gateway as package
from gateway.gateway import Gateway
from gateway.invocations import LOCAL, ChatRef
from gateway.replies import Notice, Reply, Text
from mcp_auth.config.models import Server
from mcp_auth.errors import ConfigError, StoreError
from mcp_auth.outcome import Next
from tests.gateway.chat import Chat, configure, open_gateway, words
from tests.patience import PATIENCE


async def test_from_config_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mcp_servers:\n  notes: {url: 'http://127.0.0.1:9/mcp', auth: oauth}\n")

    gateway = Gateway.from_config(home=tmp_path)

    assert gateway.names() == ("notes",)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    await gateway.stop()


def test_a_configuration_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("- not\n- a mapping\n")

    with pytest.raises(ConfigError):
        Gateway.from_config(home=tmp_path)


async def test_notices_reach_their_platform_in_order_and_survive_a_failing_adapter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_gateway(configure(tmp_path)) as gateway:
        got: list[str] = []
        all_given, all_got = asyncio.Event(), asyncio.Event()

        async def receive(notice: Notice) -> None:
            text = words(notice.reply)
            if text == "1":
                # The others are there before this one is through.
                await all_given.wait()
            got.append(text)
            if text == "3":
                all_got.set()
            if text == "2":
                raise RuntimeError("canary-secret")

        undo = gateway.subscribe("cli", receive)
        elsewhere = Chat(gateway, LOCAL)
        elsewhere.unsubscribe()
        with caplog.at_level(logging.DEBUG):
            for text in ("1", "2", "3"):
                gateway._emit(Notice(LOCAL, ChatRef("cli"), Reply((Text(text),))))
            gateway._emit(Notice(LOCAL, ChatRef("telegram"), Reply((Text("not ours"),))))
            all_given.set()
            async with asyncio.timeout(PATIENCE):
                await all_got.wait()
        undo()
        after = Chat(gateway, LOCAL)
        gateway._emit(Notice(LOCAL, ChatRef("cli"), Reply((Text("4"),))))
        await after.notice("4")

        assert got == ["1", "2", "3"]
        assert elsewhere.notices == []
        assert "RuntimeError" in caplog.text
        assert "canary-secret" not in caplog.text


async def test_a_stopped_gateway_is_stopped_again_without_harm(tmp_path: Path) -> None:
    gateway = open_gateway(configure(tmp_path, Server(name="a", url="http://127.0.0.1:9/mcp", auth="oauth")))
    await gateway.start()
    await gateway.start()

    await gateway.stop()
    await gateway.stop()


async def test_an_address_that_nobody_can_tell_whose_it_is_is_kept_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(text: str) -> bool:
        raise StoreError("The disk is gone.", next_step=Next("doctor"))

    gateway = open_gateway(configure(tmp_path))
    monkeypatch.setattr(gateway.auth, "claims", fail)
    assert await gateway.claims("http://127.0.0.1:8765/callback?code=c&state=s")
    assert not await gateway.claims("https://news.example.com/today")
    await gateway.stop()


def test_every_public_name_can_be_imported() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError):
        package.nothing  # noqa: B018


def test_importing_the_words_and_the_grammar_is_cheap() -> None:
    """The command line uses them for every listing."""
    program = (
        "import sys, gateway, gateway.grammar, gateway.policy, gateway.people, gateway.replies, gateway.sentences\n"
        "heavy = ('asyncio', 'mcp', 'httpx2', 'starlette', 'filelock', 'pydantic', 'limits')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
