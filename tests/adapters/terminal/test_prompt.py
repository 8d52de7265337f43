"""What is read from standard input, line by line."""

from __future__ import annotations

import io

from adapters.terminal.chat import read_lines


async def test_input_without_end_or_that_cannot_be_read_ends_the_lines() -> None:
    class Broken(io.StringIO):
        def readline(self, *_: object) -> str:
            raise IsADirectoryError(21, "Is a directory")

    assert [line async for line in read_lines(Broken())] == []
    assert [line async for line in read_lines(io.StringIO("a\n" + "x" * 2_000_000))] == ["a\n"]
