from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[2]


# pip downloads, unpacks and compiles thirty packages: the longest that any test waits for.
INSTALLED = 8 * PATIENCE


def run(*command: str | Path, cwd: Path, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def test_the_demo_plays_the_whole_story(tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "adapters.cli", "demo", "--script", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for line in ("notes is signed in", "whoami: ada@example.com", "revoked at the authorization server"):
        assert line in done.stdout
    assert done.stderr == ""


def test_the_demo_works_from_an_installed_wheel(tmp_path: Path) -> None:
    # Given a wheel in an environment of its own, far from this checkout
    built = run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT, cwd=ROOT
    )
    assert built.returncode == 0, built.stderr
    wheel = next(tmp_path.glob("slash_mcp-*.whl"))
    assert run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path).returncode == 0
    python = tmp_path / "venv" / "bin" / "python"
    lock = ROOT / "requirements-runtime.lock"
    locked = run(
        *(python, "-m", "pip", "install", "-q", "--require-hashes", "-r", lock), cwd=tmp_path, timeout=INSTALLED
    )
    assert locked.returncode == 0, locked.stderr
    assert run(python, "-m", "pip", "install", "-q", "--no-deps", wheel, cwd=tmp_path).returncode == 0

    # When the installed command plays the demo
    done = run(tmp_path / "venv" / "bin" / "slash-mcp", "demo", "--script", cwd=tmp_path)

    # Then the story comes out as it does here, and the types are there for others
    assert done.returncode == 0, done.stderr
    assert "whoami: ada@example.com" in done.stdout
    for package in ("mcp_auth", "gateway", "adapters"):
        (folder,) = (tmp_path / "venv").glob(f"lib/*/site-packages/{package}")
        assert (folder / "py.typed").exists()
        assert (folder / "__init__.pyi").exists()
