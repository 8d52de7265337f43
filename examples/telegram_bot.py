"""A Telegram bot of your own with /mcp in it.

    pip install 'slash-mcp[telegram]'
    slash-mcp init
    TELEGRAM_BOT_TOKEN=... python telegram_bot.py
    # write /mcp to the bot; it answers with a code; then: slash-mcp allow CODE

The agent below reads every text that people write. It never sees a /mcp line, a pasted sign-in address or a key.
"""

from __future__ import annotations

import os

from telegram import Update
from telegram.ext import Application, ContextTypes, MessageHandler, filters

from adapters.telegram import TelegramAdapter
from gateway import Gateway


async def agent(update: Update, context: ContextTypes.DEFAULT_TYPE) -> None:
    """Your own handler: a language model, say."""
    if update.effective_message is not None:
        await update.effective_message.reply_text(f"You said: {update.effective_message.text}")


def main() -> None:
    builder = Application.builder().token(os.environ["TELEGRAM_BOT_TOKEN"])
    application = builder.base_url(os.environ.get("TELEGRAM_BASE_URL", "https://api.telegram.org/bot")).build()
    application.add_handler(MessageHandler(filters.TEXT, agent))

    # /mcp, in three lines:
    gateway = Gateway.from_config()
    adapter = TelegramAdapter(gateway)
    adapter.install(application)

    application.run_polling()


if __name__ == "__main__":
    main()
