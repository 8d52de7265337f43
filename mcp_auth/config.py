"""The configuration: typed models, and reading them from YAML (Hermes' `mcp_servers`) or `.mcp.json`.

Templates (`${VAR}`) stay as written; `mcp_auth.variables` resolves them at each use.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec

from mcp_auth.errors import ConfigError
from mcp_auth.masked import Masked
from mcp_auth.network import is_loopback_host, is_loopback_url
from mcp_auth.small_files import exists

Transport = Literal["http", "sse", "stdio"]
# A day: beyond that a timeout is no bound.
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


# The stores that there are.
STORES = ("files",)
# Never the value: it may hold a password.
STORE_CLAUSE = f"names a store that this version does not have; it must be {' or '.join(STORES)}."


class Settings(Masked, msgspec.Struct, kw_only=True, frozen=True):
    """Base of the models; `repr` does not show the fields of `__secret__`."""


class OAuthOptions(Settings, frozen=True):
    """The `oauth:` block of a server (docs/architecture.md). `redirect_port: 0` in the file means none."""

    __secret__: ClassVar[frozenset[str]] = frozenset({"client_secret", "authorize_params"})

    client_id: str | None = None
    client_secret: str | None = None
    scope: str | None = None
    redirect_uri: str | None = None
    redirect_host: str | None = None
    redirect_port: Port | None = None
    client_name: str | None = None
    client_metadata_url: str | None = None
    cimd: bool = True
    token_endpoint_auth_method: Literal["none", "client_secret_post", "client_secret_basic"] | None = None
    application_type: Literal["native", "web"] | None = None
    # null removes a parameter that would be sent otherwise.
    authorize_params: dict[str, str | None] = msgspec.field(default_factory=dict)
    timeout: Seconds | None = None
    # False: send no `resource` parameter (Entra). A string: send this one.
    resource: str | bool = True
    # The issuer to accept where the metadata names another one than the server does; `{tenantid}` is any one GUID.
    issuer: str | None = None
    # `scope` is a ceiling; true: what a server asks for on top may be added.
    step_up: bool = False
    legacy: bool = False


class ToolFilter(Settings, frozen=True):
    """Globs over tool names. `include` wins: when it is given, `exclude` is not looked at."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def selects(self, tool: str) -> bool:
        if self.include:
            return any(fnmatchcase(tool, pattern) for pattern in self.include)
        return not any(fnmatchcase(tool, pattern) for pattern in self.exclude)


class Server(Settings, frozen=True):
    """One entry of `mcp_servers`. Exactly one of `url` and `command` is set unless `problem` is."""

    __secret__: ClassVar[frozenset[str]] = frozenset({"url", "args", "env", "headers"})

    name: str
    url: str | None = None
    command: str | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=dict)
    cwd: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    auth: Literal["oauth"] | None = None
    oauth: OAuthOptions = OAuthOptions()
    transport: Transport = "http"
    enabled: bool = True
    tools: ToolFilter = ToolFilter()
    identity: Literal["shared", "per_user"] | None = None
    allow_http: bool = False
    timeout: Seconds | None = None
    connect_timeout: Seconds | None = None
    # Why the entry cannot be used, one sentence with file, line and key; the other servers keep working.
    problem: str | None = None

    def templates(self) -> dict[str, str]:
        """Every text that may hold placeholders, by where it stands (`headers.Authorization`)."""
        single = {
            "url": self.url,
            "command": self.command,
            "cwd": self.cwd,
            "oauth.client_id": self.oauth.client_id,
            "oauth.client_secret": self.oauth.client_secret,
        }
        return {
            **{where: text for where, text in single.items() if text is not None},
            **{f"args[{index}]": text for index, text in enumerate(self.args)},
            **{f"headers.{name}": text for name, text in self.headers.items()},
            **{f"env.{name}": text for name, text in self.env.items()},
        }

    def needed_templates(self) -> list[str]:
        """Every template whose variables must have values before the server can be used."""
        templates = [*self.headers.values(), *self.env.values(), *self.args]
        if self.oauth.client_secret is not None:
            templates.append(self.oauth.client_secret)
        return templates


class CallbackOptions(Settings, frozen=True):
    host: str = "127.0.0.1"
    port: Port = 8765


class NetworkOptions(Settings, frozen=True):
    __secret__: ClassVar[frozenset[str]] = frozenset({"proxy"})

    # Host names, addresses and CIDR blocks that metadata may point to although they are private.
    allow: tuple[str, ...] = ()
    proxy: str | None = None
    # Megabytes of one answer, or one event, of an MCP server; after decompression.
    max_body_mb: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8


class GatewayOptions(Settings, frozen=True, dict=True):
    """The `gateway:` section. `platforms` holds each platform's own section, e.g. `telegram`, as raw mappings."""

    __secret__: ClassVar[frozenset[str]] = frozenset({"store", "platforms"})

    public_url: str | None = None
    callback: CallbackOptions = CallbackOptions()
    store: str = "files"
    identity: Literal["shared", "per_user"] = "shared"
    allow: tuple[str, ...] = ()
    admins: tuple[str, ...] = ()
    people: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    verify: Literal["auto", "code", "browser", "none"] = "auto"
    allow_paste: bool = False
    # Addresses and networks of proxies whose X-Forwarded-For is believed; those of this machine unless said otherwise.
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    network: NetworkOptions = NetworkOptions()
    platforms: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)

    @cached_property
    def names(self) -> dict[str, str]:
        """Whose account each principal of `people` is. Asked for every server of every answer, hence the index."""
        found: dict[str, str] = {}
        for name, members in self.people.items():
            for principal in members:
                found.setdefault(principal, name)
        return found

    @cached_property
    def persons(self) -> frozenset[str]:
        """Everybody in `allow`, joined by `people`. The operator at the terminal is not counted."""
        return frozenset(self.person_of(one) for one in self.allow if not one.startswith("cli:"))

    def person_of(self, principal: str) -> str:
        """The one human behind a principal, in the form of an owner: `person:ann`, else `principal:telegram:123`."""
        name = self.names.get(principal)
        return f"principal:{principal}" if name is None else f"person:{name}"


class Config(Settings, frozen=True):
    """Everything read, and where from. `warnings` are sentences to show once."""

    home: Path
    path: Path | None
    servers: dict[str, Server]
    gateway: GatewayOptions = GatewayOptions()
    # Variables that `gateway:` mentions; they never resolve in a server's entry.
    gateway_variables: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()

    @property
    def env_file(self) -> Path:
        return self.home / ".env"


def check_store(config: Config) -> None:
    """Refuse a `gateway.store` that this version does not have.

    Raises:
        ConfigError: it is another one than `files`.
    """
    if config.gateway.store not in STORES:
        raise ConfigError(
            f"gateway.store {STORE_CLAUSE}",
            file=str(config.path) if config.path is not None else None,
            key="gateway.store",
            next_step="set gateway.store: files, or remove the line",
        )


def accounts_of(owner: str, gateway: GatewayOptions) -> tuple[str, ...]:
    """The accounts behind an owner of the form `person:ann`, as the configuration says now; of others none."""
    return gateway.people.get(owner.removeprefix("person:"), ()) if owner.startswith("person:") else ()


def reused_name(owner: str, accounts: tuple[str, ...], gateway: GatewayOptions) -> str | None:
    """Why what these accounts made is not this owner's any more, a sentence: the name is somebody else's by now."""
    if not accounts or not owner.startswith("person:") or set(accounts) & set(accounts_of(owner, gateway)):
        return None
    name = owner.removeprefix("person:")
    return f"None of the accounts that made it is {name}'s any more (gateway.people)."


def is_per_user(server: Server, gateway: GatewayOptions) -> bool:
    """Whether everybody has credentials of their own at this server."""
    return (server.identity or gateway.identity) == "per_user"


class PeopleProblem(msgspec.Struct, frozen=True):
    """Why this many people cannot be served: a key below `gateway:`, what is wrong with it, and what to do."""

    key: str
    clause: str
    next_step: str


def people_problem(gateway: GatewayOptions, servers: Mapping[str, Server]) -> PeopleProblem | None:
    """What must be configured before more than one person is served."""
    if len(gateway.persons) < 2:
        return None
    if gateway.verify == "none":
        return PeopleProblem(
            "verify",
            "is none while several people are allowed; then anybody could finish somebody else's sign-in",
            "remove gateway.verify, or set it to auto",
        )
    shares = any(not is_per_user(server, gateway) for server in servers.values() if server.enabled)
    if shares and not gateway.admins:
        return PeopleProblem(
            "admins",
            "is missing: several people share a server, and it must be said who may change its sign-in",
            "add gateway.admins, or set gateway.identity to per_user",
        )
    return None


def find_home(home: str | Path | None = None) -> Path:
    """`home`, else `$SLASH_MCP_HOME`, else `~/.slash-mcp` (absolute, `~` expanded).

    Raises:
        ConfigError: `~` stands for no folder that is known.
    """
    return absolute(Path(home or os.environ.get("SLASH_MCP_HOME") or "~/.slash-mcp"))


def load(path: str | Path | None = None, home: str | Path | None = None) -> Config:
    """Read the configuration. Without `path`: `<home>/config.yaml`; a missing default file is an empty configuration.

    Raises:
        ConfigError: the file cannot be read or is no YAML mapping, its `gateway:` section is wrong, or others may write
            what is trusted (see `mcp_auth.permissions`).
    """
    from mcp_auth.config_sections import Loading
    from mcp_auth.permissions import check_home

    home = find_home(home)
    file = absolute(Path(path)) if path else home / "config.yaml"
    if not path and not exists(file):
        check_home(home)
        return Config(home=home, path=None, servers={})
    loading = Loading()
    # Before anything of it is believed.
    check_home(home, [file])
    loading.add_file(file)
    check_home(home, loading.files)
    return loading.config(home)


def mirror_name(name: str) -> str:
    """The name under which Hermes keeps this server's files in `mcp-tokens/`."""
    return re.sub(r"[^\w\-]", "_", name).strip("_")[:128] or "default"


def url_problem(url: str, *, allow_http: bool = False, oauth: bool = False) -> str | None:
    """Why `url` cannot be a server's URL, as a clause ("has no host"); None when it can.

    Args:
        url: a URL or a template; a placeholder stands for anything but the scheme.
        allow_http: plain http may go beyond loopback.
        oauth: OAuth travels on it, so plain http beyond loopback is refused whatever `allow_http` says
            (RFC 9700, MCP authorization).
    """
    problem, parts = split_url(url)
    if parts is None or problem:
        return problem
    if parts.scheme == "https" or is_loopback_host(parts.hostname or ""):
        return None
    if oauth:
        return "is plain http beyond loopback, and OAuth never goes over that; allowed is https"
    return None if allow_http else "is plain http beyond loopback; allowed is https, or http with allow_http: true"


def is_name(text: str) -> bool:
    """Whether a server may be called so."""
    return bool(text.strip()) and text.isprintable() and len(text) <= 200


def public_url_problem(url: str) -> str | None:
    """Why `url` is neither https nor http on loopback."""
    problem, parts = split_url(url)
    if problem or parts is None or parts.scheme == "https" or is_loopback_url(url):
        return problem
    return "is plain http beyond loopback; allowed is https, or http on loopback"


def split_url(url: str) -> tuple[str | None, SplitResult | None]:
    """What is wrong with the form of an http(s) URL, and its parts (None when the scheme is a placeholder)."""
    # A digit stands in for a placeholder: it fits a host name, a port and a path alike.
    plain = re.sub(r"\$\{[^}]*\}", "1", url) if "${" in url else url
    if url.startswith("${") and not re.match(r"1[^:/?#]*://", plain) and "@" not in plain and "#" not in plain:
        return None, None
    if not plain.isprintable() or " " in plain or "\\" in plain:
        return "is no URL: it holds white space, a control character or a backslash", None
    try:
        parts = urlsplit(plain)
        port = parts.port
    except ValueError:
        return "is no URL that can be read", None
    if "://" not in plain:
        return "is no address that begins with https://", None
    if parts.scheme not in {"http", "https"}:
        return "has another scheme; allowed are https and http", None
    if "@" in parts.netloc:
        return "has a user name in it; put credentials into headers", None
    if "#" in plain:
        return "has a fragment (#...), and none is allowed", None
    if not parts.hostname or port == 0:
        return "has no host, or no usable port", None
    return None, parts


def absolute(path: Path) -> Path:
    """`path` with `~` expanded, from the root on. Raises ConfigError when `~` is not known."""
    try:
        return path.expanduser().absolute()
    except (RuntimeError, ValueError):
        raise ConfigError("the home folder that ~ stands for is not known") from None
