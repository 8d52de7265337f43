from __future__ import annotations

import logging
import re

import pytest

from adapters import log_filters


@pytest.fixture
def library(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> logging.Logger:
    logger = logging.getLogger(f"tests.log_filters.{request.node.name}")
    caplog.set_level(logging.DEBUG, logger.name)
    return logger


def test_what_is_said_at_debug_is_hidden_whoever_turns_it_on_later(
    library: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    log_filters.hide_payloads(library.name)
    log_filters.hide_payloads(library.name)
    library.setLevel(logging.DEBUG)

    library.debug("sent %s", "the-canary", exc_info=ValueError("another-canary"))
    library.info("connected as %s", "the bot")

    assert "canary" not in caplog.text
    assert caplog.messages == [
        "hidden by slash-mcp: what goes over the wire may hold links, keys and tokens",
        "connected as the bot",
    ]
    assert len(library.filters) == 1


def test_a_token_is_masked_and_all_else_stays_as_it_is(
    library: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        log_filters.mask_tokens(re.compile("canary[0-9]+"), library.name)

    library.info("POST %s %d", "https://example.org/canary77/send", 200)
    library.info("GET %s", "https://example.org/")

    assert caplog.messages == ["POST https://example.org/***/send 200", "GET https://example.org/"]
    assert caplog.records[1].args == ("https://example.org/",)
    assert len(library.filters) == 1
