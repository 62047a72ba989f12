"""Run COMET. A script for the Python of COMET's own environment; it imports nothing of this package.

unbabel-comet pins NumPy below 2 and its own transformers and Lightning, so it cannot live beside the rest
(envs/comet.yaml). ``comet.py`` starts this file with ``python -I`` and a request on standard input::

    {"model": name or null, "checkpoint": path or null, "gpus": n, "batch_size": n, "output": path,
     "jobs": [{"source": [...], "hypothesis": [...], "reference": [...]}, …]}

and reads ``{"version", "checkpoint", "jobs": [[score of a segment, …], …]}`` from the output file.
"""

from __future__ import annotations

import json
import os
import sys

NOT_INSTALLED = 3


def main() -> int:
    request = json.load(sys.stdin)
    if request["checkpoint"]:
        # before the libraries are imported: they read it then
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    try:
        from importlib.metadata import version

        import comet  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        print(f"{sys.executable}: {error}", file=sys.stderr)
        return NOT_INSTALLED
    checkpoint = request["checkpoint"] or comet.download_model(request["model"])
    model = comet.load_from_checkpoint(checkpoint, local_files_only=bool(request["checkpoint"]))
    results = []
    for job in request["jobs"]:
        columns = zip(job["source"], job["hypothesis"], job["reference"])  # noqa: B905  (may run on Python 3.9)
        samples = [
            {"src": source, "mt": hypothesis, "ref": reference} for source, hypothesis, reference in columns
        ]
        prediction = model.predict(
            samples,
            batch_size=request["batch_size"],
            gpus=request["gpus"],
            progress_bar=False,
            num_workers=1,
        )
        results.append([float(score) for score in prediction.scores])
    with open(request["output"], "w", encoding="utf-8") as handle:  # noqa: PTH123
        json.dump(
            {"version": version("unbabel-comet"), "checkpoint": str(checkpoint), "jobs": results}, handle
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
