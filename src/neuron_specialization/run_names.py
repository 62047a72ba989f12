"""Names of runs: a system or selection under a seed. The first seed's is the plain name (config/runs.py)."""

from __future__ import annotations

SEPARATOR = "@"


def split_run(run: str) -> tuple[str, int | None]:
    """``ns@223`` → (``ns``, 223); ``ns`` → (``ns``, None): the first seed."""
    name, separator, seed = run.partition(SEPARATOR)
    return name, int(seed) if separator else None
