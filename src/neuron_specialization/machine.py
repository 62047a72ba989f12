"""What this machine has, as far as it can be told."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def usable_cores() -> int:
    """Cores this process may run on; fewer than the machine's in a container or a SLURM job."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """The processor's model, by its maker's name where the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine() or "unknown"
