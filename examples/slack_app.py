"""A slack-bolt app with an agent in it. The three lines marked `/mcp` are all that is added.

SLACK_BOT_TOKEN=xoxb-... SLACK_APP_TOKEN=xapp-... python examples/slack_app.py
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from slack_bolt.adapter.socket_mode.async_handler import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp

from adapters.slack import SlackAdapter  # /mcp
from gateway import Gateway  # /mcp

app = AsyncApp(token=os.environ["SLACK_BOT_TOKEN"])
SlackAdapter(Gateway.from_config()).install(app)  # /mcp


@app.event("message")
async def agent(event: dict[str, Any], say: Any) -> None:
    """Answers every message. `/mcp`, keys and pasted addresses never come here."""
    await say(f"You said: {event.get('text', '')}")


async def main() -> None:
    handler = AsyncSocketModeHandler(app, os.environ["SLACK_APP_TOKEN"])
    try:
        await handler.start_async()  # type: ignore[no-untyped-call]
    finally:
        await handler.close_async()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    asyncio.run(main())
