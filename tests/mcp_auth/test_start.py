"""Where another program's `adapters` or `gateway` stands in the place of ours, the command says so in one sentence."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from mcp_auth import start

ROOT = Path(__file__).parents[2]
BOMB = "raise ModuleNotFoundError(\"No module named 'torch'\")\n"


@pytest.fixture(params=["gateway", "adapters"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_our_own_packages_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    assert start.complain_of_others("gateway", "adapters") is None


@pytest.mark.parametrize("shape", ["{}/__init__.py", "{}.py"])
def test_a_program_of_that_name_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, shape: str
) -> None:
    file = tmp_path / shape.format(name)
    file.parent.mkdir(exist_ok=True)
    file.write_text(BOMB)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert start.complain_of_others("gateway", "adapters") == (
        f"`{name}` is the package of another program here ({file}). "
        f"Next: install slash-mcp into a virtual environment of its own, and leave {name} off PYTHONPATH."
    )


def test_a_distribution_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    about = tmp_path / "other_program-1.3.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: other-program\nVersion: 1.3.0\n")
    (about / "RECORD").write_text(f"{name}/__init__.py,,\n")
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(BOMB)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert (start.complain_of_others(name) or "").startswith(
        f"`{name}` is the package of another program here, other-program 1.3.0 ("
    )


def test_a_package_that_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert start.complain_of_others(name) == (
        f"The package `{name}` of slash-mcp is missing here. "
        "Next: install slash-mcp into a virtual environment of its own, once more."
    )


@pytest.mark.service
def test_adapters_of_another_distribution_is_said_in_one_sentence(tmp_path: Path) -> None:
    # Given our wheel, and after it the adapters of AdapterHub, which are installed over ours
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    home = tmp_path / "env"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for what in (str(next(tmp_path.glob("slash_mcp-*.whl"))), "adapters==1.3.0"):
        into = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", what]
        subprocess.run(into, check=True, capture_output=True)

    # When the command is run
    program = "from mcp_auth.start import main; main()"
    done = subprocess.run([python, "-c", program, "--version"], cwd=home, capture_output=True, text=True, check=False)

    # Then it says whose package that is, and what to do
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    file = site / "adapters" / "__init__.py"
    assert done.stderr == (
        f"slash-mcp: `adapters` is the package of another program here, adapters 1.3.0 ({file}). "
        "Next: install slash-mcp into a virtual environment of its own.\n"
    )
