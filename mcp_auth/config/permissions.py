"""Who else may write what this program trusts: its home, its configuration, its grants. As sshd asks of `~/.ssh`.

Whoever can write there, or owns it and can let themselves write, can add a server with a command of their own, let
themselves in, or plant a grant.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from mcp_auth.errors import WritableByOthers
from mcp_auth.outcome import Shell

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
# As many as Linux follows in one path.
_LINKS_FOLLOWED = 40


def check_home(home: Path, files: Iterable[Path] = ()) -> None:
    """Let pass what nobody else may write: `home`, what is ours in it, and configuration `files` with their folders.

    Raises:
        WritableByOthers: somebody else may, or it belongs to somebody who is neither root nor this user.
    """
    if os.name != "posix" or os.environ.get(INSECURE_HOME) == "1":
        return
    for path, kind in _trusted(home, files):
        found = writable_by(path, kind)
        if found is not None:
            raise WritableByOthers(
                f"{path} can be written by {found.whose}, who could plant servers and grants there.",
                next_step=Shell(f"{found.mend}, or --insecure-home if that is how it has to be"),
            )


# A folder on the way may be one like /tmp, in which nobody can touch the entries of others.
Kind = Literal["ours", "on the way", "link"]


class Others(NamedTuple):
    """Who beside root and this user may write something, in words, and what the operator can do about it."""

    whose: str
    mend: str


def _trusted(home: Path, files: Iterable[Path]) -> Iterator[tuple[Path, Kind]]:
    """Each path once: what is ours, and all that leads to it."""
    inside = [home / name for name in _TRUSTED]
    leading: dict[Path, Kind] = {}
    for path in (home, *files, *(path for path in inside if _link(path) is not None)):
        leading.update(_way_to(path))
    yield from ((path, "ours") for path in (home, *inside, *files))
    yield from leading.items()


def _way_to(path: Path) -> Iterator[tuple[Path, Kind]]:
    """Every folder that is entered and every symlink that is followed from the root to `path`, but not its end.

    Whoever owns the folder of a symlink, or may write there, can make it lead elsewhere.
    """
    here, names = Path(path.anchor), list(reversed(path.parts[1:]))
    links = 0
    yield here, "on the way"
    while names and links <= _LINKS_FOLLOWED:
        name = names.pop()
        step = here.parent if name == ".." else here / name
        target = _link(step)
        if target is not None:
            links += 1
            yield step, "link"
            here = Path(target.anchor) if target.is_absolute() else here
            names += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        elif names:
            here = step
            yield here, "on the way"


def _link(path: Path) -> Path | None:
    """Where a symlink leads; None: it is none, or nothing, or has a name that no file has."""
    try:
        return path.readlink()
    except (OSError, ValueError):
        return None


def writable_by(path: Path, kind: Kind = "ours") -> Others | None:
    """Who else may write `path`; None: nobody, or it is not there, or on a read-only mount."""
    try:
        found = os.lstat(path) if kind == "link" else os.stat(path)
    except (OSError, ValueError):
        # What cannot be looked at, a name with a null byte too, is said by whoever reads it.
        return None
    if kind != "link" and not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        # A device or a pipe holds nothing, and whoever reads refuses it.
        return None
    others = _other_owner(path, found.st_uid)
    if others is None and kind != "link" and (whose := _whom_the_mode_lets(found, kind)) is not None:
        others = Others(whose, f"chmod go-w {path}")
    if others is None:
        return None
    return None if os.statvfs(path.parent if kind == "link" else path).f_flag & os.ST_RDONLY else others


def _other_owner(path: Path, uid: int) -> Others | None:
    """As for sshd's StrictModes, root and this user are trusted and nobody else is, also not by root.

    What the owner of a home writes into it, this user would run: for root that is more than the owner may.
    """
    me = os.geteuid()
    if uid in (0, me):
        return None
    owner = _user_name(uid)
    mend = f"run it as {owner}" if me == 0 else f"have root run chown -h {me} {path}"
    return Others(f"its owner {owner}", mend)


def _whom_the_mode_lets(found: os.stat_result, kind: Kind) -> str | None:
    if not found.st_mode & 0o022 or (kind == "on the way" and found.st_mode & stat.S_ISVTX):
        return None
    if found.st_mode & stat.S_IWOTH:
        return "everybody"
    if kind == "on the way" or _is_own_group(found.st_uid, found.st_gid):
        # Folders further up are often a group's, who administers them.
        return None
    return f"the group {_group_name(found.st_gid)}"


def _is_own_group(uid: int, gid: int) -> bool:
    """Whether the group is the one that many systems give each user for themselves alone."""
    import pwd

    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return uid == gid
    return gid == account.pw_gid and (gid == uid or _group_name(gid) == account.pw_name)


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
