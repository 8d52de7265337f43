"""Matrix, on matrix-nio."""

from __future__ import annotations

from adapters.matrix.adapter import MatrixAdapter
from adapters.matrix.options import MatrixOptions

__all__ = ["MatrixAdapter", "MatrixOptions"]
