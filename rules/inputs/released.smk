"""What the rules of released.smk read and which flags they get: released checkpoints and masks, a binarised corpus."""

from neuron_specialization.storage.files import hash_of


def unpacked_name():
    """Return the name of an unpacked archive: of a path all of it counts, since archives may be called alike."""
    path = CONFIG.corpus.path or "none"
    return CONFIG.corpus.dataset or f"{Path(path).name}-{hash_of(os.path.abspath(path))[:8]}"


# where the archive of a binarised corpus is unpacked, for all experiments that use it
UNPACKED = f"{DOWNLOADS}/unpacked/{unpacked_name()}"
# the splits of a binarised corpus that are in use, and what they are made of
DATA_BIN_PARTS = {"languages": CONFIG.languages, "pairs": PAIRS, "splits": CONFIG.data_bin_splits()}


def released_checkpoint(wildcards):
    """Return the checkpoint that a system is taken over from: downloaded, or a file."""
    system = RUNS[wildcards.system]
    return downloaded(system.released) if system.released else system.checkpoint


def released_init(wildcards):
    """Return the summary of the baseline a released model went on from; none for a baseline."""
    return initial_summary(wildcards) if RUNS[wildcards.system].init else []


def released_init_flag(wildcards, input):
    """Return the flag that names that summary; none for a baseline."""
    return ["--init", str(input.init_summary)] if RUNS[wildcards.system].init else []


def mask_source(wildcards):
    """Return the folder of the reference's mask files."""
    return MASKS[wildcards.selection].source


def mask_source_files(wildcards):
    """Return the reference's mask file of every direction."""
    return [f"{mask_source(wildcards)}/{direction}.pt" for direction in DIRECTIONS]


def data_bin_archive(wildcards):
    """Return the archive of the binarised corpus."""
    return downloaded(CONFIG.corpus.dataset) if CONFIG.corpus.dataset else CONFIG.corpus.path


def data_bin_location(wildcards):
    """Return the folder of the binarised corpus: unpacked, or one that is there."""
    path = CONFIG.corpus.path
    return path if path and Path(path).is_dir() else UNPACKED


def data_bin_files(wildcards):
    """Return the small files that tell its versions apart; of a folder its indices and dictionaries."""
    from neuron_specialization.preprocessing.take_over import index_files

    folder = data_bin_location(wildcards)
    if folder == UNPACKED:
        # Of files that are all ancient Snakemake would run nothing after a new unpacking.
        return [rules.unpack.output.content, ancient(UNPACKED)]
    return [str(file) for file in index_files(folder, **DATA_BIN_PARTS)]


def segmentation_model(wildcards):
    """Return the corpus's SentencePiece model; nothing where it is not known."""
    return CONFIG.corpus.segmentation or []


def segmentation_flag(wildcards):
    """Return the flag that names that model."""
    return ["--segmentation", CONFIG.corpus.segmentation] if CONFIG.corpus.segmentation else []
