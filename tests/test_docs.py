"""The documentation against reality: links lead somewhere, commands and configurations are taken, examples come out."""

from __future__ import annotations

import json
import os
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from telegram.ext import Application

from adapters.base import LONGEST_PAUSE
from adapters.cli.cli import _COMMANDS, _parser
from adapters.discord.interactions import TOKEN_SECONDS
from adapters.discord.options import DiscordOptions
from adapters.discord.render import URL_MAX
from adapters.matrix.adapter import _HISTORY_SECONDS, _VISITS, _VISITS_EACH
from adapters.matrix.options import MatrixOptions
from adapters.matrix.rooms import _CHECKED_SECONDS
from adapters.slack.adapter import WAIT_SECONDS
from adapters.slack.options import SlackOptions
from adapters.telegram.adapter import GROUP, TelegramAdapter
from adapters.telegram.login import _MAX_AGE
from adapters.telegram.options import TelegramOptions
from adapters.telegram.sending import _BURST, _BURST_SECONDS
from adapters.waiting import _DAYS, _PER_PERSON
from adapters.whatsapp.options import WhatsAppOptions
from adapters.whatsapp.render import LINKS_MAX
from gateway.gateway import Gateway
from gateway.handlers.listing import PROBE_SECONDS, PROBES_SECONDS
from gateway.people import CODE_SECONDS, PENDING_PER_PLATFORM
from gateway.serve import _LONGEST_PAUSE as LONGEST_PAUSE_OF_PLATFORMS
from mcp_auth import limits
from mcp_auth.audit import _ATTEMPTS_A_DAY, MAX_BYTES, OLD_FILES, AuditLine, Event
from mcp_auth.config.load import load
from mcp_auth.config.models import GatewayOptions, NetworkOptions, OAuthOptions, Server, Settings
from mcp_auth.core import McpAuth
from mcp_auth.links import verification
from mcp_auth.net.bodies import _BYTES_FOR_A_VALUE
from mcp_auth.oauth import sign_in
from mcp_auth.oauth.registration import client_registration_needed
from mcp_auth.probes import PROBES, PROBES_OF_ONE_SERVER
from mcp_auth.records import ServerMetadata
from mcp_auth.web.forms import _MAX_BODY as FORM_BODY
from mcp_auth.web.guards import HOOK_BODY
from mcp_auth.web.loopback import CONNECTIONS_OF_ONE, REQUEST_SECONDS
from tests.adapters.cli.typed import Run
from tests.homes import write_home
from tests.ports import free_port
from tests.servers.oauth import OAuthServer, authorize

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
QUIET = " 2>/dev/null"
KEY = "right-key-of-weather"
GUIDE = ROOT / "docs" / "mcp-authentication.md"
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^ *```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block and where it stands."""

    page: Path
    line: int
    language: str
    body: str

    @property
    def id(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, match["language"], textwrap.dedent(match["body"]))


BLOCKS = [block for page in PAGES for block in blocks(page)]


def of(*languages: str) -> pytest.MarkDecorator:
    found = [block for block in BLOCKS if block.language in languages]
    assert found, f"no page shows {languages}"
    return pytest.mark.parametrize("block", found, ids=lambda block: block.id)


def commands(block: Block) -> Iterator[str]:
    """What is to be typed: lines that begin with `slash-mcp`, after `$ ` in a console, without comments."""
    for line in block.body.splitlines():
        typed = re.sub(r"\s+(#|2>).*", "", line.removeprefix("$ "))
        _, _, piped = typed.rpartition("| ")
        if piped.startswith("slash-mcp") and (block.language not in ("console", "text") or line.startswith("$ ")):
            yield piped


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        assert file.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@of("sh", "console", "text", "")
def test_every_command_line_is_one_that_the_program_takes(block: Block) -> None:
    for line in commands(block):
        words = shlex.split(line.replace("$", ""))
        assert words[0] == "slash-mcp"
        try:
            _parser().parse_args(words[1:])
        except SystemExit:
            pytest.fail(f"{block.id}: {line}")


def test_the_guide_names_every_command_and_every_option() -> None:
    page = GUIDE.read_text(encoding="utf-8")
    table = page[page.index("## Every command") : page.index("## JSON")]
    for command in _COMMANDS:
        assert re.search(rf"`{command}\b", table), command
    teams = {"people", "allow", "deny", "audit"}
    for name, parser in _parser()._subparsers._group_actions[0].choices.items():  # type: ignore[union-attr]
        shown = [
            option for action in parser._actions for option in action.option_strings if action.help != "==SUPPRESS=="
        ]
        missing = [option for option in shown if option not in ("-h", "--help") and option not in table]
        assert name in teams or missing == [], name


def test_the_guide_has_a_row_for_every_status() -> None:
    from gateway.sentences import auth_state
    from mcp_auth.status import AuthState, ServerStatus

    page = GUIDE.read_text(encoding="utf-8")
    for state in AuthState:
        words = auth_state(ServerStatus("x", "http", "https://x.example", "all", state), now=0.0)
        assert re.search(rf"^\| `{words}", page, re.MULTILINE), words
        assert f"`{state.value}`" in page


def _keys(page: str, section: str = "") -> str:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return text[text.index(section) :]


@pytest.mark.parametrize(
    ("page", "model"),
    [
        ("mcp-authentication.md", OAuthOptions),
        ("mcp-authentication.md", Server),
        ("mcp-authentication.md", NetworkOptions),
        ("telegram.md", TelegramOptions),
        ("discord.md", DiscordOptions),
        ("slack.md", SlackOptions),
        ("whatsapp.md", WhatsAppOptions),
        ("matrix.md", MatrixOptions),
    ],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_every_key_that_can_be_configured_is_in_its_guide(page: str, model: type[Settings]) -> None:
    not_in_a_file = {"name", "problem"} if model is Server else set()
    text = _keys(page)
    missing = [key for key in model.__struct_fields__ if not re.search(rf"\b{key}\b", text)]
    assert sorted(set(missing) - not_in_a_file) == []


def test_the_keys_of_the_gateway_are_in_the_guides() -> None:
    text = "".join(_keys(page) for page in ("mcp-authentication.md", "public-endpoint.md", "teams.md"))
    # There is one store, and no need to name it; platforms have their pages.
    fields = set(GatewayOptions.__struct_fields__) - {"platforms", "store"}
    assert sorted(key for key in fields if not re.search(rf"\b{key}\b", text)) == []


def test_the_guide_to_the_log_names_every_event_and_every_field() -> None:
    text = _keys("teams.md", "## What happened")
    words = [*(event.value for event in Event), *AuditLine.__struct_fields__]
    assert [word for word in words if f"`{word}`" not in text] == []


_WORDS = {"2": "two", "3": "three", "4": "four", "5": "five", "10": "ten", "30": "thirty"}


def _minutes_in_words(seconds: float) -> str:
    return {60.0: "a minute"}.get(seconds, f"{seconds / 60:g} minutes")


def _minutes(rate: limits.Rate) -> str:
    return {60: "a minute", 600: "in ten minutes"}[rate.seconds]


@pytest.mark.parametrize(
    ("row", "rates"),
    [
        ("commands", [limits.COMMANDS]),
        ("sign-ins begun", [limits.SIGN_INS, limits.SERVER_SIGN_INS, limits.SERVER_SIGN_INS_EACH]),
        ("keys tried", [limits.KEY_TRIES, limits.SERVER_KEY_TRIES]),
        ("pairing codes and pasted addresses", [limits.CODES]),
        ("confirmation codes", [limits.CONFIRMS]),
        ("requests to the public endpoint", [limits.PAGES, limits.POSTS]),
        ("calls of webhooks", [limits.HOOKS, limits.REFUSED_HOOKS]),
    ],
)
def test_how_often_is_too_often_as_the_guide_says(row: str, rates: list[limits.Rate]) -> None:
    (line,) = re.findall(rf"^\| {row} \|.*$", _keys("teams.md", "## How often"), re.MULTILINE)
    said = line.rpartition("| ")[2] if line.endswith("| ") else line.split("|")[3]
    numbers = [int(number.replace(",", "")) for number in re.findall(r"\b\d[\d,]*\b", said)]
    assert numbers == [rate.amount for rate in rates]
    assert {_minutes(rate) for rate in rates} == {unit for unit in ("a minute", "in ten minutes") if unit in said}


@pytest.mark.parametrize(
    ("page", "sentence", "figure"),
    [
        ("SECURITY.md", "{} connections for an address", CONNECTIONS_OF_ONE),
        ("SECURITY.md", "{} seconds for a whole request", REQUEST_SECONDS),
        ("SECURITY.md", "{} kB for a form", FORM_BODY / 1024),
        ("SECURITY.md", "{} MB for a webhook", HOOK_BODY / 2**20),
        ("SECURITY.md", "{} MB for each answer or event", NetworkOptions().max_body_mb),
        ("SECURITY.md", "8 for a server, {} in all", PROBES),
        ("docs/teams.md", "connections to the public endpoint | network address | {} |", CONNECTIONS_OF_ONE),
        ("docs/teams.md", "five files of {} MB", MAX_BYTES / 2**20),
        ("docs/telegram.md", "(`retry_after`) of up to {} minutes, the bot waits", LONGEST_PAUSE / 60),
        ("docs/telegram.md", "A call is made {} times in all", len(TelegramAdapter.pauses) + 1),
        ("docs/telegram.md", "edits keep to {} in four seconds", _BURST),
        ("docs/telegram.md", "edits keep to four in {} seconds", _BURST_SECONDS),
        ("docs/telegram.md", "after about 1, 2, 4 ... {} seconds", LONGEST_PAUSE_OF_PLATFORMS),
        ("docs/teams.md", "beyond {} a day of one account and kind", _ATTEMPTS_A_DAY),
        ("SECURITY.md", "beyond {} a day of one account and kind", _ATTEMPTS_A_DAY),
        ("SECURITY.md", "one JSON value for each {} bytes", _BYTES_FOR_A_VALUE),
        ("SECURITY.md", "One probe runs for each server and owner, {} for a server", PROBES_OF_ONE_SERVER),
        ("docs/mcp-authentication.md", "seconds each and {} in all", PROBES_SECONDS),
        ("docs/mcp-authentication.md", "because too many others ({}) give no answer", PROBES),
        ("docs/matrix.md", "believed until a change is heard of, {} at most", _minutes_in_words(_CHECKED_SECONDS)),
        ("docs/matrix.md", "{} times an hour for one person", _VISITS_EACH.amount),
        ("docs/matrix.md", "{} times a minute for all", _VISITS.amount),
        ("docs/matrix.md", "Messages older than {} minutes are left alone", _HISTORY_SECONDS / 60),
        ("docs/whatsapp.md", "More than {} links at once come as text", LINKS_MAX),
        ("docs/whatsapp.md", "Up to {} wait for a person", _PER_PERSON),
        ("docs/whatsapp.md", "for {} days", _DAYS),
        ("docs/discord.md", "keeps that way open for {} minutes", (TOKEN_SECONDS + 10) / 60),
        ("docs/discord.md", "A button takes {} characters", URL_MAX),
        ("docs/slack.md", "({} seconds, when all", WAIT_SECONDS),
        ("docs/public-endpoint.md", "is {} minutes old at most", _MAX_AGE / 60),
        ("CHANGELOG.md", "{} MB for each answer or event", NetworkOptions().max_body_mb),
        ("docs/telegram.md", "handler in group {}", f"{GROUP:,}"),
        (
            "docs/whatsapp.md",
            "default `{}`",
            WhatsAppOptions(token="", phone_id="", app_secret="", verify_token="").api_version,
        ),
        ("docs/mcp-authentication.md", "at most {} seconds each", PROBE_SECONDS),
    ],
)
def test_figures_are_those_of_the_program(page: str, sentence: str, figure: float | str) -> None:
    shown = str(int(figure)) if isinstance(figure, float) else str(figure)
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert sentence.format(shown) in text or sentence.format(_WORDS.get(shown, shown)) in text


def test_lifetimes_are_those_of_the_program() -> None:
    guide, endpoint, teams = _keys("mcp-authentication.md"), _keys("public-endpoint.md"), _keys("teams.md")
    assert (sign_in.LIFETIME, "It lives ten minutes" in guide) == (600.0, True)
    assert (verification.CODE_LIFETIME, "Five minutes, five tries" in endpoint) == (300.0, True)
    assert (CODE_SECONDS, PENDING_PER_PLATFORM) == (3600.0, 3)
    assert "one hour, works once" in teams
    assert "three on each platform" in teams
    assert OLD_FILES + 1 == 5


@of("yaml")
def test_every_configuration_loads(block: Block, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(block.body, encoding="utf-8")
    config = load(home=tmp_path)
    assert [server.problem for server in config.servers.values() if server.problem is not None] == []
    assert config.warnings == ()


@of("json")
def test_every_json_is_json(block: Block) -> None:
    json.loads(block.body)


def test_every_page_is_reached_from_the_front_page() -> None:
    reached, waiting = {ROOT / "README.md"}, [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        for target in re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", page.read_text(encoding="utf-8")):
            file = (page.parent / target).resolve()
            if "://" not in target and file not in reached:
                reached.add(file)
                waiting.append(file)
    assert [page.name for page in PAGES if page not in reached] == []


def test_the_scripts_and_extras_of_the_front_pages_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shown = "\n".join(
        block.body for block in BLOCKS if block.page.parent == ROOT and block.language in ("sh", "console", "")
    )
    scripts = set(re.findall(r"^(scripts/\w+)", shown, re.MULTILINE))
    extras = set(re.findall(r"^pip install '(?:\.|slash-mcp)\[(\w+)\]'", shown, re.MULTILINE))
    assert "scripts/demo" in scripts
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)
    assert extras
    assert extras <= set(project["optional-dependencies"])


def front_page_program(mention: str) -> str:
    (program,) = (
        block.body for block in blocks(ROOT / "README.md") if block.language == "python" and mention in block.body
    )
    return program


async def test_the_program_for_an_agent_on_the_front_page_runs(
    monkeypatch: pytest.MonkeyPatch, oauth: OAuthServer, tmp_path: Path
) -> None:
    oauth.knobs.protected = False
    oauth.knobs.prm_path = None
    monkeypatch.setenv("SLASH_MCP_HOME", str(write_home(tmp_path, {"notion": {"url": oauth.url}})))
    imports, _, body = front_page_program("McpAuth").partition("\n\n")
    found: dict[str, Any] = {}
    exec(f"{imports}\nasync def example():\n{textwrap.indent(body, '    ')}\n    return tools", found)
    assert [tool.name for tool in (await found["example"]()).tools] == list(oauth.knobs.tools)


async def test_the_three_lines_of_the_front_page_put_mcp_into_a_bot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLASH_MCP_HOME", str(write_home(tmp_path, {"clock": {"command": "never-started"}})))
    application = Application.builder().token("123:of-no-bot").updater(None).job_queue(None).build()
    exec(front_page_program("install"), {"application": application})
    assert min(application.handlers) == GROUP


def test_the_examples_of_the_guide_come_out_as_shown(
    run: Run,
    oauth: OAuthServer,
    tmp_path: Path,
) -> None:
    oauth.knobs.tools = ("forecast", "search")
    shown_as = {
        oauth.url: "https://notes.example.com/mcp",
        oauth.url.replace("127.0.0.1", "localhost"): "https://weather.example.com/mcp",
        oauth.url.replace("/mcp", "/authorize"): "https://as.example.com/authorize",
        "sign in at 127.0.0.1": "sign in at as.example.com",
    }
    configuration = next(block.body for block in blocks(GUIDE) if block.language == "yaml")
    for real, name in shown_as.items():
        configuration = configuration.replace(name, real)
    (tmp_path / "config.yaml").write_text(configuration.replace("8765", str(free_port())), encoding="utf-8")

    session = _Session(run, tmp_path, oauth, shown_as)
    for block in blocks(GUIDE):
        if block.language == "console":
            for typed, expected in examples(block):
                shown = session.type(typed)
                assert re.fullmatch(pattern(expected), shown), f"{block.id}: {typed}\n{shown}"


def examples(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console with what is shown after it."""
    for part in re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]:
        typed, _, expected = part.partition("\n")
        yield typed, expected


def pattern(expected: str) -> str:
    """`...` stands for anything; how many spaces and lines fill a table says nothing."""
    words = re.escape(" ".join(re.sub("─+", "─", expected).split()))
    return words.replace(re.escape("..."), ".*?")


class _Session:
    """Types the commands of a page, one after the other, and plays the browser."""

    def __init__(self, run: Run, home: Path, oauth: OAuthServer, shown_as: dict[str, str]) -> None:
        self._run = run
        self._home = home
        self._oauth = oauth
        self._shown_as = shown_as
        self._link = ""
        self._code = 0

    def type(self, typed: str) -> str:
        if typed == "echo $?":
            return str(self._code)
        given, _, command = typed.removesuffix(QUIET).rpartition(" | ")
        stdin = f"{KEY}\n" if given else ""
        words = shlex.split(command)[1:]
        # One server plays both.
        self._oauth.knobs.api_key = KEY if "weather" in words else None
        if words[0:1] == ["paste"]:
            words[1] = authorize(self._link)
        done = self._run("--home", self._home, *words, stdin=stdin)
        self._code = done.code
        found = re.search(r"http://\S+/authorize\?[^\s\"]+", done.out)
        self._link = found.group() if found else self._link
        shown = done.out if typed.endswith(QUIET) else f"{done.out} {done.err}"
        for real, name in self._shown_as.items():
            shown = shown.replace(real, name)
        return " ".join(re.sub("─+", "─", shown).split())


def test_the_guide_says_what_a_server_without_registration_is_answered() -> None:
    server = Server(name="github", url="https://api.githubcopilot.com/mcp/", auth="oauth")
    metadata = ServerMetadata(
        issuer="https://github.com/login/oauth",
        authorization_endpoint="https://github.com/login/oauth/authorize",
        token_endpoint="https://github.com/login/oauth/access_token",
    )
    error = client_registration_needed(server, metadata, "http://127.0.0.1:8765/callback")
    assert f"slash-mcp: github: {error}\n" in GUIDE.read_text(encoding="utf-8")


def test_the_configuration_of_the_guide_is_the_first_one_that_it_shows() -> None:
    first = next(block.body for block in blocks(GUIDE) if block.language == "yaml")
    assert list(yaml.safe_load(first)["mcp_servers"]) == ["notes", "weather", "clock"]


def test_the_architecture_names_every_module_and_every_public_method() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    layers = ("mcp_auth", "gateway", "adapters")
    modules = {
        file.name for layer in layers for file in (ROOT / layer).glob("**/*.py") if not file.name.startswith("_")
    }
    assert sorted(name for name in modules if name not in page) == []
    for face in (McpAuth, Gateway):
        methods = [name for name in vars(face) if not name.startswith("_")]
        assert sorted(name for name in methods if not re.search(rf"\b{name}\b", page)) == [], face.__name__


def test_every_decision_has_its_day() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Decisions")[2]
    decisions = re.findall(r"^- \*\*.+?\*\* (\(\d{4}-\d\d-\d\d\))?", page, re.MULTILINE | re.DOTALL)
    assert len(decisions) > 50
    assert all(decisions)


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [entry for group in project["dependency-groups"].values() for entry in group if isinstance(entry, str)]
    named = {re.split(r"[\[<>=~; ]", entry)[0] for entry in [*project["project"]["dependencies"], *groups]}
    platforms = {
        re.split(r"[\[<>=~; ]", entry)[0]
        for extra in project["project"]["optional-dependencies"].values()
        for entry in extra
    }
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert sorted(name for name in named - platforms if f"`{name}`" not in page and not name.startswith("types-")) == []
    extras = set(project["project"]["optional-dependencies"]) - {"all"}
    assert sorted(name for name in extras if f"`{name}`" not in page) == []
    assert sorted(name for name in platforms if name not in page and name not in ("psycopg", "slash-mcp")) == []
