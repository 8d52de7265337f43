"""Ports for what a test starts a moment later."""

from __future__ import annotations

from adapters.testing.ports import free_port

__all__ = ["free_port"]
