"""The typed models of a configuration.

Templates (`${VAR}`) stay as written; `mcp_auth.config.variables` resolves them at each use.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from mcp_auth.errors import ConfigError
from mcp_auth.redaction import Redacted

Transport = Literal["http", "sse", "stdio"]


# A day: beyond that a timeout is no bound.
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


# The stores that there are.
STORES = ("files",)


# Never the value: it may hold a password.
STORE_CLAUSE = f"must be {' or '.join(STORES)}; this version has no other store."


class Settings(Redacted, msgspec.Struct, kw_only=True, frozen=True):
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

    @property
    def max_body(self) -> int:
        """`max_body_mb` in bytes."""
        return self.max_body_mb * 1024 * 1024


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


def mirror_name(name: str) -> str:
    """The name under which Hermes keeps this server's files in `mcp-tokens/`."""
    return re.sub(r"[^\w\-]", "_", name).strip("_")[:128] or "default"


def is_name(text: str) -> bool:
    """Whether a server may be called so."""
    return bool(text.strip()) and text.isprintable() and len(text) <= 200
