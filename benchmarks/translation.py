"""Translation of one direction of the demonstration: the exported, compacted model against fairseq.

Same sentences, beam 5, one thread, models loaded beforehand, processor time. The fairseq side is the
generator that `fairseq-generate` runs, in this process, on the masked checkpoint; the start of a
`fairseq-generate` process would only add to it. CTranslate2 computes as exported (float32) and with int8
weights.
"""

from __future__ import annotations

from functools import partial

import common

from neuron_specialization.directions import Direction

AIMS = {"float32": 3.4, "int8": 3.7}


def main() -> None:
    parser = common.arguments(__doc__, demo=True)
    parser.add_argument("--direction", default="de-en")
    parser.add_argument("--sentences", type=int, default=200)
    options = parser.parse_args()
    direction = options.direction
    parsed = Direction.parse(direction)
    text = options.demo / "corpus" / "heldout" / f"{parsed.pair}.{parsed.source}"
    checkpoint, exported = options.demo / "training/ns/model.pt", options.demo / "models/ns" / direction
    common.demo_files(
        options.demo, *(str(path.relative_to(options.demo)) for path in (text, checkpoint, exported))
    )
    common.as_trainer(options.threads)
    from neuron_specialization.translation.fairseq_engine import open_checkpoint
    from neuron_specialization.translation.translator import Translator

    lines = text.read_text(encoding="utf-8").splitlines()[: options.sentences]
    translators = {
        "fairseq": open_checkpoint(checkpoint, options.demo / "vocabulary", threads=options.threads)
    }
    for compute_type in AIMS:
        translators[compute_type] = Translator.load(
            exported, threads=options.threads, compute_type=compute_type
        )
    texts: dict[str, list[str]] = {}

    def translate(name: str) -> None:
        texts[name] = translators[name].translate(lines, direction)

    for name in translators:
        translate(name)  # models are opened at first use
    ways = {name: partial(common.timed, partial(translate, name)) for name in translators}
    samples = common.interleave(ways, options.rounds)
    rows, details = [], {"sentences": len(lines), "direction": direction}
    for name, aim in AIMS.items():
        speed = common.ratio([s.cpu for s in samples["fairseq"]], [s.cpu for s in samples[name]])
        equal = sum(a == b for a, b in zip(texts["fairseq"], texts[name], strict=True))
        details[name] = {"times faster": speed, "equal to fairseq's": equal}
        rows += [
            common.Row(
                f"translation with CTranslate2 {name}, times faster than fairseq",
                common.shown(speed),
                f"≥ {aim}",
                speed["median"] >= aim,
            ),
            common.Row("… sentences equal to fairseq's", f"{equal} of {len(lines)}"),
        ]
    common.write_result("translation", rows, details, threads=options.threads, samples=samples)


if __name__ == "__main__":
    main()
