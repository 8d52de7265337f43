"""The configuration: typed models, and reading them from YAML (Hermes' `mcp_servers`) or `.mcp.json`.

Templates (`${VAR}`) stay as written; `mcp_auth.variables` resolves them at each use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

Transport = Literal["http", "sse", "stdio"]


class OAuthOptions(msgspec.Struct, kw_only=True, frozen=True):
    """The `oauth:` block of a server (design, section 5)."""

    client_id: str | None = None
    client_secret: str | None = None
    scope: str | None = None
    redirect_uri: str | None = None
    redirect_host: str | None = None
    redirect_port: int | None = None
    client_name: str | None = None
    client_metadata_url: str | None = None
    cimd: bool = True
    token_endpoint_auth_method: Literal["none", "client_secret_post", "client_secret_basic"] | None = None
    application_type: Literal["native", "web"] | None = None
    authorize_params: dict[str, str] = msgspec.field(default_factory=dict)
    timeout: float | None = None
    # False: send no `resource` parameter (Entra). A string: send this one.
    resource: str | bool = True
    legacy: bool = False


class ToolFilter(msgspec.Struct, kw_only=True, frozen=True):
    """Globs over tool names. `include` wins: when it is given, `exclude` is not looked at."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def selects(self, tool: str) -> bool:
        raise NotImplementedError


class Server(msgspec.Struct, kw_only=True, frozen=True):
    """One entry of `mcp_servers`. Exactly one of `url` and `command` is set unless `problem` is."""

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
    timeout: float | None = None
    connect_timeout: float | None = None
    # Why the entry cannot be used, one sentence with file, line and key; the other servers keep working.
    problem: str | None = None


class CallbackOptions(msgspec.Struct, kw_only=True, frozen=True):
    host: str = "127.0.0.1"
    port: int = 8765


class NetworkOptions(msgspec.Struct, kw_only=True, frozen=True):
    # Host names, addresses and CIDR blocks that metadata may point to although they are private.
    allow: tuple[str, ...] = ()
    proxy: str | None = None


class GatewayOptions(msgspec.Struct, kw_only=True, frozen=True):
    """The `gateway:` section. `platforms` holds each platform's own section, e.g. `telegram`, as raw mappings."""

    public_url: str | None = None
    callback: CallbackOptions = CallbackOptions()
    store: str = "files"
    identity: Literal["shared", "per_user"] = "shared"
    allow: tuple[str, ...] = ()
    admins: tuple[str, ...] = ()
    people: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    verify: Literal["auto", "code", "browser", "none"] = "auto"
    allow_paste: bool = False
    network: NetworkOptions = NetworkOptions()
    platforms: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


class Config(msgspec.Struct, kw_only=True, frozen=True):
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


def find_home(home: str | Path | None = None) -> Path:
    """`home`, else `$SLASH_MCP_HOME`, else `~/.slash-mcp` (absolute, `~` expanded)."""
    raise NotImplementedError


def load(path: str | Path | None = None, home: str | Path | None = None) -> Config:
    """Read the configuration. Without `path`: `<home>/config.yaml`; a missing default file is an empty configuration.

    Raises:
        ConfigError: the file cannot be read or is no YAML mapping, or its `gateway:` section is wrong.
    """
    raise NotImplementedError
