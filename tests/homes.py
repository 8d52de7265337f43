"""Homes for tests: a configuration written as a person writes it, and an `McpAuth` opened on it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import yaml

from mcp_auth import McpAuth
from mcp_auth.records import Origin

ME = Origin(principal="cli:local")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_home(folder: Path, servers: dict[str, Any], gateway: dict[str, Any] | None = None) -> Path:
    home = folder / "home"
    home.mkdir(mode=0o700, exist_ok=True)
    section = {"callback": {"port": free_port()}, **(gateway or {})}
    (home / "config.yaml").write_text(yaml.safe_dump({"mcp_servers": servers, "gateway": section}))
    return home


def open_auth(folder: Path, servers: dict[str, Any], gateway: dict[str, Any] | None = None, **options: Any) -> McpAuth:
    return McpAuth.open(home=write_home(folder, servers, gateway), **options)
