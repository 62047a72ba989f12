"""What the rules of released.smk read and which flags they get: released checkpoints and masks, a binarised corpus."""

# where the archive of a binarised corpus is unpacked, for all experiments that use it
UNPACKED = f"{DOWNLOADS}/unpacked/{CONFIG.corpus.dataset or Path(CONFIG.corpus.path or 'none').name}"


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


def data_bin_folder(wildcards):
    """Return the folder of the binarised corpus: unpacked, or one that is there. Its date means nothing."""
    path = CONFIG.corpus.path
    return ancient(path if path and Path(path).is_dir() else UNPACKED)


def segmentation_flag(wildcards):
    """Return the flag that names the corpus's SentencePiece model; none where it is not known."""
    return ["--segmentation", CONFIG.corpus.segmentation] if CONFIG.corpus.segmentation else []
