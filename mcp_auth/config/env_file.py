"""The writer of the `.env` file: API keys in, and every other byte of the file as it was.

A write is atomic, happens under a kernel lock, and is read back by python-dotenv before it counts.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_auth.config.variables import OUR_PREFIX, references
from mcp_auth.errors import Busy, KeyInvalid, StoreError, cannot_be_read
from mcp_auth.small_files import read_small_file

if TYPE_CHECKING:
    from dotenv.parser import Binding

    from mcp_auth.config.models import Config, Server

LOCK_WAIT = 10.0
# No key of a known service is longer; a service account's JSON has about 2,400 characters.
MAX_LENGTH = 65_536


def check_storable(name: str, *, config: Config, server: Server) -> None:
    """Let `name` pass when it is a variable that this server's entry asks for and that nobody else depends on.

    Raises:
        KeyInvalid: the entry's headers, env, url and client secret do not name it, it belongs to the gateway,
            or it changes how programs start, find code or trust certificates.
    """
    if not _NAME.fullmatch(name):
        raise KeyInvalid("That is no name of a variable.", next_step="use letters, digits and _")
    if name in config.gateway_variables or _is_protected(name):
        raise KeyInvalid(f"{name} is a protected variable and cannot be set for a server.")
    asked = {reference.name for template in _storable_templates(server) for reference in references(template)}
    if name not in asked:
        raise KeyInvalid(
            f"The entry of this server does not ask for {name}.",
            next_step=f"write ${{{name}}} into its headers or env in the configuration",
        )


def clean_value(value: str, template: str) -> str:
    """`value` as it is stored: no surrounding white space, no `Bearer ` where the template has one already.

    Raises:
        KeyInvalid: nothing is left, or it holds `${`, a line break inside, a control character, or is too long.
    """
    cleaned = value.strip()
    if _BEARER_TEMPLATE.match(template):
        cleaned = _BEARER.sub("", cleaned)
    if not cleaned:
        raise KeyInvalid("The value is empty.")
    _check_value(cleaned)
    if _CONTROL.search(cleaned):
        raise KeyInvalid("The value holds a control character.")
    return cleaned


def write(path: Path, values: Mapping[str, str]) -> None:
    """Set the variables in the file at `path`: in place where they stand, else at the end.

    A new file gets mode 0600; one that others can read is theirs no longer, and a symbolic link stays one.

    Raises:
        KeyInvalid: a name or value that no line of the file can hold.
        Busy: another writer holds the file for ten seconds.
        StoreError: it cannot be read or written, or does not read back; the old file stays.
    """
    for name, value in values.items():
        if not _NAME.fullmatch(name):
            raise KeyInvalid("That is no name of a variable.", next_step="use letters, digits and _")
        _check_value(value)
    _change(path, lambda text: _with_values(text, values), values, removed=frozenset())


def remove(path: Path, names: Iterable[str]) -> None:
    """Take every assignment of the names out of the file. A missing file or name is fine.

    Raises:
        Busy, StoreError: as `write`.
    """
    gone = frozenset(names)
    if os.path.lexists(path):
        _change(path, lambda text: _without_names(text, gone), {}, removed=gone)


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BEARER_TEMPLATE = re.compile(r"\s*Bearer\s+\$\{", re.IGNORECASE)
_BEARER = re.compile(r"(?:Bearer(?:\s+|$))+", re.IGNORECASE)

# What decides which code runs, where traffic goes and whom TLS trusts, in us or in a stdio server.
_PROTECTED = frozenset(
    {
        "PATH",
        "HOME",
        "SHELL",
        "ENV",
        "IFS",
        "BASH_ENV",
        "NODE_OPTIONS",
        "NODE_PATH",
        "NODE_EXTRA_CA_CERTS",
        "NODE_TLS_REJECT_UNAUTHORIZED",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "FTP_PROXY",
        "SOCKS_PROXY",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "SSLKEYLOGFILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "AWS_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "GIT_SSH_COMMAND",
        "GLIBC_TUNABLES",
        "JAVA_TOOL_OPTIONS",
        "RUBYOPT",
        "PERL5OPT",
        "PERL5LIB",
        "OPENSSL_CONF",
    }
)
_PROTECTED_PREFIXES = (OUR_PREFIX, "HERMES_", "LD_", "DYLD_", "PYTHON", "NPM_CONFIG_", "GIT_CONFIG", "BASH_FUNC_")


def _is_protected(name: str) -> bool:
    upper = name.upper()
    return upper in _PROTECTED or upper.startswith(_PROTECTED_PREFIXES)


def _storable_templates(server: Server) -> list[str]:
    """Arguments are left out: they show in the process list."""
    return [
        template
        for where, template in server.templates().items()
        if where in {"url", "oauth.client_secret"} or where.startswith(("headers.", "env."))
    ]


def _check_value(value: str) -> None:
    if len(value) > MAX_LENGTH:
        raise KeyInvalid(f"The value is longer than {MAX_LENGTH} characters.")
    if "${" in value:
        raise KeyInvalid("The value holds a placeholder (${...}); enter the key itself.")
    if any(character in value for character in "\r\n"):
        raise KeyInvalid("The value holds a line break; enter it as one line.")
    if _IMPOSSIBLE.search(value):
        raise KeyInvalid("The value holds NUL or half a character.")


# NUL ends a variable of the process environment; half a surrogate pair has no form in UTF-8.
_IMPOSSIBLE = re.compile("[\0\ud800-\udfff]")
# No header takes them, and on paper they are invisible.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def _change(path: Path, edit: Callable[[str], str], values: Mapping[str, str], removed: frozenset[str]) -> None:
    from filelock import FileLock, Timeout

    try:
        target = path.resolve(strict=False)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Kept, so that two writers never hold two files of one name; that rules out soft locks, too.
        lock = FileLock(f"{target}.lock", timeout=LOCK_WAIT, mode=0o600, preserve_lock_file=True)
        with lock:
            _replace(target, edit, values, removed)
    except Timeout:
        raise Busy(f"{path} is held by another writer.", next_step="try again") from None
    except (OSError, NotImplementedError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise StoreError(f"{path} cannot be written ({reason}).") from None


def _replace(target: Path, edit: Callable[[str], str], values: Mapping[str, str], removed: frozenset[str]) -> None:
    text, found = _read(target)
    edited = edit(text)
    if edited == text:
        if found is not None and stat.S_IMODE(found.st_mode) != _tightened(found):
            target.chmod(_tightened(found))
        return
    # One name, not a random one: what a killed writer left behind, keys and all, is gone with the next write.
    temporary = target.with_name(f"{target.name}.slash-mcp.tmp")
    temporary.unlink(missing_ok=True)
    try:
        _write_new(temporary, edited, found)
        written, _ = _read(temporary)
        expected = {**{name: value for name, value in _values(text).items() if name not in removed}, **values}
        if _values(written) != expected:
            raise StoreError(
                f"{target} would not read back as written; it was left as it is.",
                next_step="look for a quotation mark without its partner in that file",
            )
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _read(target: Path) -> tuple[str, os.stat_result | None]:
    """The text without any translation of line ends, and what the file is; a missing file is empty."""
    try:
        data, found = read_small_file(target)
    except FileNotFoundError:
        return "", None
    except OSError as error:
        raise cannot_be_read(target, error) from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise StoreError(f"{target} is not UTF-8 text.", next_step="save the file as UTF-8")
    # Bytes that are not UTF-8 are written back as they were.
    return data.decode(errors="surrogateescape"), found


def _write_new(temporary: Path, text: str, like: os.stat_result | None) -> None:
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(text.encode(errors="surrogateescape"))
        stream.flush()
        if like is not None:
            # Root may edit another account's file; anybody else can only keep what is theirs.
            with suppress(PermissionError):
                os.fchown(descriptor, like.st_uid, like.st_gid)
            os.fchmod(descriptor, _tightened(like))
        os.fsync(descriptor)


def _tightened(found: os.stat_result) -> int:
    """The mode without what lets others in. A group alone may read on: somebody meant that, a service for one."""
    mode = stat.S_IMODE(found.st_mode)
    return mode & 0o700 if mode & 0o007 else mode & ~0o020


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bindings(text: str) -> list[Binding]:
    from io import StringIO

    from dotenv.parser import parse_stream

    return list(parse_stream(StringIO(text, newline="")))


def _values(text: str) -> dict[str, str | None]:
    return {binding.key: binding.value for binding in _bindings(text) if binding.key is not None}


_BYTE_ORDER_MARK = "\ufeff"
_ASSIGNMENT = re.compile(
    r"(?P<before>\s*(?:export[^\S\r\n]+)?)(?:'[^']+'|[^=#\s]+)[^\S\r\n]*(?:=[^\S\r\n]*)?(?P<rest>.*?)(?P<end>\r\n|\n|\r|)\Z",
    re.DOTALL,
)
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)


def _with_values(text: str, values: Mapping[str, str]) -> str:
    mark = _BYTE_ORDER_MARK if text.startswith(_BYTE_ORDER_MARK) else ""
    parts: list[str] = []
    seen: set[str] = set()
    for binding in _bindings(text):
        original = binding.original.string
        if binding.key is None or binding.key not in values:
            parts.append(original)
            continue
        seen.add(binding.key)
        parts.append(_reassigned(original, binding.key, values[binding.key]))
    line_end = "\r\n" if "\r\n" in text else "\n"
    new = [f"{name}={_quoted(value)}{line_end}" for name, value in values.items() if name not in seen]
    if new and parts and not parts[-1].endswith(("\n", "\r")):
        parts.append(line_end)
    return mark + "".join([*parts, *new])


def _reassigned(original: str, name: str, value: str) -> str:
    """The assignment with another value; `export`, blank lines above, the comment behind and the line end stay."""
    match = _ASSIGNMENT.match(original)
    if match is None:
        raise StoreError("A line of the .env file has a form that cannot be edited.", next_step=f"set {name} by hand")
    rest = match["rest"]
    quoted = _QUOTED.match(rest)
    comment = rest[quoted.end() :] if quoted else "".join(re.findall(r"\s+#.*", rest, re.DOTALL)[:1])
    return f"{match['before']}{name}={_quoted(value)}{comment.rstrip()}{match['end']}"


def _without_names(text: str, names: frozenset[str]) -> str:
    mark = _BYTE_ORDER_MARK if text.startswith(_BYTE_ORDER_MARK) else ""
    kept = [
        _blank_lines(binding.original.string) if binding.key in names else binding.original.string
        for binding in _bindings(text)
    ]
    return mark + "".join(kept)


def _blank_lines(original: str) -> str:
    above = original[: len(original) - len(original.lstrip())]
    return above[: max(above.rfind("\n"), above.rfind("\r")) + 1]


def _quoted(value: str) -> str:
    """Plain where every reader of `.env` files agrees, else in single quotes as python-dotenv reads them."""
    if re.fullmatch(r"[A-Za-z0-9_./:@%+=,~-]+", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
