"""What a configuration and its data are checked for before anything runs.

Snakemake removes the files of a finished job before it runs the job again: text that the job would refuse is
refused here, and what was made of its last good version stays.
"""

from neuron_specialization.config.advice import advice
from neuron_specialization.corpora.local import check_local
from neuron_specialization.corpora.testsets import check_testset
from neuron_specialization.errors import ConfigError


def refuse_missing_text():
    """Refuse text whose folder or files are not there; none of it is read."""
    corpus = CONFIG.corpus
    if corpus.source == "local":
        check_local(corpus.path, PAIRS, CONFIG.given_heldout_pairs(), names_alone=True)
    if corpus.source == "data-bin" and corpus.path:
        refuse_missing_path("corpus.path", corpus.path)
        if Path(corpus.path).is_dir():
            from neuron_specialization.corpora.take_over import find_data_bin

            find_data_bin(corpus.path)
    for name, testset in CONFIG.testsets.items():
        if testset.path:
            refuse_missing_path(f"testsets.{name}.path", testset.path)


def refuse_missing_path(key, path):
    """Refuse a path of the configuration where nothing is."""
    if not Path(path).exists():
        raise ConfigError(
            f"there is nothing at {key}",
            where=os.path.abspath(path),
            cause="a slip, or a folder that was moved; relative paths begin where snakemake is started",
            hint=f"correct {key}",
        )


def refuse_unsound_text():
    """Read the text that is about to be taken in, and refuse what its job would refuse."""
    if not workflow.is_main_process:
        return
    from neuron_specialization.corpora.take_over import check_data_bin

    made = {str(file) for job in workflow.dag.needrun_jobs() for file in job.output}
    corpus = CONFIG.corpus
    if corpus.source == "local" and rules.corpus.output.manifest in made:
        refuse(check_local, corpus.path, PAIRS, CONFIG.given_heldout_pairs())
    # an archive is not unpacked for it
    if corpus.source == "data-bin" and BINARIZED in made and corpus.path and Path(corpus.path).is_dir():
        refuse(check_data_bin, corpus.path, shards=corpus.shards, **DATA_BIN_PARTS)
    for name, testset in CONFIG.testsets.items():
        if testset.path and made & set(pair_files(f"{RESULTS}/testsets/{name}")):
            refuse(check_testset, testset.source, testset.path, testset.splits, CONFIG.all_directions())


# Jobs read this file, too.
if workflow.is_main_process:
    refuse(refuse_missing_text)
    for slip in advice(CONFIG):
        announce(f"warning: {slip}")
