"""The validated configuration, the names made from it, and the functions that turn both into files and flags."""

import json
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from neuron_specialization.config import parse_config, recipe_of
from neuron_specialization.corpora.catalogue import catalogue
from neuron_specialization.corpora.spec import corpus_spec_of
from neuron_specialization.errors import NeuronSpecializationError
from neuron_specialization.vocabulary import vocabulary_spec_of

try:
    CONFIG = parse_config(config)
except NeuronSpecializationError as error:
    raise WorkflowError(str(error)) from None

RESULTS = f"results/{CONFIG.experiment}"
LOGS = f"logs/{CONFIG.experiment}"
BENCHMARKS = f"{RESULTS}/benchmarks"

# Made in different ways (data.smk, released.smk), so that no one rule can be named as their maker.
BINARIZED = f"{RESULTS}/binarized/manifest.json"
DICTIONARY = f"{RESULTS}/vocabulary/dict.txt"

DIRECTIONS = [str(direction) for direction in CONFIG.all_directions()]
PAIRS = CONFIG.pairs()
SYSTEMS = list(CONFIG.systems)
BASELINES = [name for name, system in CONFIG.systems.items() if system.init is None]
SPECIALISED = [name for name, system in CONFIG.systems.items() if system.init is not None]
SELECTIONS = sorted({system.masks for system in CONFIG.systems.values() if system.masks})
TESTSETS = list(CONFIG.testsets)
# test sets that are not the corpus's own held-out text
EXTERNAL_TESTSETS = [name for name, testset in CONFIG.testsets.items() if testset.source != "corpus"]
# test sets that come as pieces, and systems that come trained
SEGMENTED_TESTSETS = [name for name, testset in CONFIG.testsets.items() if testset.source == "data-bin"]
RELEASED = [name for name, system in CONFIG.systems.items() if system.checkpoint]
# mask selections that are read from files
IMPORTED = [name for name in SELECTIONS if CONFIG.masks[name].source]
TRAINED = [name for name in SYSTEMS if name not in RELEASED]

# A job runs the Python that runs Snakemake, whether or not its environment was activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))


def one_of(names):
    """Return the regular expression of a wildcard that is one of the names, and of none if there are none."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


wildcard_constraints:
    system=one_of(SYSTEMS),
    selection=one_of(SELECTIONS),
    testset=one_of(TESTSETS),
    direction=one_of(DIRECTIONS),


def announce(text):
    """Print to the terminal, as Snakemake does."""
    if text:
        print(text, file=sys.stderr, flush=True)
