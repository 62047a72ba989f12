"""The joint vocabulary: a SentencePiece model and the fairseq dictionary that goes with it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neuron_specialization.config import Config, Section, Vocabulary
from neuron_specialization.corpora.layout import CorpusFolder
from neuron_specialization.errors import CorpusError
from neuron_specialization.formats.fairseq_conventions import BOS, EOS, PAD, SPECIAL, UNK
from neuron_specialization.preprocessing.pieces import Segmenter
from neuron_specialization.storage.files import atomic_path, atomic_text

# fairseq wants a count on each dictionary line; only its order matters
_COUNT = 100


class VocabularySpec(Section):
    """All that decides the vocabulary, apart from the corpus. Goes to ``vocabulary --spec``."""

    vocabulary: Vocabulary
    seed: int = 0


def vocabulary_spec_of(config: Config) -> VocabularySpec:
    """Return the vocabulary stage's part of the configuration."""
    return VocabularySpec(vocabulary=config.vocabulary, seed=config.seed)


def sampled_size(counts: dict[str, int], sample_size: int, temperature: float) -> dict[str, int]:
    """Return how many sentences each language contributes.

    The largest contributes all it has, ``sample_size`` at most; another, with n of the largest's N sentences,
    that times (n / N)^(1 / temperature) — more than n where the temperature is above 1: it is then repeated.
    """
    largest = max(counts.values(), default=0)
    if not largest:
        return dict.fromkeys(counts, 0)
    top = min(largest, sample_size)
    return {
        code: max(1, round(top * (count / largest) ** (1 / temperature))) if count else 0
        for code, count in counts.items()
    }


def training_sentences(corpus: CorpusFolder, spec: VocabularySpec) -> Iterator[str]:
    """Yield what the vocabulary is trained on: each language's distinct training segments, balanced."""
    pools: dict[str, dict[str, None]] = {code: {} for code in corpus.languages}
    for pair in corpus.pairs:
        for code in pair.split("-"):
            pools[code].update(dict.fromkeys(corpus.lines("train", pair, code)))
    settings = spec.vocabulary
    counts = {code: len(pool) for code, pool in pools.items()}
    sizes = sampled_size(counts, settings.sample_size, settings.temperature)
    for number, (code, pool) in enumerate(pools.items()):
        sentences = list(pool)
        repeats, rest = divmod(sizes[code], len(sentences)) if sentences else (0, 0)
        for _ in range(repeats):
            yield from sentences
        generator = np.random.Generator(np.random.PCG64([spec.seed, number]))
        for index in np.sort(generator.permutation(len(sentences))[:rest]):
            yield sentences[index]


def train_vocabulary(corpus_folder: str | Path, spec: VocabularySpec, output: str | Path) -> dict[str, Any]:
    """Train the SentencePiece model on the corpus's training text; write ``spm.model`` and ``dict.txt``.

    The vocabulary has exactly ``size`` entries, fairseq's four specials among them. The result is a function
    of the corpus and the spec: one thread, no sampling inside SentencePiece. Text is not changed by the model
    (``identity`` normalisation; the corpus stage has normalised it), so that decoding restores it exactly.

    Returns:
        ``{"size", "sentences", "characters"}``.

    Raises:
        CorpusError: the size is below the alphabet or above what the text yields, naming the bound.
    """
    import sentencepiece

    corpus = CorpusFolder(corpus_folder)
    output = Path(output)
    sentences = list(training_sentences(corpus, spec))
    settings = spec.vocabulary
    # SentencePiece cuts its own specials out of the text before it counts characters, so that `<`, say, has
    # none. Asked for only where they are, since it changes the model.
    written = [special for special in SPECIAL if any(special in sentence for sentence in sentences)]
    required: dict[str, Any] = {}
    if written:
        required["required_chars"] = "".join(sorted(set("".join(written))))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=settings.size,
            model_type=settings.model_type,
            character_coverage=settings.character_coverage,
            normalization_rule_name="identity",
            # fairseq's, so that ids agree throughout
            bos_id=BOS,
            pad_id=PAD,
            eos_id=EOS,
            unk_id=UNK,
            byte_fallback=False,
            shuffle_input_sentence=False,
            input_sentence_size=0,
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
            **required,
        )
    except RuntimeError as error:
        raise _explained(str(error), settings, corpus) from None
    with atomic_path(output / "spm.model") as temporary:
        temporary.write_bytes(model.getvalue())
    pieces = Segmenter(output / "spm.model").pieces
    with atomic_text(output / "dict.txt") as handle:
        handle.writelines(f"{piece} {_COUNT}\n" for piece in pieces[len(SPECIAL) :])
    characters = len({character for sentence in sentences for character in sentence})
    return {"size": len(pieces), "sentences": len(sentences), "characters": characters}


def _explained(message: str, settings: Vocabulary, corpus: CorpusFolder) -> CorpusError:
    """Turn SentencePiece's refusal into one that names the key and the bound."""
    where = corpus.folder / "train"
    below = re.search(r"smaller than required_chars\. *\d+ vs (\d+)", message)
    if below:
        return CorpusError(
            f"vocabulary.size {settings.size} is too small: the text's characters alone need {below[1]}",
            where=where,
            hint=f"set vocabulary.size to {below[1]} or more, or lower vocabulary.character_coverage",
        )
    above = re.search(r"value <= (\d+)", message)
    if above:
        return CorpusError(
            f"vocabulary.size {settings.size} is too large: this text yields {above[1]} entries at most",
            where=where,
            hint=f"set vocabulary.size to {above[1]} or less, or use more text",
        )
    return CorpusError(f"SentencePiece cannot train: {message}", where=where)
