"""`slash-mcp init` and `slash-mcp add`: writing the configuration, with every comment kept."""

from __future__ import annotations

import io
import re
from argparse import Namespace
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from adapters.cli.cli import OK
from adapters.terminal.screen import Progress, say
from mcp_auth.config.load import find_home, load
from mcp_auth.config.models import Config, Server, is_name
from mcp_auth.config.permissions import check_home
from mcp_auth.config.urls import url_problem
from mcp_auth.errors import ConfigError, NotAllowed, Unreachable
from mcp_auth.net.names import run
from mcp_auth.outcome import Next

_TEMPLATE = """# slash-mcp: which MCP servers there are, and who may use them from where.
# Values in ${...} come from the file .env beside this one, then from the environment.

mcp_servers:
  # signed in to with OAuth:
  # notion: {url: https://mcp.notion.com/mcp, auth: oauth}

  # wants an API key; `slash-mcp key my-api` asks for it and stores it in .env:
  # my-api:
  #   url: https://api.example.com/mcp
  #   headers: {Authorization: "Bearer ${MCP_MY_API_API_KEY}"}
  #   tools: {include: [read_*, search]}

  # a command on this machine:
  # files: {command: npx, args: [-y, "@modelcontextprotocol/server-filesystem", /srv]}

gateway:
  # Where the browser comes back to on this machine.
  callback: {host: 127.0.0.1, port: 8765}
  # Who is served besides the operator at this terminal; others get a code for `slash-mcp allow CODE`.
  # allow: [telegram:123456789]
"""


def run_init(options: Namespace) -> int:
    """Write a commented configuration. One that exists is left alone."""
    path = Path(options.config).expanduser() if options.config else find_home(options.home) / "config.yaml"
    check_home(path.parent)
    if path.exists():
        raise NotAllowed(
            f"{path} exists already and is left as it is.", next_step=Next("add", arguments=("NAME", "URL"))
        )
    from mcp_auth.stores.durable import replace_file

    replace_file(path.absolute(), _TEMPLATE.encode())
    say(f"Wrote {path}.", next_step=Next("add", arguments=("NAME", "URL")))
    return OK


def run_add(options: Namespace) -> int:
    """Add one server: looked at first, then written into the configuration."""
    config = load(options.config, options.home)
    path = config.path or config.home / "config.yaml"
    if path.suffix == ".json":
        raise NotAllowed(
            f"{path} is JSON; servers are added to a YAML file.", next_step=Next("init", arguments=("--home", "DIR"))
        )
    taken = [name for name in config.servers if name.casefold() == options.name.casefold()]
    if taken:
        raise NotAllowed(
            f"{taken[0]} is in the configuration already.", next_step=f"choose another name, or edit {path}"
        )
    if not is_name(options.name):
        raise ConfigError(
            "The name is empty, too long or holds control characters.",
            next_step=Next("add", arguments=("NAME", "URL"), around="choose another: {}"),
        )
    problem = url_problem(options.url)
    if problem is not None:
        raise ConfigError(f"{options.url.partition('?')[0]} {problem}.", next_step="give an https URL")
    with Progress(f"asking {urlsplit(options.url).hostname}..."):
        finding = run(_look(config, options.name, options.url))
    wants_sign_in = finding is _Finding.SIGN_IN
    _write(path, options.name, {"url": options.url, **({"auth": "oauth"} if wants_sign_in else {})})
    next_step = Next("auth" if wants_sign_in else "test", options.name)
    if finding is _Finding.CREDENTIAL:
        variable = re.sub(r"\W+", "_", f"MCP_{options.name}_API_KEY", flags=re.ASCII).upper()
        header = f'headers: {{Authorization: "Bearer ${{{variable}}}"}}'
        next_step = Next("key", options.name, around=f"give it {header} there, then: {{}}")
    say(f"Added {options.name} to {path}: {finding}.", next_step=next_step)
    return OK


class _Finding(StrEnum):
    SIGN_IN = "it asks for a sign-in"
    CREDENTIAL = "it offers no sign-in and answers nobody without a credential, so it may want an API key"
    NOTHING = "it asks for no sign-in"


async def _look(config: Config, name: str, url: str) -> _Finding:
    """What the server asks for.

    Raises:
        Unreachable: it does not answer.
    """
    import msgspec

    from mcp_auth.core import McpAuth
    from mcp_auth.stores.memory import MemoryStore

    trial = msgspec.structs.replace(config, servers={name: Server(name=name, url=url)})
    async with McpAuth.open(trial, store=MemoryStore()) as auth:
        try:
            profile = await auth.parts.profiles.probe(trial.servers[name])
        except Unreachable as error:
            raise Unreachable(
                f"{error.message} Nothing was added.",
                next_step=Next("add", name, ("URL",), around="check the address, then: {}"),
            ) from None
    if profile.needs_sign_in:
        return _Finding.SIGN_IN
    return _Finding.CREDENTIAL if profile.trouble is not None else _Finding.NOTHING


def _write(path: Path, name: str, entry: dict[str, str]) -> None:
    """Put the entry into the YAML file; comments, order and quotes of the rest stay."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    from mcp_auth.config.documents import MAX_BYTES
    from mcp_auth.small_files import read_small_file
    from mcp_auth.stores.durable import replace_file

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    text = read_small_file(path, MAX_BYTES)[0].decode("utf-8-sig") if path.exists() else _TEMPLATE
    document: Any = yaml.load(text)
    if document is None:
        document = CommentedMap()
    if document.get("mcp_servers") is None:
        # A key with nothing but comments under it reads as null; the comments stay where they are.
        document["mcp_servers"] = CommentedMap()
    document["mcp_servers"][name] = CommentedMap(entry)
    written = io.StringIO()
    yaml.dump(document, written)
    replace_file(path.absolute(), written.getvalue().encode())
