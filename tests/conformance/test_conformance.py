"""The official conformance suite, run over `client.py` at every wire it knows.

`scripts/services` installs it (npm `@modelcontextprotocol/conformance`, and the Node.js it needs).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.patience import PATIENCE

CLIENT = Path(__file__).with_name("client.py")

# Machine clients and extensions: no person signs in there, and they are not built yet.
NOT_YET = frozenset(
    {
        "auth/client-credentials-basic",
        "auth/client-credentials-jwt",
        "auth/dpop",
        "auth/dpop-nonce",
        "auth/enterprise-managed-authorization",
        "auth/wif-jwt-bearer",
    }
)
AUTHORIZATION_CODE = (
    "auth/2025-03-26-oauth-endpoint-fallback",
    "auth/2025-03-26-oauth-metadata-backcompat",
    "auth/authorization-server-migration",
    "auth/basic-cimd",
    "auth/iss-normalized",
    "auth/iss-not-advertised",
    "auth/iss-supported",
    "auth/iss-supported-missing",
    "auth/iss-unexpected",
    "auth/iss-wrong-issuer",
    "auth/metadata-default",
    "auth/metadata-issuer-mismatch",
    "auth/metadata-var1",
    "auth/metadata-var2",
    "auth/metadata-var3",
    "auth/offline-access-not-supported",
    "auth/offline-access-scope",
    "auth/pre-registration",
    "auth/resource-mismatch",
    "auth/scope-from-scopes-supported",
    "auth/scope-from-www-authenticate",
    "auth/scope-omitted-when-undefined",
    "auth/scope-retry-limit",
    "auth/scope-step-up",
    "auth/token-endpoint-auth-basic",
    "auth/token-endpoint-auth-none",
    "auth/token-endpoint-auth-post",
)
# How many of them the suite applies at each wire; None is its own choice for each scenario.
WIRES = {None: 27, "2025-11-25": 14, "2026-07-28": 25}

pytestmark = pytest.mark.service

# For one scenario, as the suite counts.
MILLISECONDS = str(int(PATIENCE * 1000))


def suite(*arguments: str) -> str:
    program = shutil.which("conformance")
    assert program is not None, "the conformance suite is not on the PATH; run scripts/services, then scripts/test"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=2 * PATIENCE)
    return done.stdout + done.stderr


def play(scenario: str, wire: str | None) -> str:
    """`passed`, `failed`, or `not applicable`, with the suite's own words behind it."""
    version = ["--spec-version", wire] if wire else []
    command = f"{sys.executable} {CLIENT}"
    words = suite("client", "--command", command, "--scenario", scenario, "--timeout", MILLISECONDS, *version)
    if "not applicable" in words:
        return "not applicable"
    if "OVERALL: PASSED" in words and re.search(r"Passed: (\d+)/\1, 0 failed, 0 warnings", words):
        return "passed"
    return f"failed\n{words[-3000:]}"


def test_the_suite_has_no_auth_scenario_that_nobody_looked_at() -> None:
    known = set(re.findall(r"auth/[a-z0-9-]+", suite("list", "--client")))
    assert known == NOT_YET | set(AUTHORIZATION_CODE)
    assert len(AUTHORIZATION_CODE) == 27


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire or "default")
def test_every_scenario_of_the_authorization_code_passes(wire: str | None) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        played = pool.map(lambda scenario: play(scenario, wire), AUTHORIZATION_CODE)
        outcomes = dict(zip(AUTHORIZATION_CODE, played, strict=True))
    assert {s: o for s, o in outcomes.items() if o not in ("passed", "not applicable")} == {}
    assert sum(outcome == "passed" for outcome in outcomes.values()) == WIRES[wire]


@pytest.mark.parametrize("scenario", sorted(NOT_YET))
def test_what_is_not_built_yet_does_not_pass_unnoticed(scenario: str) -> None:
    assert play(scenario, None).startswith("failed")
