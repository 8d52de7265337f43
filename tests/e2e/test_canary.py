"""Known secrets go in everywhere; everything is exercised; nothing that others may read shows one of them.

Watched: logs of every logger at DEBUG, `repr` and the like of every object of ours, tracebacks, process arguments,
what chats show in public and in private, and what the command line prints.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import httpx2
import pytest
import yaml
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from tests.browser import Browser, Page
from tests.e2e.processes import ROOT, Running, environment, slash_mcp
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.servers.oauth import OAuthServer, authorize, visit

PLANTED = {
    "header in the configuration": "hdr-Canary+7/static=",
    "env in the configuration": "env-Canary+7/static=",
    "key in a url": "url-Canary7static",
    "client secret": "cls-Canary+7/secret=",
    "issued client secret": "ics-Canary+7/issued=",
    "telegram token": "123456:tg-Canary7telegram",
    "slack token": "xoxb-Canary7slack",
    "stored key": "sk-Canary7stored",
    "env of a command": "sk-Canary7command",
    "refused key": "sk-Canary7refused",
    "accepted key": "sk-Canary7accepted",
    "key for a dead server": "sk-Canary7dead",
    "key typed into a chat": "sk-Canary7typed0123456789",
    "environment of the process": "sk-Canary7environ",
}
_COMMAND = "from gateway.demo.stdio_server import server; server.run()"


def write_home(folder: Path, oauth: OAuthServer) -> Path:
    home = folder / "home"
    home.mkdir(mode=0o700)
    oauth.knobs.registration_extra = {
        "client_secret": PLANTED["issued client secret"],
        "token_endpoint_auth_method": "client_secret_post",
    }
    dead = f"http://127.0.0.1:{free_port()}/mcp"
    team = {"client_id": "team-client", "client_secret": "${TEAM_SECRET}", "scope": "read"}
    servers = {
        "notes": {"url": oauth.url, "auth": "oauth"},
        "team": {
            "url": f"{oauth.url}?key={PLANTED['key in a url']}",
            "auth": "oauth",
            "oauth": {**team, "token_endpoint_auth_method": "client_secret_basic"},
        },
        "my-api": {
            "url": oauth.url,
            "headers": {"Authorization": "Bearer ${API_KEY}", "X-Static": PLANTED["header in the configuration"]},
        },
        "dead": {"url": dead, "headers": {"Authorization": "Bearer ${DEAD_KEY}", "X-More": "${FROM_ENVIRON}"}},
        "files": {
            "command": sys.executable,
            "args": ["-c", _COMMAND],
            "cwd": str(ROOT),
            "env": {"TOKEN": "${FILES_TOKEN}", "LITERAL": PLANTED["env in the configuration"]},
        },
        "no-command": {"command": "/nonexistent/program", "env": {"TOKEN": "${FILES_TOKEN}"}},
        "wrong": {"url": oauth.url, "headers": {"A": [PLANTED["header in the configuration"]]}},
    }
    gateway = {
        "callback": {"port": free_port()},
        "telegram": {"token": "${TELEGRAM_BOT_TOKEN}"},
        "slack": {"bot_token": PLANTED["slack token"], "app_token": "${SLACK_APP_TOKEN}"},
    }
    (home / "config.yaml").write_text(yaml.safe_dump({"mcp_servers": servers, "gateway": gateway}))
    (home / ".env").write_text(
        f"API_KEY={PLANTED['stored key']}\nFILES_TOKEN={PLANTED['env of a command']}\n"
        f"TEAM_SECRET='{PLANTED['client secret']}'\nTELEGRAM_BOT_TOKEN={PLANTED['telegram token']}\n"
    )
    (home / ".env").chmod(0o600)
    return home


# -- the watcher -----------------------------------------------------------------------------


def dresses(secret: str) -> set[str]:
    """A secret as it is, quoted for a URL or for JSON, and in base64 wherever it begins in a longer text."""
    found = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), json.dumps(secret)[1:-1]}
    raw = secret.encode()
    for before in range(3):
        # The characters that also hold bits of the neighbours are left out.
        first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(b"\0" * before + raw + b"\0\0").decode()[first:last])
    return found | {raw.hex()}


class Watcher:
    """Collects what the places show, and says which secrets stand where."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.places: dict[str, list[str]] = {}

    def show(self, place: str, text: str) -> None:
        self.places.setdefault(place, []).append(text)

    def found(self, *, allowed: tuple[tuple[str, str], ...] = ()) -> list[str]:
        """`place: secret` for each that shows. `allowed`: pairs of a place and the first word of a secret's name."""
        leaks = []
        for place, texts in self.places.items():
            text = "\n".join(texts)
            for name, secret in self.secrets.items():
                forms = dresses(secret)
                if name.split()[0] in ("access", "refresh", "code"):
                    # A `repr` that is cut in the middle shows too much of it all the same.
                    forms.add(secret[:12])
                if (place, name.split()[0]) not in allowed and any(form in text for form in forms):
                    leaks.append(f"{place}: {name}")
        return leaks


class Arguments:
    """The command lines of all processes of this machine, while it is entered."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Arguments:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue  # it has ended


class Host:
    """The child: each method sends one command and shows the answer to the watcher."""

    def __init__(self, out: Path, home: Path, watcher: Watcher) -> None:
        out.mkdir()
        self._out = out
        self._watcher = watcher
        self._process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-m", "tests.e2e.canary_child", str(out), str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(FROM_ENVIRON=PLANTED["environment of the process"]),
        )

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.command(name, *arguments)

    def command(self, *words: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._process.communicate()[1]
        answer: dict[str, Any] = json.loads(line)
        for place in ("public", "private"):
            for text in answer[place]:
                self._watcher.show(place, text)
        return answer

    def finish(self) -> None:
        """End the child, and show what it wrote."""
        self.command("dump")
        out, errors = self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0, errors
        self._watcher.show("standard output", out)
        self._watcher.show("standard error", errors)
        for name in ("log", "reprs", "tracebacks"):
            self._watcher.show(name, (self._out / name).read_text())


def learn(watcher: Watcher, oauth: OAuthServer) -> None:
    """What the servers handed out and received: tokens, codes, states, verifiers, client secrets."""
    for tokens, name in ((oauth.access, "access token"), (oauth.refresh, "refresh token")):
        for number, token in enumerate(tokens):
            watcher.secrets[f"{name} {number}"] = token
    for number, seen in enumerate(oauth.seen):
        for form in (seen.form, seen.query):
            for parameter in ("code", "code_verifier", "refresh_token", "client_secret", "state", "token"):
                if parameter in form:
                    watcher.secrets[f"{parameter} {number}"] = form[parameter]


@pytest.fixture
def watcher() -> Watcher:
    watcher = Watcher()
    watcher.secrets.update(PLANTED)
    return watcher


# -- the tests -------------------------------------------------------------------------------

# A link carries its state to the person it is for, and to nobody else.
FOR_THE_PERSON = (("private", "state"),)


@pytest.mark.service
def test_a_host_program_shows_no_secret(tmp_path: Path, oauth: OAuthServer, watcher: Watcher) -> None:
    home = write_home(tmp_path, oauth)
    host = Host(tmp_path / "out", home, watcher)
    with Arguments() as arguments:
        exercise(host, oauth, watcher)
        host.finish()
    learn(watcher, oauth)
    watcher.show("process arguments", "\n".join(arguments.seen))
    # The exercise went where the secrets are
    assert {name.split()[0] for name in watcher.secrets} >= {"access", "refresh", "code", "code_verifier", "state"}
    assert _COMMAND in watcher.places["process arguments"][0]
    for logger in ("httpcore2", "mcp_auth", "asyncio", "mcp", "uvicorn"):
        assert f"\n{logger}" in watcher.places["log"][0], logger
    for kind in (
        "SignIn",
        "HermesGrant",
        "Tokens",
        "Registration",
        "Invocation",
        "Reply",
        "StartedSignIn",
        "Server",
        "RegistrationRefused",
        "ServerProfile",
    ):
        assert f"\n{kind}: " in watcher.places["reprs"][0], kind
    leaks = watcher.found(allowed=FOR_THE_PERSON)
    assert not leaks, "\n".join(leaks)


def exercise(host: Host, oauth: OAuthServer, watcher: Watcher) -> None:
    for private in (True, False):
        for text in ("", "notes", "team", "my-api", "help", "hlep", "auth wrong", "test no-command", "key team"):
            host.say(text, private)
    fail_to_begin(host, oauth)
    sign_in(host, oauth)
    sign_in_by_paste(host, oauth, watcher)
    use_and_refresh(host, oauth)
    enter_keys(host, oauth)
    for server in ("files", "no-command", "dead"):
        host.session(server)
    host.stored()
    host.say("logout notes", False)
    oauth.knobs.revocation_status = 500
    host.say("logout team", True)


# -- our own pages ---------------------------------------------------------------------------

ANN, BOB, STRANGER = "telegram:100001", "telegram:200002", "telegram:300003"
# The person who asked gets the link, and a stranger the code to be let in with; nobody else does.
FOR_THE_ONE_WHO_ASKED = (("private", "ticket"), ("private", "pairing"))
# A sign-in's own record keeps what its exchange needs; the state is worth nothing without what its browser keeps.
IN_THE_RECORD = tuple(
    ("files", kind) for kind in ("state", "code_verifier", "client", "client_secret", "issued", "key")
)


@pytest.mark.service
async def test_the_public_pages_show_no_secret(tmp_path: Path, oauth: OAuthServer, watcher: Watcher) -> None:
    home = write_home(tmp_path, oauth)
    make_public(home)
    host = Host(tmp_path / "out", home, watcher)
    with Arguments() as arguments:
        async with Browser() as browser, Browser() as other:
            await sign_in_on_pages(host, browser, other, oauth, watcher)
            await burn_a_link(host, other, watcher)
            await type_keys_into_a_page(host, browser, oauth, watcher)
            let_a_stranger_in(host, watcher)
            for name, value in [*browser.client.cookies.items(), *other.client.cookies.items()]:
                watcher.secrets[f"cookie {name} {value[:4]}"] = value
            for (_, name), value in [*browser.storage.items(), *other.storage.items()]:
                # Beside its secret the browser keeps the page's address, which holds the ticket of the link.
                kind = "ticket" if name.endswith(" page") else "kept"
                watcher.secrets[f"{kind} {name} {value[:4]}"] = value.rpartition("/")[2]
        host.stored()
        host.finish()
    learn(watcher, oauth)
    watcher.show("process arguments", "\n".join(arguments.seen))
    watcher.show("audit", (home / "audit.jsonl").read_text())
    for path in [home / "people.json", *(home / "sign-ins").glob("*.json"), *(home / "key-forms").glob("*.json")]:
        watcher.show("files", path.read_text())
    # The exercise went where the secrets are
    kinds = {name.split()[0] for name in watcher.secrets}
    assert kinds >= {"ticket", "cookie", "kept", "csrf", "confirm", "pairing", "accepted", "access", "code", "state"}
    events = {json.loads(line)["what"] for line in watcher.places["audit"][0].splitlines()}
    assert events >= {"sign_in_begun", "sign_in_ended", "sign_in_burned", "key_set", "key_refused", "wrong_code"}
    assert events >= {"pairing_asked", "allowed", "denied"}
    for kind in ("BrowserBinding", "KeyForm", "Pending", "Listed"):
        assert f"\n{kind}: " in watcher.places["reprs"][0], kind
    assert len(watcher.places["files"]) >= 4
    leaks = watcher.found(allowed=(*FOR_THE_ONE_WHO_ASKED, *IN_THE_RECORD, ("page", "csrf")))
    assert not leaks, "\n".join(leaks)


def make_public(home: Path) -> None:
    config = yaml.safe_load((home / "config.yaml").read_text())
    port = config["gateway"]["callback"]["port"]
    more = {"public_url": f"http://127.0.0.1:{port}", "allow": [ANN, BOB], "admins": [ANN, BOB], "verify": "code"}
    config["gateway"] |= more
    (home / "config.yaml").write_text(yaml.safe_dump(config))


async def proven(host: Host, browser: Browser, link: str, watcher: Watcher) -> Page:
    """Up to the page that shows the code, everything on the way noted as a secret."""
    count = len(watcher.secrets)
    watcher.secrets[f"ticket {count}"] = link.rpartition("/")[2]
    start = await browser.open(link)
    watcher.secrets[f"csrf {count}"] = start.fields["form"]
    page = await browser.press(start)
    watcher.secrets[f"confirm {count}"] = page.code
    watcher.secrets[f"confirm plain {count}"] = page.code.replace("-", "")
    return page


async def sign_in_on_pages(host: Host, browser: Browser, other: Browser, oauth: OAuthServer, watcher: Watcher) -> None:
    for private in (False, True):
        link = host.say("auth notes", private, ANN)["links"][0]
        page = await proven(host, browser, link, watcher)
        assert (await other.open(page.url)).status == 403
        assert not host.say("confirm ACDE-FGHJ", True, ANN)["ok"]
        assert not host.say(f"confirm {page.code}", False, ANN)["ok"]
        host.stored()
        assert host.say(f"confirm {page.code}", True, ANN)["ok"]
        redirect = await browser.authorize(await browser.open(page.url))
        if not private:
            code = parse_qs(urlsplit(redirect).query)["code"][0]
            oauth.knobs.token_answers = [JSONResponse({"error": code, "error_description": f"bad {code}"}, 400)]
        host.stored()
        assert (await other.open(redirect)).status == 403
        await other.request("HEAD", redirect)
        assert (await browser.open(redirect.replace("state=", "state=0"))).status == 400
        done = await browser.open(redirect)
        assert done.heading == ("notes is connected" if private else "notes is not connected")
        assert (await browser.open(redirect)).heading == done.heading
        if private:
            # Codes and addresses are counted together, ten in ten minutes
            host.say(redirect, False, BOB)
            host.say(f"paste {redirect}", True, BOB)
    host.say("", False, ANN)
    host.say("notes", False, ANN)


async def burn_a_link(host: Host, other: Browser, watcher: Watcher) -> None:
    page = await proven(host, other, host.say("auth team", False, ANN)["links"][0], watcher)
    assert not host.say(f"confirm {page.code}", False, BOB)["ok"]
    page = await proven(host, other, host.say("auth team", False, ANN)["links"][0], watcher)
    host.say(f"confirm {page.code}", False, STRANGER)
    host.say("cancel team", False, ANN)


async def type_keys_into_a_page(host: Host, browser: Browser, oauth: OAuthServer, watcher: Watcher) -> None:
    oauth.knobs.api_key = PLANTED["accepted key"]
    page = await proven(host, browser, host.say("key my-api", False, ANN)["links"][0], watcher)
    assert host.say(f"confirm {page.code}", True, ANN)["ok"]
    form = await browser.open(page.url)
    refused = await browser.press(form, "key", key0=PLANTED["refused key"])
    assert "refuses this key" in refused.text
    watcher.show("page", refused.source)
    await browser.press(form, "key", key0=PLANTED["key typed into a chat"] + "\n${X}")
    done = await browser.press(form, "key", key0=f"Bearer {PLANTED['accepted key']}")
    assert done.heading == "The key for my-api is stored", done.text
    watcher.show("page", done.source)
    assert host.say("test my-api", False, ANN)["ok"]
    oauth.knobs.api_key = None


def let_a_stranger_in(host: Host, watcher: Watcher) -> None:
    host.say("", False, STRANGER)
    code = ask_to_be_let_in(host, watcher, "telegram:400004")
    assert not host.say("allow ACDE-FGHJ", True, ANN)["ok"]
    assert not host.say(f"allow {code}", False, ANN)["ok"]
    host.stored()
    assert host.say(f"allow {code}", True, ANN)["ok"]
    assert host.say("people", True, ANN)["ok"]
    assert host.say("deny telegram:400004", True, BOB)["ok"]
    ask_to_be_let_in(host, watcher, "telegram:500005")


def ask_to_be_let_in(host: Host, watcher: Watcher, who: str) -> str:
    told = host.say("", True, who)["private"]
    code = next(match[1] for text in told if (match := re.search(r"assistant: (\w{8})\.", text)))
    watcher.secrets[f"pairing {who}"] = code
    return code


# -- the command line ------------------------------------------------------------------------


def fail_to_begin(host: Host, oauth: OAuthServer) -> None:
    knobs = oauth.knobs
    knobs.metadata_status = 500
    assert not host.say("auth notes", True)["ok"]
    knobs.metadata_status = 200
    knobs.registration = PlainTextResponse("go away", 403)
    assert not host.call("sign_in", "notes", "shared", None)["ok"]
    assert not host.sign_in("notes", "cli:local")["ok"]
    knobs.registration = None


def sign_in(host: Host, oauth: OAuthServer) -> None:
    link = host.say("auth notes", False)["links"][0]
    host.stored()
    assert host.say("auth notes", False)["links"][0] == link
    assert host.sign_in("notes", "cli:local")["ok"]
    assert not host.sign_in("notes", "telegram:7")["ok"]
    redirect = authorize(link)
    # A forgery, a scanner, the answer, and the answer again
    assert visit(redirect.replace("state=", "state=0")).status_code == 400
    httpx2.head(redirect)
    assert visit(redirect).status_code == 200
    assert visit(redirect).status_code == 409
    host.say(f"paste {redirect}", False)
    host.say(f"paste {redirect}", True)
    # And a consent that is refused
    oauth.knobs.authorize_error = {"error": "access_denied", "error_description": "no"}
    visit(authorize(host.say("auth notes", True)["links"][0]))
    oauth.knobs.authorize_error = None


def sign_in_by_paste(host: Host, oauth: OAuthServer, watcher: Watcher) -> None:
    for answer in (
        # Servers that repeat what they were sent
        lambda form: JSONResponse({"error": "invalid_grant", "error_description": f"bad {form['code']}"}, 400),
        lambda form: HTMLResponse(f"<h1>{form['code']}</h1>", 500),
        lambda form: JSONResponse({"error": form["code"]}, 400),
        lambda form: "drop",
    ):
        redirect = authorize(host.say("auth team", True)["links"][0])
        code = parse_qs(urlsplit(redirect).query)["code"][0]
        oauth.knobs.token_answers = [answer({"code": code})]
        assert not host.say(f"paste {redirect}", True)["ok"]
    redirect = authorize(host.say("auth team", True)["links"][0])
    assert host.say(redirect, False)["ok"]
    assert not host.say(redirect, True)["ok"]


def use_and_refresh(host: Host, oauth: OAuthServer) -> None:
    assert host.call("access_token", "notes")["ok"]
    for method in ("headers", "http_auth", "status", "probe", "statuses", "open_sign_ins", "key_variables"):
        host.call(method, *(() if method in ("statuses", "open_sign_ins") else ("notes",)))
    oauth.expire_access_tokens()
    assert host.say("test notes", True)["ok"]
    assert oauth.refreshes == 1
    refresh_token = list(oauth.refresh)[-1]
    for answer in (
        JSONResponse({"error": "temporarily_unavailable", "error_description": f"not now, {refresh_token}"}, 503),
        Response(b"\xff\xfe", 200),
        PlainTextResponse("no", 403),
    ):
        oauth.knobs.mcp_answers = [answer]
        host.session("notes")
    oauth.expire_access_tokens()
    oauth.knobs.token_answers = [
        JSONResponse({"error": "temporarily_unavailable", "error_description": f"not now, {refresh_token}"}, 503)
    ]
    assert not host.say("test notes", False)["ok"]
    assert not host.call("access_token", "no-such-server")["ok"]
    host.say("", True)
    host.say("notes", True)


def enter_keys(host: Host, oauth: OAuthServer) -> None:
    oauth.knobs.api_key = PLANTED["accepted key"]
    host.say("key my-api", True)
    assert not host.secret(PLANTED["refused key"])["ok"]
    assert not host.secret(f"{PLANTED['refused key']} ${{X}}")["ok"]
    assert host.secret(f"Bearer {PLANTED['accepted key']}")["ok"]
    assert host.say("test my-api", False)["ok"]
    host.say("key dead", True)
    assert host.secret(PLANTED["key for a dead server"])
    host.say(f"key my-api {PLANTED['key typed into a chat']}", False)
    host.say(f"key my-api {PLANTED['key typed into a chat']}", True)
    oauth.knobs.api_key = "another"
    assert not host.session("my-api")["ok"]
    host.call("try_keys", "my-api", {"API_KEY": PLANTED["refused key"]})
    host.call("set_keys", "my-api", {"OTHER": PLANTED["refused key"]})
    host.call("set_keys", "my-api", {"API_KEY": PLANTED["refused key"] + "\n2"})
    oauth.knobs.api_key = None


@pytest.mark.service
def test_the_command_line_shows_no_secret(tmp_path: Path, oauth: OAuthServer, watcher: Watcher) -> None:
    home = write_home(tmp_path, oauth)

    def run(*arguments: str, stdin: str = "") -> str:
        done = slash_mcp(home, "--debug", *arguments, stdin=stdin, PYTHONASYNCIODEBUG="1")
        for_the_person = arguments[0] in ("auth", "chat")
        watcher.show("private" if for_the_person else "standard output", done.stdout)
        watcher.show("standard error", done.stderr)
        return done.stdout

    with Arguments() as arguments:
        for command in (["list"], ["list", "--json"], ["list", "--probe"], ["doctor"]):
            run(*command)
        link = next(line for line in run("auth", "notes", "--no-wait").splitlines() if line.startswith("http"))
        assert "Signed in" in run("paste", "-", stdin=authorize(link) + "\n")
        run("test", "notes", "--json")
        oauth.knobs.api_key = PLANTED["accepted key"]
        run("key", "my-api", "--stdin", stdin=PLANTED["refused key"] + "\n")
        run("key", "my-api", "--stdin", stdin=PLANTED["accepted key"] + "\n")
        oauth.knobs.api_key = None
        run("chat", stdin=f"/mcp\n/mcp test files\nkey my-api {PLANTED['key typed into a chat']}\n/mcp notes\n")
        without_platforms(home)
        with Running(home, "--debug", "serve") as serve:
            serve.wait_for_error("callback endpoint")
            link = next(line for line in run("auth", "notes", "--no-wait").splitlines() if line.startswith("http"))
            assert visit(authorize(link)).status_code == 200
        watcher.show("standard error", "\n".join(serve.errors))
        run("logout", "notes")
    learn(watcher, oauth)
    watcher.show("process arguments", "\n".join(arguments.seen))
    assert _COMMAND in watcher.places["process arguments"][0]
    leaks = watcher.found(allowed=FOR_THE_PERSON)
    assert not leaks, "\n".join(leaks)


def without_platforms(home: Path) -> None:
    config = yaml.safe_load((home / "config.yaml").read_text())
    del config["gateway"]["telegram"], config["gateway"]["slack"]
    (home / "config.yaml").write_text(yaml.safe_dump(config))


# -- the watcher itself ----------------------------------------------------------------------


@pytest.mark.service
def test_a_leak_in_any_place_is_noticed(tmp_path: Path, oauth: OAuthServer, watcher: Watcher) -> None:
    home = write_home(tmp_path, oauth)
    host = Host(tmp_path / "out", home, watcher)
    watcher.secrets = {"canary": PLANTED["client secret"]}
    with Arguments() as arguments:
        host.leak(PLANTED["client secret"])
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)", PLANTED["client secret"]], check=True)
        host.finish()
    watcher.show("process arguments", "\n".join(arguments.seen))
    places = ("log", "reprs", "tracebacks", "public", "private", "process arguments")
    assert set(watcher.found()) == {f"{place}: canary" for place in places}
    assert watcher.found(allowed=(("private", "canary"),)).count("private: canary") == 0


@pytest.mark.parametrize("before", ["", "x", "xy", "client:"])
@pytest.mark.parametrize("after", ["", "z", "zz"])
@pytest.mark.parametrize(
    "dress",
    [
        str,
        quote,
        quote_plus,
        repr,
        json.dumps,
        lambda text: quote(text, safe=""),
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
        lambda text: text.encode().hex(),
    ],
    ids=["plain", "quote", "quote_plus", "repr", "json", "quote-all", "base64", "base64url", "hex"],
)
def test_a_secret_is_known_in_every_dress(before: str, after: str, dress: Any) -> None:
    secret = 'sk-Ca+/n?ary "7"~é='
    watcher = Watcher()
    watcher.secrets["canary"] = secret
    watcher.show("log", dress(before + secret + after))
    assert watcher.found() == ["log: canary"]
    watcher.secrets["canary"] = "sk-another"
    assert watcher.found() == []
