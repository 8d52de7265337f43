"""Nothing is believed that somebody else may write."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_auth import McpAuth
from mcp_auth.config import permissions as permissions_module
from mcp_auth.config.env_file import write
from mcp_auth.config.permissions import INSECURE_HOME, check_home
from mcp_auth.errors import ConfigError
from tests.adapters.cli.typed import Run
from tests.homes import write_home

SERVERS = {"notes": {"url": "https://mcp.example.com/mcp"}}
# A group that no user of the machine has for themselves
STRANGERS = 54_321


def world(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o002)


def group(path: Path) -> None:
    os.chown(path, -1, STRANGERS)
    path.chmod(path.stat().st_mode | 0o020)


def sticky(path: Path) -> None:
    path.chmod(0o1777)


# What is opened to others, and how.
OPENED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "the home to the world": ("home", world),
    "the home to a group": ("home", group),
    "the home as /tmp is": ("home", sticky),
    "the folder of the home": (".", world),
    "the configuration to the world": ("home/config.yaml", world),
    "the configuration to a group": ("home/config.yaml", group),
    "an included file": ("more.json", world),
    "the grants to the world": ("home/grants", world),
    "the grants to a group": ("home/grants", group),
    "the sign-ins": ("home/sign-ins", world),
    "what is known of servers": ("home/connections", world),
    "the people": ("home/people.json", world),
    "the variables": ("home/.env", group),
    "the mirror": ("home/mcp-tokens", world),
}


def prepared(folder: Path) -> Path:
    home = write_home(folder, SERVERS)
    (folder / "more.json").write_text('{"mcpServers": {}}')
    config = home / "config.yaml"
    config.write_text(f"include: {folder / 'more.json'}\n{config.read_text()}")
    for name in ("grants", "sign-ins", "connections", "mcp-tokens"):
        (home / name).mkdir(mode=0o700)
    for name in (".env", "people.json"):
        (home / name).write_text("")
    return home


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other groups")
@pytest.mark.parametrize("shape", OPENED)
def test_attack_what_others_may_write_is_not_believed(
    tmp_path: Path, run: Run, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = prepared(tmp_path)
    assert run("--home", home, "list").code == 0
    name, open_it = OPENED[shape]
    opened = tmp_path / name
    open_it(opened)

    for command in ("list", "test notes", "serve", "doctor", "people"):
        done = run("--home", home, *command.split())
        assert done.code != 0, command
        assert f"{opened} can be written by" in done.out + done.err, command
        assert "--insecure-home" in done.out + done.err
    with pytest.raises(ConfigError, match="can be written by"):
        McpAuth.open(home=home)

    assert run("--home", home, "--insecure-home", "list").code == 0
    assert run("list", "--home", home, "--insecure-home").code == 0
    assert INSECURE_HOME not in os.environ
    monkeypatch.setenv(INSECURE_HOME, "1")
    assert run("--home", home, "list").code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other groups")
@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o775, 0o2775])
def test_the_owner_s_own_group_may_write(tmp_path: Path, run: Run, mode: int) -> None:
    home = prepared(tmp_path)
    home.chmod(mode)
    (home / "config.yaml").chmod(mode & 0o666)
    assert run("--home", home, "list").code == 0


def test_a_read_only_mount_is_nobody_s_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = prepared(tmp_path)
    world(home)
    with pytest.raises(ConfigError):
        check_home(home)
    real = os.statvfs

    class ReadOnly:
        f_flag = os.ST_RDONLY

    # Mounting needs rights that the tests have nowhere.
    monkeypatch.setattr(permissions_module.os, "statvfs", lambda path: ReadOnly())
    check_home(home)
    assert real(home).f_flag & os.ST_RDONLY == 0


def test_a_configuration_below_a_folder_like_tmp_is_fine(tmp_path: Path, run: Run) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    home = prepared(shared)
    assert run("--home", home, "list").code == 0
    shared.chmod(0o777)
    assert "can be written by everybody" in run("--home", home, "list").err


@pytest.mark.parametrize(
    ("before", "after"),
    [(0o600, 0o600), (0o644, 0o600), (0o666, 0o600), (0o604, 0o600), (0o640, 0o640), (0o660, 0o640), (0o400, 0o400)],
    ids=oct,
)
@pytest.mark.parametrize("value", ["sk-new", "sk-old"])
def test_a_file_that_others_can_read_is_tightened_before_a_key_goes_in(
    tmp_path: Path, before: int, after: int, value: str
) -> None:
    path = tmp_path / ".env"
    path.write_text("KEY=sk-old\n")
    path.chmod(before)
    write(path, {"KEY": value})
    assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(after)
    assert path.read_text() == f"KEY={value}\n"


def test_init_writes_nothing_where_others_may(tmp_path: Path, run: Run) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    assert "can be written by everybody" in run("--home", home, "init").err
    assert list(home.iterdir()) == []
    assert run("--home", home, "--insecure-home", "init").code == 0


def belong(path: Path) -> None:
    os.chown(path, STRANGERS, -1)


# What belongs to another user, who can let themselves write there whatever its mode.
FOREIGN = {
    "the home": "home",
    "the folder of the home": ".",
    "the configuration": "home/config.yaml",
    "an included file": "more.json",
    "the grants": "home/grants",
    "the sign-ins": "home/sign-ins",
    "what is known of servers": "home/connections",
    "the people": "home/people.json",
    "the variables": "home/.env",
    "the mirror": "home/mcp-tokens",
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other users")
@pytest.mark.parametrize("shape", FOREIGN)
def test_attack_what_another_user_owns_is_not_believed(tmp_path: Path, run: Run, shape: str) -> None:
    home = prepared(tmp_path)
    owned = tmp_path / FOREIGN[shape]
    belong(owned)
    for command in ("list", "test notes", "serve", "doctor"):
        done = run("--home", home, *command.split())
        assert done.code != 0, command
        assert f"{owned} can be written by its owner uid {STRANGERS}" in done.out + done.err, command
        assert f"run it as uid {STRANGERS}" in done.out + done.err
        assert "--insecure-home" in done.out + done.err
    assert run("--home", home, "--insecure-home", "list").code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other users")
def test_root_and_oneself_may_own_what_is_trusted_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = prepared(tmp_path)
    belong(home / "grants")
    monkeypatch.setattr(permissions_module.os, "geteuid", lambda: STRANGERS)
    check_home(home)
    monkeypatch.setattr(permissions_module.os, "geteuid", lambda: STRANGERS + 1)
    with pytest.raises(ConfigError) as caught:
        check_home(home)
    assert f"{home / 'grants'} can be written by its owner uid {STRANGERS}" in str(caught.value)
    assert f"have root run chown -h {STRANGERS + 1}" in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other users")
@pytest.mark.parametrize("linked", ["home", "home/grants", "home/config.yaml"])
@pytest.mark.parametrize("shape", ["its folder is the world's", "its folder is another's", "it is another's in /tmp"])
def test_attack_a_link_is_as_good_as_the_folder_it_lies_in(tmp_path: Path, run: Run, linked: str, shape: str) -> None:
    """Whoever can replace it says what is read."""
    home = prepared(tmp_path)
    folder = tmp_path / "others"
    folder.mkdir()
    moved = tmp_path / "moved"
    (tmp_path / linked).rename(moved)
    (tmp_path / linked).symlink_to("others/link" if linked == "home" else "../others/link")
    link = folder / "link"
    link.symlink_to(moved)
    assert run("--home", home, "list").code == 0
    if shape == "its folder is the world's":
        world(folder)
    elif shape == "its folder is another's":
        belong(folder)
    else:
        sticky(folder)
        assert run("--home", home, "list").code == 0
        os.chown(link, STRANGERS, -1, follow_symlinks=False)
    said = run("--home", home, "list").err
    assert f"{link if 'in /tmp' in shape else folder} can be written by" in said


def test_links_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    check_home(tmp_path / "a")
