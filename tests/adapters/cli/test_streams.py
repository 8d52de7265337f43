"""Closed streams, readers that leave and a full disk, for every command: no traceback, one sentence, the right end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from adapters.cli.cli import _COMMANDS, main
from tests.homes import write_home
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer

ROOT = Path(__file__).parents[3]
FULL = "slash-mcp: The output cannot be written (No space left on device). Next: slash-mcp doctor\n"

# What each command is called with here. Whole programs are left to the tests beside this.
LINES = {
    "list": "list",
    "auth": "auth notes --no-wait",
    "paste": "paste https://x.example/?code=a&state=b",
    "key": "key weather --stdin",
    "cancel": "cancel",
    "logout": "logout notes",
    "test": "test notes",
    "chat": "chat",
    "people": "people",
    "allow": "allow telegram:1",
    "deny": "deny telegram:2",
    "audit": "audit",
    "help": "help",
    "doctor": "doctor",
    "init": "init",
    "add": "add notes https://x.example/mcp",
}
# No command, but said by the same program.
SAID = {"--help": "--help", "--version": "--version", "list --help": "list --help"}
SLIPS = {"nonsense": "nonsense", "key": "key"}


@pytest.fixture
def home(tmp_path: Path, oauth: OAuthServer) -> Path:
    return write_home(
        tmp_path,
        {
            "notes": {"url": oauth.url, "auth": "oauth"},
            "weather": {"url": oauth.url, "headers": {"X-Key": "${WEATHER_KEY}"}},
        },
        {"allow": ["telegram:2"], "admins": ["telegram:2"]},
    )


@contextmanager
def full_disk() -> Iterator[IO[str]]:
    with open("/dev/full", "w") as stream:  # noqa: PTH123 - a device
        try:
            yield stream
        finally:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def pipe_without_reader() -> Iterator[IO[str]]:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        try:
            yield stream
        finally:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def ended(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def test_every_command_is_looked_at() -> None:
    assert set(LINES) == set(_COMMANDS) - {"serve", "demo"}


@pytest.mark.parametrize("line", [*LINES.values(), *SAID.values()])
def test_output_to_a_full_disk_fails_with_one_sentence(
    home: Path, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = _code(home, line, monkeypatch), capsys.readouterr().out
    _code(home, "cancel", monkeypatch)
    capsys.readouterr()
    with full_disk() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        code = _code(home, line, monkeypatch)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if quiet[1]:
        assert (code, said.endswith(FULL)) == (1, True)
    else:
        assert code == quiet[0]


@pytest.mark.parametrize("line", [*LINES.values(), *SAID.values()])
def test_a_reader_that_left_is_no_failure(
    home: Path, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said_something = bool((_code(home, line, monkeypatch), capsys.readouterr().out)[1])
    _code(home, "cancel", monkeypatch)
    capsys.readouterr()
    with pipe_without_reader() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        code = _code(home, line, monkeypatch)
    said = capsys.readouterr().err
    assert "Traceback" not in said and "cannot be written" not in said
    if said_something:
        assert code == 0


@pytest.mark.parametrize("broken", [full_disk, pipe_without_reader])
@pytest.mark.parametrize("line", [*LINES.values(), *SLIPS.values()])
def test_who_cannot_be_told_of_a_failure_gets_its_exit_code(
    home: Path,
    line: str,
    broken: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = _code(home, line, monkeypatch)
    _code(home, "cancel", monkeypatch)
    _code(home, "deny telegram:1", monkeypatch)
    with broken() as stream:  # type: ignore[operator]
        monkeypatch.setattr(sys, "stderr", stream)
        assert _code(home, line, monkeypatch) == usual


@pytest.mark.parametrize("line", ["paste -", "paste", "key weather --stdin", "chat"])
@pytest.mark.parametrize("place", ["/", "/dev/zero", "/dev/null"])
def test_standard_input_that_is_none_ends(
    home: Path, line: str, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        os.fdopen(os.open(place, os.O_RDONLY), closefd=True, errors="replace") if place != "/" else _folder() as stream
    ):
        monkeypatch.setattr(sys, "stdin", stream)
        code = ended(["--home", str(home), *line.split()])
    said = capsys.readouterr()
    assert code in (0, 1)
    assert "The output" not in said.err and "Traceback" not in said.err


@contextmanager
def _folder() -> Iterator[IO[str]]:
    """Standard input as a shell gives it for `< /`: a descriptor that cannot be read."""
    import io

    class Raw(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _: object) -> int:
            raise IsADirectoryError(21, "Is a directory")

        def isatty(self) -> bool:
            return False

    yield io.TextIOWrapper(io.BufferedReader(Raw()))


def _code(home: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    with open(os.devnull) as nothing:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", nothing)
        return ended([*(() if line in SAID else ("--home", str(home))), *line.split()])


@pytest.mark.service
@pytest.mark.parametrize(
    "redirected", [">/dev/full", ">&-", "2>&-", "<&-", "<&- >&- 2>&-", "2>/dev/full", "</", "| true"]
)
@pytest.mark.parametrize("line", ["--help", "list", "auth notes --no-wait", "test notes", "nonsense", "doctor", "chat"])
def test_as_a_shell_has_it(home: Path, line: str, redirected: str) -> None:
    command = f'"$0" -m adapters.cli --home "$1" {line} {redirected}'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, sys.executable, str(home)],
        cwd=ROOT,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode in (0, 1, 2), (done.returncode, done.stderr)
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    if redirected == ">/dev/full" and line not in ("nonsense", "test notes", "chat"):
        assert (done.returncode, done.stderr.decode().endswith(FULL)) == (1, True)


@pytest.mark.service
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("nohup", [False, True])
def test_serve_ends_in_order_by_each_signal(home: Path, number: signal.Signals, nohup: bool) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    command = [sys.executable, "-m", "adapters.cli", "--home", str(home), "serve", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=ignore) as serving:
        assert serving.stderr is not None
        try:
            assert "callback endpoint on" in serving.stderr.readline()
            serving.send_signal(number)
            if nohup and number is signal.SIGHUP:
                # Started so that a closed terminal ends nothing.
                with pytest.raises(subprocess.TimeoutExpired):
                    serving.wait(1)
                serving.send_signal(signal.SIGTERM)
            assert serving.wait(PATIENCE) == 0
            assert "Traceback" not in serving.stderr.read()
        finally:
            serving.kill()
