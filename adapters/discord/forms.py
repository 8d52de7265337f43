"""The forms: an API key, the address of a sign-in's last page, the code of a page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import discord

from adapters.discord.render import MODAL_DESCRIPTION_MAX, MODAL_LABEL_MAX, MODAL_TITLE_MAX
from adapters.text import clean
from gateway import sentences
from gateway.replies import SecretPrompt

Submit = Callable[[discord.Interaction, str], Awaitable[None]]
# A prompt and a sign-in live for ten minutes.
_SECONDS = 600.0


class _Form(discord.ui.Modal):
    """One field. What was entered goes to `submit`, and is taken out of the interaction before the host sees that."""

    def __init__(self, title: str, label: str, description: str, style: discord.TextStyle, submit: Submit) -> None:
        super().__init__(title=clean(title, MODAL_TITLE_MAX), timeout=_SECONDS)
        self._field: discord.ui.TextInput[_Form] = discord.ui.TextInput(style=style, custom_id="entered")
        self._submit = submit
        described = clean(description, MODAL_DESCRIPTION_MAX)
        self.add_item(
            discord.ui.Label(text=clean(label, MODAL_LABEL_MAX), description=described, component=self._field)
        )

    async def on_submit(self, interaction: discord.Interaction) -> None:
        entered = self._field.value
        # Before the first await: `on_interaction` of the host application runs after it.
        interaction.data = {"custom_id": self.custom_id, "components": []}
        self.clear_items()
        await self._submit(interaction, entered)


class KeyForm(_Form):
    def __init__(self, prompt: SecretPrompt, submit: Submit) -> None:
        title = sentences.key_modal(prompt.server)
        super().__init__(title, prompt.variable, sentences.KEY_MODAL_NOTE, discord.TextStyle.short, submit)


class TextForm(_Form):
    """For what the command `verb` takes."""

    def __init__(self, verb: str, submit: Submit) -> None:
        style = discord.TextStyle.paragraph if verb == "paste" else discord.TextStyle.short
        super().__init__(*sentences.FORMS[verb], style, submit)
