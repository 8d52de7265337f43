"""Templates with placeholders: which variables they name, and what they resolve to right now.

`${VAR}`, `${VAR:-default}` and `${env:VAR}` are placeholders; a `$` without a brace is plain text.
Values come from the `.env` file, then from the process environment, looked up at each use.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from mcp_auth.errors import KeyInvalid, KeyMissing, StoreError, cannot_be_read
from mcp_auth.small_files import read_small_file

if TYPE_CHECKING:
    from pathlib import Path

OUR_PREFIX = "SLASH_MCP_"

# Patterns are compiled by `re` at their first use, so that who needs none of them does not wait for it.
# A default ends at the first brace and holds no placeholder of its own.
_PLACEHOLDER = r"(?a)\$\{(?:env:)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>(?:(?!\$\{)[^}])*))?\}"
_BEARER_TEMPLATE = r"(?i)\s*Bearer\s+\$\{"
_DOUBLE_BEARER = r"(?i)^(\s*Bearer\s+)(?:Bearer\s+)+"


class Reference(msgspec.Struct, frozen=True):
    """One placeholder. `default` is the text after `:-`, None without one."""

    name: str
    default: str | None = None


def references(template: str) -> tuple[Reference, ...]:
    """The placeholders of `template`, in order."""
    if "${" not in template:
        return ()
    return tuple(Reference(match["name"], match["default"]) for match in re.finditer(_PLACEHOLDER, template))


def is_malformed(template: str) -> bool:
    """Whether `template` holds a `${` that begins no placeholder, e.g. `${input:key}` or `${A-b}`."""
    return "${" in template and "${" in re.sub(_PLACEHOLDER, " ", template)


class Variables:
    """Resolves the templates of one configuration. A changed `.env` is seen at the next use."""

    def __init__(
        self, env_file: Path, reserved: Collection[str] = (), warn: Callable[[str], None] | None = None
    ) -> None:
        """Nothing is read yet.

        Args:
            reserved: names that `resolve` gives to no server (`Config.gateway_variables`).
            warn: hears of every line of `.env` that cannot be used; left out, the log does.
        """
        self._env_file = env_file
        self._reserved = reserved
        self._warn = warn if warn is not None else _log_warning
        self._signature: tuple[int, ...] | None = None
        self._from_file: dict[str, str | None] = {}

    def at_once(self) -> Variables:
        """These variables as they are in one moment: `.env` is looked at when the first of them is asked for."""
        return _AtOnce(self)

    def lookup(self, name: str) -> str | None:
        """The value from `.env`, else from the environment. An empty value counts as none.

        Raises:
            StoreError: the `.env` file exists and cannot be read.
        """
        values = self._file_values()
        if name in values and values[name] is None:
            # Its line is damaged: what the environment has may be another key, of before.
            return None
        return values.get(name) or os.environ.get(name) or None

    def read(self) -> None:
        """Read `.env` now, for the sake of what `warn` hears.

        Raises:
            StoreError: it exists and cannot be read.
        """
        self._file_values()

    def resolve(self, template: str, *, keys: Mapping[str, str] | None = None) -> str:
        """`template` of a server's entry with every placeholder replaced.

        Args:
            keys: one owner's keys (`identity: per_user`). When given, nothing else is looked at.

        Raises:
            KeyMissing: a variable has no value and no default, or belongs to the gateway.
            KeyInvalid: a value holds a line break, NUL or `${` (values are not expanded in their turn).
            StoreError: the `.env` file exists and cannot be read.
        """
        reserved = _unique(reference.name for reference in references(template) if self.is_reserved(reference.name))
        if reserved:
            raise KeyMissing(
                f"{', '.join(reserved)} is reserved for the gateway and not given to a server.",
                variables=reserved,
                next_step="use a variable of another name in the server's entry",
            )
        return self._resolve(template, keys)

    def resolve_gateway(self, template: str) -> str:
        """`template` of the `gateway:` section with every placeholder replaced. Raises as `resolve` does."""
        return self._resolve(template, None)

    def missing(self, templates: Iterable[str], keys: Mapping[str, str] | None = None) -> tuple[str, ...]:
        """The variables that `resolve` would miss, reserved ones included, in order and each once."""
        return _unique(
            reference.name
            for template in templates
            for reference in references(template)
            if self.is_reserved(reference.name)
            or (reference.default is None and self._value(reference.name, keys) is None)
        )

    def is_reserved(self, name: str) -> bool:
        """Whether `name` belongs to the gateway: a foreign server entry could mail it out otherwise."""
        return name in self._reserved or name.upper().startswith(OUR_PREFIX)

    def _resolve(self, template: str, keys: Mapping[str, str] | None) -> str:
        if "${" not in template:
            return template
        if is_malformed(template):
            raise KeyMissing(
                "A placeholder has a form that is not known here.",
                variables=(),
                next_step="write ${VAR}, ${VAR:-default} or ${env:VAR}",
            )
        values: dict[Reference, str] = {}
        for reference in references(template):
            value = self._value(reference.name, keys)
            if value is None:
                value = reference.default
            if value is not None:
                values[reference] = _checked(reference.name, value)
        lacking = _unique(reference.name for reference in references(template) if reference not in values)
        if lacking:
            raise KeyMissing(f"{', '.join(lacking)} has no value.", variables=lacking)
        text = re.sub(_PLACEHOLDER, lambda match: values[Reference(match["name"], match["default"])], template)
        if re.match(_BEARER_TEMPLATE, template):
            return re.sub(_DOUBLE_BEARER, r"\1", text)
        return text

    def _value(self, name: str, keys: Mapping[str, str] | None) -> str | None:
        if keys is not None:
            return keys.get(name) or None
        return self.lookup(name)

    def _file_values(self) -> dict[str, str | None]:
        """What `.env` holds; None: there is a line for it, and it is damaged."""
        try:
            found = self._env_file.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._signature, self._from_file = None, {}
            return self._from_file
        except OSError as error:
            raise cannot_be_read(self._env_file, error) from None
        signature = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev)
        if signature != self._signature:
            self._from_file = self._read()
            self._signature = signature
        return self._from_file

    def _read(self) -> dict[str, str | None]:
        try:
            data, _ = read_small_file(self._env_file)
        except OSError as error:
            raise cannot_be_read(self._env_file, error) from None
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise StoreError(
                f"{self._env_file} is not UTF-8 text.", next_step="save the file as UTF-8, or set the keys anew"
            )
        # A bad byte costs the line that it stands in, and no other.
        text = data.decode("utf-8-sig", "surrogateescape")
        values: dict[str, str | None] = {}
        if re.fullmatch(_PLAIN, text):
            # What is written without quotes, spaces and the like means one thing, and needs no import of a parser.
            for written in text.split("\n"):
                name, equals, value = written.partition("=")
                if equals and not written.startswith("#"):
                    values[name] = value
            return values
        from io import StringIO

        from dotenv.parser import parse_stream

        for binding in parse_stream(StringIO(text, newline="")):
            original = binding.original
            line = original.line + _blank_lines_before(original.string)
            if binding.error or (binding.key is not None and _has_bad_byte(binding.key)):
                self._warn(f"{self._env_file}:{line}: this is no line of the form NAME=value, and it is left out.")
            elif binding.key is not None and binding.value is not None:
                is_bad = _has_bad_byte(binding.value)
                if is_bad:
                    self._warn(f"{self._env_file}:{line}: {binding.key} is not UTF-8 text and counts as missing.")
                values[binding.key] = None if is_bad else binding.value
            elif binding.key is not None:
                values.pop(binding.key, None)
        return values


class _AtOnce(Variables):
    def __init__(self, variables: Variables) -> None:
        self._all = variables
        self._reserved = variables._reserved
        self._values: dict[str, str | None] | None = None

    def _file_values(self) -> dict[str, str | None]:
        if self._values is None:
            self._values = self._all._file_values()
        return self._values


def _has_bad_byte(text: str) -> bool:
    return not text.isascii() and re.search("[\ud800-\udfff]", text) is not None


_PLAIN_LINE = r"(?:#[^\r\n]*|[A-Za-z_][A-Za-z0-9_]*=[A-Za-z0-9_.:/+=@%,~-]*)?"
_PLAIN = rf"(?:{_PLAIN_LINE}\n)*{_PLAIN_LINE}"


def _blank_lines_before(original: str) -> int:
    """python-dotenv counts the blank lines above a line to it."""
    above = original[: len(original) - len(original.lstrip())]
    return len(re.findall("\r\n|\n|\r", above))


def _log_warning(sentence: str) -> None:
    import logging

    logging.getLogger(__name__).warning("%s", sentence)


def _checked(name: str, value: str) -> str:
    if any(character in value for character in "\r\n\0"):
        raise KeyInvalid(f"The value of {name} contains a line break or NUL and is not sent.")
    if "${" in value:
        raise KeyInvalid(f"The value of {name} holds a placeholder, and values are not expanded; it is not sent.")
    return value


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
