"""What users import: everything that is promised is there, and examples and guides use nothing else."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import mcp_auth.errors

ROOT = Path(__file__).parents[1]
PACKAGES = ("mcp_auth", "gateway", "adapters")
CHATS = ("discord", "matrix", "slack", "telegram", "whatsapp")
PUBLIC = (*PACKAGES, *(f"adapters.{chat}" for chat in CHATS), "adapters.testing")
# Modules that are public as a whole.
MODULES = ("adapters.buttons",)
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def sources() -> Iterator[tuple[str, str]]:
    for file in sorted((ROOT / "examples").glob("*.py")):
        yield file.name, file.read_text(encoding="utf-8")
    for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]):
        for number, block in enumerate(_FENCE.findall(page.read_text(encoding="utf-8"))):
            yield f"{page.name}-{number}", block


SOURCES = list(sources())


def imports(source: str) -> Iterator[tuple[str, str]]:
    """Each module and name that is taken from our packages, as it stands in `source`."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        # A part of a class, or of a signature.
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
            yield from ((node.module, alias.name) for alias in node.names)
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] in PACKAGES)


@pytest.mark.parametrize("package", PUBLIC)
def test_every_promised_name_is_there(package: str) -> None:
    module = import_module(package)
    assert module.__all__
    for name in module.__all__:
        assert not isinstance(getattr(module, name), types.ModuleType), f"{package}.{name} is hidden by a module"


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_type_checker_sees_is_what_there_is(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.pyi").read_text(encoding="utf-8"))
    imported = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    seen = [(node.module, alias.name) for node in imported for alias in node.names if alias.asname == alias.name]
    homes = {name: home for home, name in seen if home and home.partition(".")[0] == package}
    module = import_module(package)
    assert sorted(homes) == sorted(module.__all__)
    for name, home in homes.items():
        assert getattr(module, name) is getattr(import_module(home), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_the_kind'"):
        module.nothing_of_the_kind  # noqa: B018


def test_every_error_can_be_caught_by_its_public_name() -> None:
    errors = {
        name
        for name, value in vars(mcp_auth.errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == "mcp_auth.errors"
    }
    assert len(errors) > 30
    assert errors <= set(mcp_auth.__all__)


def test_our_own_sources_show_imports() -> None:
    assert sum(bool(list(imports(source))) for _, source in SOURCES) > 10


@pytest.mark.parametrize("source", [source for _, source in SOURCES], ids=[name for name, _ in SOURCES])
def test_examples_and_guides_use_public_names_only(source: str) -> None:
    for module, name in imports(source):
        if module in MODULES:
            assert hasattr(import_module(module), name)
            continue
        assert module in PUBLIC, f"{module} is private"
        assert name in import_module(module).__all__, f"{module}.{name} is private"


@pytest.mark.service
@pytest.mark.parametrize(
    "code",
    [
        "import mcp_auth, gateway, adapters",
        "from gateway import Gateway; from adapters import Adapter; from mcp_auth import McpAuth",
        "import gateway.serve, adapters.cli.cli, adapters.telegram",
    ],
)
def test_the_demo_and_the_contract_cost_nobody_else_anything(code: str) -> None:
    unwanted = "{'pytest', 'adapters.testing', 'mcp.server'} | {n for n in sys.modules if n.startswith('gateway.demo')}"
    look = f"import sys; {code}; print(sorted(({unwanted}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
