"""What WhatsApp says no with, as the tree of refusals has it."""

from __future__ import annotations

import httpx
import pytest
from pywa_async.errors import WhatsAppError

from adapters.refusals import Elsewhere, Later, Misconfigured, Refused
from adapters.whatsapp.sending import refusal_of


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (130429, Later),
        (131056, Later),
        (80007, Later),
        (1, Later),
        (2, Later),
        (131000, Later),
        (131016, Later),
        (131057, Later),
        (133004, Later),
        (131026, Elsewhere),
        (131047, Elsewhere),
        (190, Misconfigured),
        (0, Misconfigured),
        (100, Refused),
    ],
)
def test_every_code_has_its_place_in_the_tree(code: int, kind: type[Refused]) -> None:
    error = WhatsAppError.from_dict(error={"code": code, "message": "canary"})

    refusal = refusal_of(error)

    assert type(refusal) is kind
    assert "canary" not in str(refusal)


def test_a_lost_network_is_for_later_and_a_status_without_a_reason_is_none_of_ours() -> None:
    assert type(refusal_of(httpx.ConnectError("canary"))) is Later
    assert type(refusal_of(None)) is Elsewhere
