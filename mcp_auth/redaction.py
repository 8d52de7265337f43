"""How records and settings show themselves: never with a secret."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar


class Redacted:
    """A `repr` that shows `***` for what `__secret__` names and for the query of a URL, which may hold a key."""

    __slots__ = ()
    __secret__: ClassVar[frozenset[str]] = frozenset()
    __struct_fields__: ClassVar[tuple[str, ...]]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={shown}' for name, shown in self._shown())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """For rich, whose tracebacks and consoles would show the fields as they are."""
        return list(self._shown())

    def _shown(self) -> Iterator[tuple[str, str]]:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name in self.__secret__ and value:
                yield name, "***"
            elif isinstance(value, str) and "://" in value and "?" in value:
                yield name, repr(f"{value.partition('?')[0]}?***")
            else:
                yield name, repr(value)
