"""The corpus stage: from a source to ``corpus/<split>/<pair>.<lang>`` and its manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from neuron_specialization.catalogue import catalogue_entry
from neuron_specialization.corpora import homeassistant, local
from neuron_specialization.corpora.cleaning import clean_pairs
from neuron_specialization.corpora.layout import MANIFEST, pair_languages, remove_former, write_pair
from neuron_specialization.corpora.near_duplicates import JACCARD, searched, with_near_duplicate
from neuron_specialization.corpora.spec import CorpusSpec
from neuron_specialization.corpora.splits import (
    HeldOutIndex,
    Segments,
    choose_heldout,
    comparison_key,
    sample_segments,
)
from neuron_specialization.corpora.testsets import read_testset
from neuron_specialization.corpora.text import count_words
from neuron_specialization.errors import CorpusError
from neuron_specialization.storage.files import hash_of, sha256_of, write_json

Source = Literal["homeassistant", "local"]
# split → pair → segments; train as the source gives it, valid and heldout final
Splits = dict[str, dict[str, Segments]]


def prepare_corpus(source: Source, path: str | Path, spec: CorpusSpec, output: str | Path) -> dict[str, Any]:
    """Make the corpus: extract, clean, hold out, decontaminate, cap, write.

    Everything is checked before the first file is written; the manifest is written last.

    Args:
        source: which kind of input ``path`` is.
        path: the Home Assistant wheel, or the folder of local text.
        spec: what to make of it.
        output: the corpus folder.

    Returns:
        The manifest (docs/architecture.md).

    Raises:
        CorpusError: the input is damaged or does not hold enough text.
    """
    output = Path(output)
    readers: dict[Source, Callable[[Path, CorpusSpec], tuple[Splits, dict[str, Any]]]] = {
        "homeassistant": _from_homeassistant,
        "local": _from_local,
    }
    splits, origin = readers[source](Path(path), spec)
    manifest = {
        "source": source,
        **origin,
        "languages": spec.languages,
        "pairs": spec.pairs,
        "spec_sha256": hash_of(spec.model_dump(mode="json")),
        **_finish_training_text(splits, spec, _kept_out_text(spec, output)),
    }
    manifest["splits"] = {
        split: {pair: _counts(pair, segments) for pair, segments in pairs.items()}
        for split, pairs in splits.items()
    }
    manifest |= _near_duplicates(splits, spec.reference_language)
    files: dict[str, str] = {}
    for split, pairs in splits.items():
        for pair, segments in pairs.items():
            files |= write_pair(output, f"{split}/{pair}", pair_languages(pair), segments)
    remove_former(output, keep=files)
    manifest["files"] = files
    write_json(output / MANIFEST, manifest)
    return manifest


def _from_homeassistant(path: Path, spec: CorpusSpec) -> tuple[Splits, dict[str, Any]]:
    rows = homeassistant.extract(path, spec.languages)
    held = choose_heldout(rows, spec)
    splits: Splits = {"train": {}, "valid": {}, "heldout": {}}
    for pair, first, second in spec.split_pairs():
        splits["train"][pair] = [(row[first], row[second]) for row in rows if first in row and second in row]
        splits["valid"][pair] = [(row[first], row[second]) for row in held.valid]
        splits["heldout"][pair] = [(row[first], row[second]) for row in held.heldout]
    for pair in spec.heldout_pairs:
        first, second = pair_languages(pair)
        splits["heldout"][pair] = [(row[first], row[second]) for row in held.heldout]
    entry = catalogue_entry("homeassistant")
    origin = {
        "licence": entry.licence,
        "citation": entry.citation,
        "input": {"name": path.name, "sha256": sha256_of(path)},
        "multi_parallel_candidates": held.candidates,
    }
    return splits, origin


def _from_local(path: Path, spec: CorpusSpec) -> tuple[Splits, dict[str, Any]]:
    splits = local.read_local(path, spec.pairs, spec.heldout_pairs)
    origin = {
        "licence": "not stated",
        "citation": "not stated",
        "input": {"name": path.name},
    }
    return splits, origin


def _kept_out_text(spec: CorpusSpec, output: Path) -> dict[str, dict[str, list[str]]]:
    """Test set → language → text, of the test sets from elsewhere that the training text is to lack."""
    languages = list(dict.fromkeys(code for pair in spec.pairs for code in pair_languages(pair)))
    return {
        name: read_testset(kept.source, kept.path, kept.splits, languages, scratch=output)
        for name, kept in spec.keep_out.items()
    }


def _finish_training_text(
    splits: Splits, spec: CorpusSpec, kept_out: dict[str, dict[str, list[str]]]
) -> dict[str, Any]:
    """Clean, decontaminate and cap the training text in place; return the counts for the manifest."""
    index, overlap = _held_out_index(splits)
    for texts in kept_out.values():
        for code, lines in texts.items():
            index.add_keys(code, map(comparison_key, lines))
    extracted: dict[str, int] = {}
    dropped: dict[str, dict[str, int]] = {}
    decontaminated: dict[str, int] = {}
    capped: dict[str, int] = {}
    for pair, segments in splits["train"].items():
        cleaned = clean_pairs(segments, spec.cleaning)
        kept = index.without(pair, cleaned.segments)
        final = sample_segments(kept, spec.train_caps.get(pair), spec.seed, pair)
        extracted[pair] = len(segments)
        dropped[pair] = dict(cleaned.dropped)
        decontaminated[pair] = len(cleaned.segments) - len(kept)
        capped[pair] = len(kept) - len(final)
        splits["train"][pair] = final
    bare = [pair for pair, segments in splits["train"].items() if not segments]
    if bare:
        raise CorpusError(
            f"no training text is left for: {', '.join(bare)}",
            cause="; ".join(
                f"{pair}: of {extracted[pair]} segments, {sum(dropped[pair].values())} were dropped by the "
                f"cleaning and {decontaminated[pair]} are held out"
                for pair in bare
            ),
            hint="relax corpus.cleaning, lower the held-out sizes, or take the language out",
        )
    return {
        "extracted": extracted,
        "dropped": dropped,
        "decontaminated": decontaminated,
        "capped": capped,
        "valid_in_heldout": overlap,
        **({"kept_out": sorted(kept_out)} if kept_out else {}),
    }


def _held_out_index(splits: Splits) -> tuple[HeldOutIndex, dict[str, int]]:
    """Return the index of valid and heldout, and per pair how many valid segments share text with heldout.

    Chosen sets share none; given ones (local text) may: that is reported, and not mended.
    """
    index = HeldOutIndex()
    for pair, segments in splits["heldout"].items():
        index.add(pair, segments)
    overlap = {
        pair: len(segments) - len(index.without(pair, segments)) for pair, segments in splits["valid"].items()
    }
    for pair, segments in splits["valid"].items():
        index.add(pair, segments)
    return index, overlap


def _near_duplicates(splits: Splits, language: str) -> dict[str, Any]:
    """How many distinct held-out segments of a language, the pivot, have a near-duplicate in the training."""

    def side(split: str) -> Iterator[str]:
        for pair, segments in splits[split].items():
            if language in (codes := pair_languages(pair)):
                yield from (segment[codes.index(language)] for segment in segments)

    heldout = list(dict.fromkeys(side("heldout")))
    if not heldout:
        return {}
    training, distinct = searched(side("train"))
    facts = {
        "language": language,
        "jaccard": JACCARD,
        "segments": len(heldout),
        "near": sum(with_near_duplicate(heldout, training)),
        "training_segments": distinct,
        "searched": len(training),
    }
    return {"near_duplicates": facts}


def _counts(pair: str, segments: Segments) -> dict[str, Any]:
    languages = pair_languages(pair)
    words = {
        code: sum(count_words(segment[side]) for segment in segments) for side, code in enumerate(languages)
    }
    return {"segments": len(segments), "words": words}
