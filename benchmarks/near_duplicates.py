"""What near-duplicates in the training text are worth: BLEU of the held-out segments with and without one.

Prints the mean over the directions. It needs a finished experiment with a pivot; nothing is written.

    python benchmarks/near_duplicates.py results/demo --systems continued,ns
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from neuron_specialization.corpora.layout import CorpusFolder, pair_languages
from neuron_specialization.corpora.near_duplicates import searched, with_near_duplicate
from neuron_specialization.directions import Direction
from neuron_specialization.evaluation.scoring import build_metric
from neuron_specialization.storage.files import read_lines


def bleu(direction: Direction, hypotheses: Sequence[str], references: Sequence[str]) -> float:
    return float(build_metric("bleu", direction).corpus_score(hypotheses, [references]).score)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--systems", default="ns")
    options = parser.parse_args()
    corpus = CorpusFolder(options.results / "corpus")
    pivot = corpus.manifest.get("near_duplicates", {}).get("language", "en")
    pairs = [pair for pair in corpus.pairs if pivot in pair_languages(pair)]
    training, _ = searched(line for pair in pairs for line in corpus.lines("train", pair, pivot))
    # the pivot's side may differ from pair to pair
    near = {pair: with_near_duplicate(corpus.lines("heldout", pair, pivot), training) for pair in pairs}
    print(f"segments with a near-duplicate: {', '.join(f'{pair} {sum(near[pair])}' for pair in pairs)}")
    for system in options.systems.split(","):
        scores: dict[str, list[float]] = {"near": [], "others": [], "all": []}
        for path in sorted((options.results / "translations" / system / "heldout").glob("*.txt")):
            direction = Direction.parse(path.stem)
            if direction.pair not in near:
                continue
            texts = [read_lines(path), corpus.lines("heldout", direction.pair, direction.target)]
            flags = near[direction.pair]
            for part, wanted in (("near", {True}), ("others", {False}), ("all", {True, False})):
                chosen = [
                    [line for line, flag in zip(text, flags, strict=True) if flag in wanted] for text in texts
                ]
                scores[part].append(bleu(direction, *chosen))
        print(f"{system}: " + ", ".join(f"{part} {mean(values):.2f}" for part, values in scores.items()))


if __name__ == "__main__":
    main()
