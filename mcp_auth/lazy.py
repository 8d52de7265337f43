"""Public names that are imported when they are first used, for `__getattr__` of a package (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping


def attribute(package: str, name: str, public: Collection[str], homes: Mapping[str, str], otherwise: str) -> object:
    """The attribute `name` of `package`, from the module that has it, and kept there from now on.

    Args:
        public: what the package promises.
        homes: the module of a name; `otherwise`: that of all others.

    Raises:
        AttributeError: it is not promised.
    """
    if name not in public:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(homes.get(name, otherwise)), name)
    setattr(sys.modules[package], name, value)
    return value
