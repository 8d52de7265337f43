"""Matrix, on matrix-nio."""

from __future__ import annotations

from adapters.matrix.adapter import MatrixAdapter, MatrixOptions

__all__ = ["MatrixAdapter", "MatrixOptions"]
