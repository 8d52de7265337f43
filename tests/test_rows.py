"""Every duty, defect and pain that the product answers has a test that bears its name, and that runs.

`docs/duties.md` lists them for people.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


# Section by section, a piece of the name of the test that shows the row.
DUTIES = (
    "duty_protected_resource_metadata_is_found_at_header_then_path_then_root",
    "duty_scope_of_the_challenge_is_read_by_the_grammar",
    "www_authenticate_error_scope_is_not_read_as_scope",
    "duty_the_url_in_the_challenge_comes_before_the_well_known_ones",
    "duty_metadata_of_another_resource_is_refused",
    "duty_every_question_names_the_revision_of_the_protocol",
    "duty_server_metadata_is_asked_for_in_the_fixed_order",
    "duty_issuer_must_be_identical_to_the_one_asked_for",
    "duty_of_several_authorization_servers_one_is_chosen_and_kept",
    "duty_registration_and_tokens_are_kept_apart_per_issuer",
    "duty_a_pre_registered_client_does_not_follow_a_changed_issuer",
    "duty_order_a_configured_client_comes_first",
    "duty_order_then_the_metadata_document_where_supported",
    "duty_order_then_dynamic_registration",
    "duty_order_at_last_the_person_is_asked",
    "duty_application_type_is_native_for_a_loopback_redirect",
    "duty_application_type_is_web_for_a_public_redirect",
    "duty_a_refused_or_unusable_registration_has_a_meaningful_message",
    "duty_scope_is_configuration_else_challenge_else_supported_else_omitted",
    "duty_offline_access_only_when_listed",
    "duty_step_up_asks_for_the_union_of_scopes",
    "duty_a_refused_upgrade_is_remembered",
    "duty_issuer_verifier_and_state_are_stored_before_the_link_is_given",
    "duty_iss_is_checked_before_the_code_is_sent",
    "duty_iss_is_compared_without_normalisation",
    "duty_an_error_with_a_foreign_iss_is_neither_shown_nor_acted_on",
    "duty_resource_stands_in_authorization_and_token_requests",
    "duty_resource_stands_in_refresh_requests",
    "duty_resource_can_be_turned_off_per_server",
    "duty_pkce_is_refused_when_not_advertised",
    "duty_the_2025_03_26_fallback_without_pkce_metadata_is_an_explicit_choice",
    "duty_a_legacy_server_without_any_metadata_needs_the_choice_too",
    "duty_pkce_s256_state_and_redirect_stand_in_the_link",
    "duty_the_redirect_uri_is_registered_exactly_as_used",
    "duty_the_redirect_uri_is_https_or_loopback",
    "duty_the_bearer_stands_in_the_header_of_every_request_and_never_in_a_query",
    "duty_a_token_is_not_sent_to_another_server",
    "duty_tokens_are_stored_for_their_owner_alone",
    "duty_a_grant_that_ends_without_a_refresh_token_says_so",
    "duty_https_for_every_oauth_url",
    "duty_ssrf_metadata_may_not_lead_to_private_addresses",
    "duty_ssrf_a_redirect_to_another_origin_is_not_followed",
    "duty_ssrf_a_name_is_resolved_once_and_the_address_that_was_checked_is_connected_to",
    "duty_names_and_texts_of_a_server_are_cleaned",
    "pages_carry_headers_that_keep_them_to_themselves",
    "duty_a_url_that_is_no_web_address_never_becomes_a_link",
    "duty_stdio_servers_take_their_environment_and_no_oauth",
)


@functools.cache
def names() -> set[str]:
    """Every test that is not switched off, from the files that may hold a row."""
    of_a_row = re.compile("|".join((*DUTIES, r"duty_", r"defect_\d", r"pain_\d")))
    texts = [file.read_text(encoding="utf-8") for file in TESTS.rglob("test_*.py")]
    return {
        node.name
        for text in texts
        if of_a_row.search(text)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        if not any("skip" in ast.unparse(mark) or "xfail" in ast.unparse(mark) for mark in node.decorator_list)
    }


@pytest.mark.parametrize("duty", DUTIES)
def test_every_duty_has_a_test(duty: str) -> None:
    assert any(duty in name for name in names()), duty


def test_every_test_of_a_duty_is_in_the_list() -> None:
    assert [
        name for name in names() if name.startswith("test_duty_") and not any(duty in name for duty in DUTIES)
    ] == []


@pytest.mark.parametrize("number", range(1, 11))
def test_every_defect_of_the_sdk_has_a_test(number: int) -> None:
    assert any(re.search(rf"defect_{number}(_|$)", name) for name in names())


@pytest.mark.parametrize("number", range(1, 25))
def test_every_pain_has_a_test(number: int) -> None:
    assert any(re.search(rf"pain_{number}(_|$)", name) for name in names())


PAGE = TESTS.parent / "docs" / "duties.md"
_HELD_BY = re.compile(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)")


def test_every_test_that_the_page_names_is_where_the_page_says() -> None:
    named = _HELD_BY.findall(PAGE.read_text(encoding="utf-8"))
    assert len(named) > 80
    for name, file in named:
        source = (TESTS.parent / file).read_text(encoding="utf-8")
        assert re.search(rf"\bdef {name}\(", source), f"{name} is not in {file}"


def test_every_test_of_a_row_is_on_the_page() -> None:
    named = {name for name, _ in _HELD_BY.findall(PAGE.read_text(encoding="utf-8"))}
    assert [
        name for name in sorted(names()) if re.search(r"test_duty_|defect_\d|pain_\d", name) and name not in named
    ] == []
