"""The storage port and what stands behind it."""
