"""What the rules of data.smk read and which flags they get: downloads, corpus, test sets."""

from neuron_specialization.corpora.local import local_files
from neuron_specialization.corpora.testsets import source_files

CATALOGUE = {entry.file: name for name, entry in catalogue().items()}


def catalogue_name(wildcards):
    """Return what the catalogue calls a file of the downloads folder."""
    return CATALOGUE[wildcards.file]


def download_mirror(wildcards):
    """Return where a file is looked for first; nowhere by default."""
    return CONFIG.mirror_of(CATALOGUE[wildcards.file]) or ""


def corpus_files(wildcards):
    """Return what the corpus is made of: the downloaded file, or the text of the pairs in a local folder."""
    if CONFIG.corpus.source == "homeassistant":
        return downloaded("homeassistant")
    if CONFIG.corpus.source == "data-bin":
        return []  # released.smk takes it over
    files = local_files(CONFIG.corpus.path, PAIRS, CONFIG.given_heldout_pairs())
    return [str(file) for file in files]


def corpus_location(wildcards, input):
    """Return where the corpus command reads: the downloaded file, or the local folder."""
    return CONFIG.corpus.path or str(input[0] if input else "")


def external_testset_files(name):
    """Return what a test set is made of: the files of the folder, the archive, or what is downloaded."""
    testset = CONFIG.testsets[name]
    if not testset.path:
        return [downloaded("flores200")]
    files = source_files(testset.source, testset.path, testset.splits, CONFIG.all_directions())
    return [str(file) for file in files]


def testset_origin(wildcards):
    """Return what a test set is made of."""
    return external_testset_files(wildcards.testset)


def kept_out_files(wildcards):
    """Return the files of the test sets that are kept out of the training text (corpus.keep_out)."""
    return [file for name in CONFIG.corpus.keep_out for file in external_testset_files(name)]


def testset_corpus(wildcards):
    """Return the manifest of the corpus whose training text a test set is held against; none of a data-bin."""
    return [] if CONFIG.corpus.source == "data-bin" else rules.corpus.output.manifest


def testset_corpus_flag(wildcards, input):
    """Return the flag that names the folder of that corpus."""
    return ["--corpus", str(Path(input.corpus).parent)] if input.corpus else []


def testset_location(wildcards, input):
    """Return where the testset command reads."""
    return CONFIG.testsets[wildcards.testset].path or str(input[0])


def testset_source(wildcards):
    """Return the kind of a test set."""
    return CONFIG.testsets[wildcards.testset].source


def testset_splits(wildcards):
    """Return the splits of a test set, comma-separated."""
    return ",".join(CONFIG.testsets[wildcards.testset].splits)


def testset_files():
    """Return all files of the test sets that are not part of the corpus."""
    files = [file for name in EXTERNAL_TESTSETS for file in pair_files(f"{RESULTS}/testsets/{name}")]
    return files + [
        file for folder in PARALLEL_TEXTS for file in pair_files(f"{RESULTS}/{folder}", ZERO_SHOT_PAIRS)
    ]
