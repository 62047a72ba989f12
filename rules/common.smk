"""The validated configuration, the names made from it, and the functions that turn both into files and flags."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from neuron_specialization.catalogue import catalogue
from neuron_specialization.config import (
    Comet,
    magnitude_recipe_of,
    mask_baseline_run,
    mask_spec_of,
    parse_config,
    recipe_of,
    refuse_repeated_keys,
    run_name,
    seed_of_run,
    selections_by_run,
    split_run,
    systems_by_run,
)
from neuron_specialization.config.comparisons import comparisons, control_of, main_comparisons, sweep
from neuron_specialization.corpora.spec import corpus_spec_of
from neuron_specialization.errors import NeuronSpecializationError
from neuron_specialization.preprocessing.vocabulary import vocabulary_spec_of

CONFIG_FILES = [os.path.relpath(file) for file in workflow.configfiles]

try:
    for file_ in CONFIG_FILES:
        refuse_repeated_keys(file_)
    CONFIG = parse_config(config, ", ".join(CONFIG_FILES))
except NeuronSpecializationError as error:
    raise WorkflowError(str(error)) from None

RESULTS = f"results/{CONFIG.experiment}"
DOWNLOADS = CONFIG.downloads
LOGS = f"logs/{CONFIG.experiment}"
BENCHMARKS = f"{RESULTS}/benchmarks"

# Made in different ways (data.smk, released.smk), so that no one rule can be named as their maker.
BINARIZED = f"{RESULTS}/binarized/manifest.json"
DICTIONARY = f"{RESULTS}/vocabulary/dict.txt"

DIRECTIONS = [str(direction) for direction in CONFIG.all_directions()]
PAIRS = CONFIG.pairs()
# scored and not trained; the trained directions their masks are made of, and the trained pairs their text is
ZERO_SHOT = [str(direction) for direction in CONFIG.zero_shot_directions()]
SCORED = [str(direction) for direction in CONFIG.scored_directions()]
ZERO_SHOT_PAIRS = CONFIG.zero_shot_pairs()
PIVOT_PAIRS = CONFIG.pivot_pairs()
ZERO_SHOT_PARTS = CONFIG.mask_parts()
# each system and selection once for every seed: ns, ns@223, … (config/runs.py)
RUNS = systems_by_run(CONFIG)
MASKS = selections_by_run(CONFIG)
SYSTEMS = list(RUNS)
BASELINES = [name for name, system in RUNS.items() if system.init is None]
SPECIALISED = [name for name, system in RUNS.items() if system.init is not None]
SELECTIONS = sorted(MASKS)
# the folders of activation counts, one a baseline
COUNTS = [run_name(CONFIG, "activations", seed) for seed in CONFIG.all_seeds()]
TESTSETS = list(CONFIG.testsets)
# test sets that are not the corpus's own held-out text
EXTERNAL_TESTSETS = [name for name, testset in CONFIG.testsets.items() if testset.source != "corpus"]
# where text lies that is the same in all languages: that of zero-shot directions is put together from it
PARALLEL_TEXTS = [
    *(["corpus/heldout"] if TESTSETS != EXTERNAL_TESTSETS and not CONFIG.given_heldout_pairs() else []),
    *(f"testsets/{name}" for name in EXTERNAL_TESTSETS),
    *(f"testsets/{name}/pieces" for name in EXTERNAL_TESTSETS if CONFIG.testsets[name].source == "data-bin"),
]
# test sets that come as pieces, and systems that come trained
SEGMENTED_TESTSETS = [name for name, testset in CONFIG.testsets.items() if testset.source == "data-bin"]
RELEASED = [name for name, system in RUNS.items() if system.checkpoint]
# mask selections that are read from files, and those that need fine-tunings
IMPORTED = [name for name in SELECTIONS if MASKS[name].method == "imported"]
BY_MAGNITUDE = [name for name in SELECTIONS if MASKS[name].method == "magnitude"]
TRAINED = [name for name in SYSTEMS if name not in RELEASED]

# A job runs the Python that runs Snakemake, whether or not its environment was activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))


# How this workflow is run, for the commands on the report page; no parameter, which would make the page again.
os.environ.update(
    NEURON_SPECIALIZATION_COMMAND=shlex.join(
        ["snakemake", "--cores", "all"]
        + ([] if CONFIG_FILES == ["config.yaml"] else ["--configfile", *CONFIG_FILES])
    )
)


def one_of(names):
    """Return the regular expression of a wildcard that is one of the names, and of none if there are none."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def folder_of(wildcards, output):
    """Return the folder that the job's first output lies in."""
    return str(Path(output[0]).parent)


def pair_files(folder, pairs=PAIRS):
    """Return the two text files of each pair in a folder."""
    return [f"{folder}/{pair}.{code}" for pair in pairs for code in pair.split("-")]


def share_of_cores(systems):
    """Return the threads of one training when that many run side by side; more than eight gain nothing."""
    # a cluster has no number of cores: its profile sets the threads
    return max(1, min(8, (workflow.resource_settings.cores or 8) // max(1, len(systems))))


def downloaded(name):
    """Return the path of a downloaded file. Its checksum was verified, so a later date means nothing."""
    return ancient(f"{DOWNLOADS}/{catalogue()[name].file}")


def testset_folder(testset):
    """Return the folder of a test set's text."""
    return f"{RESULTS}/testsets/{testset}" if testset in EXTERNAL_TESTSETS else f"{RESULTS}/corpus/heldout"


def testset_text(testset, direction, side):
    """Return the file of one side (0 source, 1 target) of a direction's test text."""
    codes = direction.split("-")
    return f"{testset_folder(testset)}/{'-'.join(sorted(codes))}.{codes[side]}"


def mask_folder(selection):
    """Return the folder of a selection's masks."""
    return f"{RESULTS}/masks/{selection}"


def mask_files(selection, directions=DIRECTIONS):
    """Return the mask file of every direction; of every trained one by default."""
    return [f"{mask_folder(selection)}/{direction}.safetensors" for direction in directions]


wildcard_constraints:
    system=one_of(SYSTEMS),
    selection=one_of(SELECTIONS),
    counts=one_of(COUNTS),
    testset=one_of(TESTSETS),
    direction=one_of(SCORED),


def announce(text):
    """Print to the terminal, as Snakemake does."""
    if text:
        print(text, file=sys.stderr, flush=True)


def refuse(check, *arguments, **named):
    """Run a check; what it raises ends this run with its message alone."""
    try:
        check(*arguments, **named)
    except NeuronSpecializationError as error:
        raise WorkflowError(str(error)) from None


def files_to_make():
    """Return the files that this run makes; known when its plan is."""
    return {str(file) for job in workflow.dag.needrun_jobs() for file in job.output}
