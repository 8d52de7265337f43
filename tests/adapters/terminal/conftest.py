from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from adapters.terminal.cli import main
from tests.adapters.terminal.typed import Done, Run


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """One command in this process, its standard input a pipe that ends after `stdin`."""

    def run_command(*arguments: str | Path, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capsys.readouterr())

    return run_command
