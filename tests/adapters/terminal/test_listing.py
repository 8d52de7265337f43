"""`slash-mcp list` and its live results."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from adapters.terminal import listing
from adapters.terminal.cli import main
from tests.homes import write_home
from tests.servers.oauth import OAuthServer


def listed(home: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    code = main(["--home", str(home), "list", "--json", *more])
    return code, {server["name"]: server for server in json.loads(capsys.readouterr().out)["servers"]}


def test_only_probe_starts_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = tmp_path / "started"
    home = write_home(tmp_path, {"run": {"command": sys.executable, "args": ["-c", f"open({str(started)!r}, 'w')"]}})
    for more in ((), ("run",)):
        assert listed(home, capsys, *more)[1]["run"]["connection"]["state"] == "not_checked"
    assert not started.exists()
    assert listed(home, capsys, "--probe")[1]["run"]["connection"]["state"] == "unreachable"
    assert started.exists()


def test_probe_asks_all_at_once_and_its_time_is_bounded(
    tmp_path: Path, oauth: OAuthServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listing._PROBES_SECONDS == 15
    monkeypatch.setattr(listing, "_PROBES_SECONDS", 1.5)
    oauth.knobs.protected = False
    oauth.knobs.mcp_delay = 0.05
    with socket.create_server(("127.0.0.1", 0)) as silent:
        entries = {f"s{number}": {"url": oauth.url, "headers": {"X": "y"}} for number in range(5)}
        entries["silent"] = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/mcp", "headers": {"X": "y"}}
        started = time.monotonic()
        code, found = listed(write_home(tmp_path, entries), capsys, "--probe")
        assert time.monotonic() - started < 8
    states = {name: server["connection"]["state"] for name, server in found.items()}
    assert states == {**{f"s{number}": "ready" for number in range(5)}, "silent": "unreachable"}
    assert (code, oauth.most_in_flight) == (1, 5)
