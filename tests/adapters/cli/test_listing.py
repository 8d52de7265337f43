"""`slash-mcp list` and its live results."""

from __future__ import annotations

import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from adapters.cli.cli import main
from gateway.handlers import listing
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


def test_probe_asks_all_at_once(tmp_path: Path, oauth: OAuthServer, capsys: pytest.CaptureFixture[str]) -> None:
    oauth.knobs.protected = False
    gate = oauth.knobs.mcp_gate = threading.Event()

    def open_once_all_are_there() -> None:
        while oauth.in_flight < 5 and not gate.wait(0.005):
            pass
        gate.set()

    opener = threading.Thread(target=open_once_all_are_there)
    opener.start()
    entries = {f"s{number}": {"url": oauth.url, "headers": {"X": "y"}} for number in range(5)}
    try:
        code, found = listed(write_home(tmp_path, entries), capsys, "--probe")
    finally:
        gate.set()
        opener.join()

    assert {name: server["connection"]["state"] for name, server in found.items()} == dict.fromkeys(entries, "ready")
    assert (code, oauth.most_in_flight) == (0, 5)


def test_the_time_of_a_probe_is_bounded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listing.PROBES_SECONDS == 15
    monkeypatch.setattr(listing, "PROBES_SECONDS", 0.2)
    monkeypatch.setattr(listing, "_FIRST_RESULTS_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        entry = {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/mcp", "headers": {"X": "y"}}
        code, found = listed(write_home(tmp_path, {"silent": entry}), capsys, "--probe")

    assert (code, found["silent"]["connection"]["state"]) == (1, "unreachable")
