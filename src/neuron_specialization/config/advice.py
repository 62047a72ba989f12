"""What is valid in a configuration and most likely not meant: told, and not refused."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from neuron_specialization.config.experiment import Config
from neuron_specialization.config.mask_selections import ActivationMasks, MagnitudeMasks

# Thai, Lao, Khmer, Burmese, Shan, Tibetan, Dzongkha: no spaces between words, and no tokenizer in sacrebleu
_UNSPACED = {"th", "tha", "lo", "lao", "km", "khm", "my", "mya", "shn", "bo", "bod", "dz", "dzo"}


def advice(config: Config) -> list[str]:
    """Return a sentence for each value that is most likely a slip."""
    found = []
    for name in config.selections_in_use():
        selection = config.masks[name]
        keys = ["k"] if isinstance(selection, ActivationMasks) else []
        keys += ["keep"] if isinstance(selection, MagnitudeMasks) else []
        for key in keys:
            for place, percent in _numbers(getattr(selection, key), f"masks.{name}.{key}"):
                if percent <= 1:
                    found.append(
                        f"{place} is {percent:g}, in percent: next to no neuron is kept;"
                        f" if a share was meant, write {100 * percent:g}"
                    )
    targets = dict.fromkeys(direction.target for direction in config.scored_directions())
    unspaced = [code for code in targets if code.split("_")[0] in _UNSPACED]
    if unspaced and "bleu" in config.scoring.metrics and "spbleu" not in config.scoring.metrics:
        found.append(
            f"scoring.metrics: BLEU finds no words in {', '.join(unspaced)}, written without spaces: it is"
            " near 0 whatever the translation; add spbleu, or go by chrF++"
        )
    return found


def _numbers(value: object, place: str) -> Iterator[tuple[str, float]]:
    """The numbers of a value and where they are: of one, of each side, of each group of directions."""
    if isinstance(value, int | float):
        yield place, value
    elif isinstance(value, BaseModel):
        for key in type(value).model_fields:
            yield from _numbers(getattr(value, key), f"{place}.{key}")
