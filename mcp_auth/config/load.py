"""Reading a configuration: YAML (Hermes' `mcp_servers`) or `.mcp.json`."""

from __future__ import annotations

import os
from pathlib import Path

from mcp_auth.config.models import Config
from mcp_auth.config.sections import absolute
from mcp_auth.small_files import exists


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
            what is trusted (see `mcp_auth.config.permissions`).
    """
    from mcp_auth.config.permissions import check_home
    from mcp_auth.config.sections import Loading

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
