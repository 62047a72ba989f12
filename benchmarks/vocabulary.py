"""Vocabularies of several sizes for the demonstration: what its baseline translates like after equal updates.

Each is made by the workflow, from the demonstration's text, in an experiment of its own
(results/vocabulary_<size>/). BLEU is that of the validation text, of all directions, decoded greedily. It is
no matter of the machine; the seconds of an update are wall time, validation and start-up included.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import common
from trainer import demo_recipe, experiment, train

from neuron_specialization.directions import Direction


def bleu(direction: str, *, model: Path, text: Path) -> float:
    """BLEU of one direction of the validation text."""
    import sacrebleu

    from neuron_specialization.translation.translator import Translator

    parsed = Direction.parse(direction)
    source, target = (
        (text / f"{parsed.pair}.{code}").read_text(encoding="utf-8").splitlines()
        for code in (parsed.source, parsed.target)
    )
    translator = Translator.load(model, threads=1)
    found = translator.translate(source, direction, beam=1)
    return float(sacrebleu.corpus_bleu(found, [target]).score)


def measured(size: int, options: Any, scratch: Path) -> dict[str, Any]:
    """Train with a vocabulary of this size, and translate."""
    pieces = f"vocabulary: {{size: {size}}}\n"
    data = experiment(f"vocabulary_{size}", pieces, "binarize", options.threads, scratch)
    updates = options.updates
    recipe = demo_recipe(options.demo, max_updates=updates, validate_every=updates, save_every=updates)
    run = scratch / f"model-{size}"
    _, sample = train(recipe, data / "binarized", run, options.threads)
    exported = scratch / f"exported-{size}"
    command = [sys.executable, "-m", "neuron_specialization", "export", "--checkpoint", str(run / "model.pt")]
    files = ["--vocabulary", str(data / "vocabulary"), "--output", str(exported)]
    common.timed_command([*command, *files], output=scratch / "log")
    with ProcessPoolExecutor(options.threads) as pool:
        each = pool.map(partial(bleu, model=exported, text=data / "corpus/valid"), recipe.directions)
        scores = dict(zip(recipe.directions, each, strict=True))
    into = [score for direction, score in scores.items() if direction.endswith("-en")]
    outof = [score for direction, score in scores.items() if direction.startswith("en-")]
    found = {
        "en→X": sum(outof) / len(outof),
        "X→en": sum(into) / len(into),
        "seconds_per_update": sample.wall / updates,
    }
    print(size, found, file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = common.arguments(__doc__, demo=True, threads=2)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4000, 8000])
    options = parser.parse_args()
    common.demo_files(options.demo, "training/baseline/model.json")
    with tempfile.TemporaryDirectory() as folder:
        found = {size: measured(size, options, Path(folder)) for size in options.sizes}
    rows = [
        common.Row(
            f"{size:,} pieces: BLEU of the validation text after {options.updates:,} updates, en→X; X→en",
            f"{one['en→X']:.1f}; {one['X→en']:.1f}",
        )
        for size, one in found.items()
    ]
    first = found[options.sizes[0]]["seconds_per_update"]
    rows += [
        common.Row(
            f"… seconds of an update, {size:,} / {options.sizes[0]:,} pieces (once)",
            f"{found[size]['seconds_per_update'] / first:.2f}",
        )
        for size in options.sizes[1:]
    ]
    common.write_result(
        "vocabulary", rows, {str(size): one for size, one in found.items()}, threads=options.threads
    )


if __name__ == "__main__":
    main()
