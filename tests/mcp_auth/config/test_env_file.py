"""The `.env` writer, read back by python-dotenv itself."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_auth.config import env_file
from mcp_auth.config.env_file import check_storable, clean_value, remove, write
from mcp_auth.config.models import Config, OAuthOptions, Server
from mcp_auth.config.variables import Variables
from mcp_auth.errors import Busy, KeyInvalid, StoreError

SERVER = Server(
    name="api",
    url="https://a.example/${IN_URL}",
    headers={"Authorization": "Bearer ${API_KEY}", "X-Bot": "${BOT_TOKEN}"},
    oauth=OAuthOptions(client_secret="${CLIENT_SECRET}"),
)
# What decides which code runs, where traffic goes and whom TLS trusts.
PROTECTED = [
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
    "http_proxy",
    "https_proxy",
    "no_proxy",
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
    "SLASH_MCP_KEY",
    "HERMES_HOME",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "DYLD_INSERT_LIBRARIES",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "NPM_CONFIG_REGISTRY",
    "npm_config_registry",
    "GIT_CONFIG_COUNT",
    "BASH_FUNC_ls",
]
STDIO = Server(
    name="run",
    command="x",
    args=("${IN_ARGS}",),
    transport="stdio",
    env={
        "TOKEN": "${TOKEN:-none}",
        "P": " ".join(f"${{{name}}}" for name in PROTECTED),
    },
)


def config(home: Path) -> Config:
    return Config(home=home, path=None, servers={}, gateway_variables=frozenset({"BOT_TOKEN"}))


def values(path: Path) -> dict[str, str | None]:
    # Universal newlines, as it opens a file itself; a byte that is not UTF-8 is no end of a test.
    with path.open(encoding="utf-8", errors="surrogateescape") as stream:
        return dict(dotenv_values(stream=stream, interpolate=False))


# What may be stored.


@pytest.mark.parametrize("name", ["API_KEY", "CLIENT_SECRET", "IN_URL"])
def test_a_variable_that_the_entry_names_may_be_stored(tmp_path: Path, name: str) -> None:
    check_storable(name, config=config(tmp_path), server=SERVER)
    check_storable("TOKEN", config=config(tmp_path), server=STDIO)


@pytest.mark.parametrize("name", ["BOT_TOKEN", "SOMETHING", "TOKEN", "", "A B", "API_KEY\n", "ÄPI", "1A", "API-KEY"])
def test_other_variables_may_not(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyInvalid):
        check_storable(name, config=config(tmp_path), server=SERVER)


@pytest.mark.parametrize("name", PROTECTED)
def test_protected_names_may_not_although_the_entry_names_them(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyInvalid, match="protected"):
        check_storable(name, config=config(tmp_path), server=STDIO)


def test_what_would_show_in_the_process_list_is_not_asked_for(tmp_path: Path) -> None:
    with pytest.raises(KeyInvalid):
        check_storable("IN_ARGS", config=config(tmp_path), server=STDIO)


@pytest.mark.parametrize(
    ("value", "template", "stored"),
    [
        ("  abc \n", "${K}", "abc"),
        ("Bearer abc", "Bearer ${K}", "abc"),
        ("bearer  abc", "bearer ${K}", "abc"),
        ("Bearer abc", "${K}", "Bearer abc"),
        ("a b#c'd\"e\\", "${K}", "a b#c'd\"e\\"),
    ],
)
def test_a_value_is_cleaned(value: str, template: str, stored: str) -> None:
    assert clean_value(value, template) == stored


@pytest.mark.parametrize(
    "value", ["", "  ", "Bearer ", "${OTHER}", "a\nb", "a\rb", "a\0b", "a\x1bb", "x" * 70_000, "\ud800"]
)
def test_a_value_that_cannot_be_a_key_is_refused_without_quoting_it(value: str) -> None:
    with pytest.raises(KeyInvalid) as caught:
        clean_value(value, "Bearer ${K}")
    assert not value.strip() or value.strip() == "Bearer" or value not in str(caught.value)


# Writing.


def test_a_new_file_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / ".env"
    write(path, {"A": "1", "B": "two words"})
    assert path.read_text() == "A=1\nB='two words'\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_mode_of_an_existing_file_stays(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    path.chmod(0o640)
    write(path, {"A": "2"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_everything_else_in_the_file_stays_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    before = (
        "\ufeff# my keys\r\n\n"
        "FIRST=1 # one\n"
        'PEM="-----BEGIN-----\nKEY=inside\n-----END-----"\n'
        "\n  export KEY = 'old' # rotate in May\n"
        "not a line at all\n"
        "BARE\n"
        "KEY=older\r\n"
        "LAST='x'"
    )
    path.write_bytes(before.encode())
    write(path, {"KEY": "new one", "NEW": "n"})
    expected = before.replace("KEY = 'old'", "KEY='new one'").replace("KEY=older", "KEY='new one'") + "\r\nNEW=n\r\n"
    assert path.read_bytes().decode() == expected
    assert values(path)["KEY"] == "new one"


def test_the_last_line_without_a_line_end_stays_so(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\nB=2")
    write(path, {"B": "3"})
    assert path.read_text() == "A=1\nB=3"


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "keys").write_text("A=1\n")
    (tmp_path / ".env").symlink_to(tmp_path / "real" / "keys")
    write(tmp_path / ".env", {"A": "2"})
    assert (tmp_path / ".env").is_symlink()
    assert (tmp_path / "real" / "keys").read_text() == "A=2\n"


def test_nothing_is_left_beside_the_file_but_its_lock(tmp_path: Path) -> None:
    (tmp_path / ".env.slash-mcp.tmp").write_text("left by a killed writer")
    write(tmp_path / ".env", {"A": "1"})
    assert {entry.name for entry in tmp_path.iterdir()} <= {".env", ".env.lock"}


@pytest.mark.parametrize("value", ["a\nb", "a\r", "${B}", "\0", "\ud800"])
def test_a_value_that_no_line_holds_changes_nothing(tmp_path: Path, value: str) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    with pytest.raises(KeyInvalid):
        write(path, {"A": value})
    assert path.read_text() == "A=1\n"


def test_a_write_that_would_not_read_back_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("OPEN='no end\n")
    with pytest.raises(StoreError, match="quotation mark"):
        write(path, {"A": "it's"})
    assert path.read_text() == "OPEN='no end\n"
    assert not (tmp_path / ".env.slash-mcp.tmp").exists()


def test_a_file_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "wide").write_bytes("A=b\n".encode("utf-16"))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("")
    for name in ("folder", "wide", "pipe", "loop", "file/.env"):
        with pytest.raises(StoreError):
            write(tmp_path / name, {"A": "1"})
    assert (tmp_path / "wide").read_bytes() == "A=b\n".encode("utf-16")


def test_a_held_lock_ends_in_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
            "print('held', flush=True); time.sleep(60)",
            str(tmp_path / ".env.lock"),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        monkeypatch.setattr(env_file, "LOCK_WAIT", 0.2)
        with pytest.raises(Busy):
            write(tmp_path / ".env", {"A": "1"})
    finally:
        holder.kill()
        holder.communicate()
    write(tmp_path / ".env", {"A": "1"})


def test_the_lock_stays_and_is_its_owners_alone(tmp_path: Path) -> None:
    """Removed after use, it would let two writers hold two files of one name."""
    before = os.umask(0)
    try:
        write(tmp_path / ".env", {"A": "1"})
        with (tmp_path / ".env.lock").open() as first:
            write(tmp_path / ".env", {"A": "2"})
            found = os.fstat(first.fileno())
    finally:
        os.umask(before)
    assert (found.st_nlink, stat.S_IMODE(found.st_mode)) == (1, 0o600)


def test_where_files_cannot_be_locked_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that only its presence locks would stay behind a killed writer for ever."""

    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    (tmp_path / ".env").write_text("A=1\n")
    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.raises(StoreError, match="cannot be written"):
        write(tmp_path / ".env", {"A": "2"})
    assert (tmp_path / ".env").read_text() == "A=1\n"


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: write(path, {f"K{index}": str(index)}), range(24)))
    assert values(path) == {f"K{index}": str(index) for index in range(24)}


# Removing.


def test_removing_takes_every_assignment_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# a\n\nexport KEY='x'\nB=1\nKEY=y\n\n  KEY=z\nC=2")
    remove(path, ["KEY", "NOT_THERE"])
    assert path.read_text() == "# a\n\nB=1\n\nC=2"


def test_removing_from_a_missing_file_makes_none(tmp_path: Path) -> None:
    remove(tmp_path / ".env", ["A"])
    assert list(tmp_path.iterdir()) == []


# Properties.

_value = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=40).filter(
    lambda text: "${" not in text
)
_others = st.lists(
    st.sampled_from(
        [
            "# comment = 'x",
            "",
            "   ",
            "A=1",
            "export B='two' # c",
            'C="multi\nline"',
            "D",
            "E=un quoted # tail",
            "F='it\\'s'",
            "é=1",
            "???",
            "KEY=old",
            "export KEY='old one'  # keep",
            'KEY="o\\"ld"',
        ]
    ),
    max_size=8,
)
_many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_many
@given(value=_value, lines=_others, line_end=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
def test_any_value_reads_back_and_other_lines_stay(
    tmp_path: Path, value: str, lines: list[str], line_end: str, last: bool
) -> None:
    path = tmp_path / ".env"
    before = line_end.join(lines) + (line_end if last else "")
    path.write_bytes(before.encode())
    others = {name: kept for name, kept in values(path).items() if name != "KEY"}
    write(path, {"KEY": value})
    assert values(path) == {**others, "KEY": value}
    after = path.read_bytes().decode().replace("\r\n", "\n").split("\n")
    kept_lines = [part for line in lines for part in line.split("\n")]
    assert [line for line in after if line and "KEY" not in line] == [
        line for line in kept_lines if line and "KEY" not in line
    ]
    remove(path, ["KEY"])
    assert values(path) == others


@_many
@given(
    data=st.binary(max_size=60) | st.text(alphabet="KEY='\"\\ #\n\rxé\ufeff", max_size=40).map(str.encode), value=_value
)
def test_any_file_is_edited_or_refused(tmp_path: Path, data: bytes, value: str) -> None:
    path = tmp_path / ".env"
    path.write_bytes(data)
    try:
        write(path, {"KEY": value})
    except StoreError:
        assert path.read_bytes() == data
        return
    assert values(path)["KEY"] == value


@_many
@given(
    typed=st.text(st.characters(), max_size=40) | st.text("Bearer \t\n\"'\\#=$\u00a0${", max_size=30),
    template=st.sampled_from(["Bearer ${API_KEY}", "${API_KEY}", "token ${API_KEY}", "${API_KEY:-x}"]),
)
def test_what_a_person_types_is_refused_or_arrives_at_the_server(tmp_path: Path, typed: str, template: str) -> None:
    server = Server(name="api", url="https://a.example", headers={"Authorization": template})
    configured = Config(home=tmp_path, path=None, servers={"api": server})
    configured.env_file.unlink(missing_ok=True)
    try:
        cleaned = clean_value(typed, template)
    except KeyInvalid as error:
        assert len(typed.strip()) < 3 or typed.strip() not in str(error)
        return
    write(configured.env_file, {"API_KEY": cleaned})
    sent = Variables(configured.env_file, configured.gateway_variables).resolve(template)
    assert sent == template.split("$")[0] + cleaned
    assert cleaned in typed


# Crashes.

_WRITER = """
import sys
from pathlib import Path
from mcp_auth.config.env_file import write
path = Path(sys.argv[1])
print("ready", flush=True)
for turn in range(10**9):
    write(path, {"KEY": f"value {turn} " + "x" * 3000})
"""


def test_a_writer_that_is_killed_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# head\nKEEP='kept'\nKEY=start\n")
    for turn in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
        )
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        time.sleep(0.002 + turn * 0.0037)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        found = values(path)
        assert found.keys() == {"KEEP", "KEY"}
        assert found["KEEP"] == "kept"
        assert found["KEY"] == "start" or (found["KEY"] or "").endswith("x" * 3000)
        assert path.read_text().startswith("# head\n")
    write(path, {"KEY": "after"})
    assert values(path) == {"KEEP": "kept", "KEY": "after"}
    assert {entry.name for entry in tmp_path.iterdir()} <= {".env", ".env.lock"}


@pytest.mark.parametrize("name", ["", "1ST", "A-B", "A B", "A\n", "Ä", "A=B", "${A}"])
def test_what_is_no_name_of_a_variable_is_said_to_be_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyInvalid, match="no name of a variable"):
        check_storable(name, config=config(tmp_path), server=SERVER)


def test_a_write_leaves_no_file_open(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    write(path, {"KEY": "0"})
    before = os.listdir("/proc/self/fd")
    for turn in range(20):
        write(path, {"KEY": f"{turn} more"})
    assert len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"B=2\n"),
        (b"A=1\n", b"A=1\nB=2\n"),
        (b"A=1\r\n", b"A=1\r\nB=2\r\n"),
        (b"A=1", b"A=1\nB=2\n"),
        (b"C=3\r\nA=1", b"C=3\r\nA=1\r\nB=2\r\n"),
        (b"A=1\r", b"A=1\rB=2\n"),
    ],
)
def test_a_new_line_ends_as_those_before_it(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / ".env"
    path.write_bytes(before)
    write(path, {"B": "2"})
    assert path.read_bytes() == after
