"""An interpreter in the place of COMET's: scores the i-th segment 0.1·i and writes down what it was asked."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

_SCRIPT = """#!{python}
import json, sys
request = json.load(sys.stdin)
json.dump(request, open({log!r}, "w"))
checkpoint = request["checkpoint"] or {log!r}
jobs = [[0.1 * (i + 1) for i in range(len(job["reference"]))] for job in request["jobs"]]
json.dump({{"version": "2.2.7", "checkpoint": checkpoint, "jobs": jobs}}, open(request["output"], "w"))
"""


def executable(path: Path, text: str) -> str:
    """Write a script that can be run."""
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def write_comet_python(path: Path, log: Path) -> str:
    """Write the interpreter; its request goes to ``log``."""
    return executable(path, _SCRIPT.format(python=sys.executable, log=str(log)))


def write_comet_model(folder: Path) -> Path:
    """Write what a model's folder holds, without a model."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "model.ckpt").write_bytes(b"weights")
    (folder / "hparams.yaml").write_text("{}", encoding="utf-8")
    return folder
