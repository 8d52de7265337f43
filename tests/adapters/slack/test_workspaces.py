"""What Slack says no with, as the tree of refusals has it."""

from __future__ import annotations

import pytest
from aiohttp import ClientError
from slack_sdk.errors import SlackApiError

from adapters.refusals import EditWindowClosed, Elsewhere, Later, Misconfigured, Refused, TooLong
from adapters.slack.workspaces import TriggerOver, ViewClosed, refusal_of


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ratelimited", Later),
        ("internal_error", Later),
        ("fatal_error", Later),
        ("service_unavailable", Later),
        ("request_timeout", Later),
        ("503", Later),
        ("message_not_found", EditWindowClosed),
        ("cant_update_message", EditWindowClosed),
        ("edit_window_closed", EditWindowClosed),
        ("channel_not_found", Elsewhere),
        ("not_in_channel", Elsewhere),
        ("is_archived", Elsewhere),
        ("restricted_action", Elsewhere),
        ("restricted_action_read_only_channel", Elsewhere),
        ("restricted_action_thread_locked", Elsewhere),
        ("cannot_dm_bot", Elsewhere),
        ("messages_tab_disabled", Elsewhere),
        ("user_not_found", Elsewhere),
        ("user_disabled", Elsewhere),
        ("user_not_in_channel", Elsewhere),
        ("msg_too_long", TooLong),
        ("msg_blocks_too_long", TooLong),
        ("invalid_auth", Misconfigured),
        ("token_revoked", Misconfigured),
        ("not_authed", Misconfigured),
        ("token_expired", Misconfigured),
        ("no_permission", Misconfigured),
        ("account_inactive", Misconfigured),
        ("missing_scope", Misconfigured),
        ("expired_trigger_id", TriggerOver),
        ("exchanged_trigger_id", TriggerOver),
        ("invalid_trigger_id", TriggerOver),
        ("trigger_expired", TriggerOver),
        ("not_found", ViewClosed),
        ("invalid_blocks", Refused),
    ],
)
def test_every_code_has_its_place_in_the_tree(code: str, kind: type[Refused]) -> None:
    refusal = refusal_of(SlackApiError("canary", {"ok": False, "error": code}))  # type: ignore[no-untyped-call]

    assert type(refusal) is kind
    assert code in str(refusal)
    assert "canary" not in str(refusal)


@pytest.mark.parametrize("error", [ClientError("canary"), TimeoutError(), OSError("canary")], ids=str)
def test_a_lost_network_is_for_later(error: Exception) -> None:
    refusal = refusal_of(error)

    assert type(refusal) is Later
    assert "canary" not in str(refusal)
