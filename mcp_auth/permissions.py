"""Who else may write what this program trusts: its home, its configuration, its grants. As sshd asks of `~/.ssh`.

Whoever can write there can add a server with a command of their own, let themselves in, or plant a grant.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from mcp_auth.errors import WritableByOthers

# Set by `--insecure-home`, and by whoever starts the program where no option can be given.
INSECURE_HOME = "SLASH_MCP_INSECURE_HOME"
_TRUSTED = (
    "config.yaml",
    ".env",
    "people.json",
    "audit.jsonl",
    "grants",
    "sign-ins",
    "key-forms",
    "connections",
    "mcp-tokens",
)


def check_home(home: Path, files: Iterable[Path] = ()) -> None:
    """Let pass what nobody else may write: `home`, what is ours in it, and configuration `files` with their folders.

    Raises:
        WritableByOthers: somebody else may.
    """
    if os.name != "posix" or os.environ.get(INSECURE_HOME) == "1":
        return
    for path, may_be_sticky in _trusted(home, files):
        whose = writable_by(path, may_be_sticky=may_be_sticky)
        if whose is not None:
            raise WritableByOthers(
                f"{path} can be written by {whose}, who could plant servers and grants there.",
                next_step=f"chmod go-w {path}, or --insecure-home if that is how it has to be",
            )


def _trusted(home: Path, files: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """Each path, and whether it may be a folder like /tmp, in which nobody can touch the entries of others."""
    yield home, False
    yield from ((home / name, False) for name in _TRUSTED)
    yield from ((parent, True) for parent in _real(home).parents)
    for file in files:
        yield file, False
        yield from ((parent, True) for parent in _real(file).parents)


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except ValueError:
        # No file has a name with a null byte.
        return path


def writable_by(path: Path, *, may_be_sticky: bool = False) -> str | None:
    """Who beside the owner may write `path`, in words; None: nobody, or it is not there, or on a read-only mount."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        # What cannot be looked at, a name with a null byte too, is said by whoever reads it.
        return None
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        # A device or a pipe holds nothing, and whoever reads refuses it.
        return None
    if not found.st_mode & 0o022 or (may_be_sticky and found.st_mode & stat.S_ISVTX):
        return None
    if found.st_mode & stat.S_IWOTH:
        whose = "everybody"
    elif may_be_sticky or _is_own_group(found.st_uid, found.st_gid):
        # Folders further up are often a group's, who administers them.
        return None
    else:
        whose = f"the group {_group_name(found.st_gid)}"
    return None if os.statvfs(path).f_flag & os.ST_RDONLY else whose


def _is_own_group(uid: int, gid: int) -> bool:
    """Whether the group is the one that many systems give each user for themselves alone."""
    import pwd

    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return uid == gid
    return gid == account.pw_gid and (gid == uid or _group_name(gid) == account.pw_name)


def _group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
