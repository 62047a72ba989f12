"""A tiny data-bin, written by fairseq's own builder: what training needs, and no more than seconds of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from neuron_specialization.config import Model, Recipe, Training

LANGUAGES = ["en", "de", "nl"]
DIRECTIONS = ["en-de", "en-nl", "de-en", "nl-en"]
WORDS = 40


def write_data_bin(folder: Path, segments: int = 240, seed: int = 3) -> Path:
    """Random sentences; the target is the source with every word moved on by the language's number."""
    from fairseq.data import Dictionary
    from fairseq.data.indexed_dataset import make_builder

    folder.mkdir(parents=True)
    dictionary = Dictionary()
    for index in range(WORDS):
        dictionary.add_symbol(f"w{index}", n=100)
    for code in LANGUAGES:
        dictionary.save(str(folder / f"dict.{code}.txt"))
    generator = random.Random(seed)
    for split, size in (("train", segments), ("valid", 24), ("test", 8)):
        for pair in ("de-en", "en-nl"):
            sides = pair.split("-")
            builders = {
                code: make_builder(
                    str(folder / f"{split}.{pair}.{code}.bin"), "mmap", vocab_size=len(dictionary)
                )
                for code in sides
            }
            for _ in range(size):
                words = [generator.randrange(WORDS) for _ in range(generator.randint(2, 9))]
                for code in sides:
                    shift = LANGUAGES.index(code)
                    ids = [(word + shift) % WORDS + dictionary.nspecial for word in words]
                    builders[code].add_item(torch.IntTensor([*ids, dictionary.eos()]))
            for code, builder in builders.items():
                builder.finalize(str(folder / f"{split}.{pair}.{code}.idx"))
    return folder


def tiny_recipe(
    *, system: str = "tiny", model: dict[str, Any] | None = None, shards: int = 1, **training: Any
) -> Recipe:
    """2+1 layers; an epoch is some ten updates, so that runs cross its ends and stop within."""
    sizes = {"encoder_layers": 2, "decoder_layers": 1, "d_model": 16, "d_ff": 32, "heads": 2}
    settings = {
        "max_updates": 35,
        "max_tokens": 512,
        "lr": 2e-3,
        "warmup_updates": 10,
        "save_every": 10,
        "validate_every": 10,
    }
    return Recipe(
        system=system,
        languages=LANGUAGES,
        directions=DIRECTIONS,
        model=Model(**{**sizes, "max_positions": 64, **(model or {})}),
        training=Training(**{**settings, **training}),
        seed=11,
        shards=shards,
    )
