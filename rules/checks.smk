"""What a configuration, its data and what was made are checked for before anything runs.

Snakemake removes the files of a finished job before it runs the job again: text that the job would refuse is
refused here, and what was made of its last good version stays.
"""

from snakemake.settings.types import RerunTrigger

from neuron_specialization.agreement import disagreements
from neuron_specialization.config.advice import advice
from neuron_specialization.corpora.local import check_local
from neuron_specialization.corpora.testsets import check_testset
from neuron_specialization.errors import ConfigError
from neuron_specialization.evaluation.scoring import unavailable_metrics
from neuron_specialization.machine import usable_cores


def refuse_missing_text():
    """Refuse text whose folder or files are not there; none of it is read."""
    corpus = CONFIG.corpus
    if corpus.source == "local":
        check_local(corpus.path, PAIRS, CONFIG.given_heldout_pairs(), names_alone=True)
    if corpus.source == "data-bin" and corpus.path:
        refuse_missing_path("corpus.path", corpus.path)
        if Path(corpus.path).is_dir():
            from neuron_specialization.preprocessing.take_over import find_data_bin

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
            cause="a slip, or a folder that was moved; relative paths begin where snakemake is started,"
            " or in its --directory",
            hint=f"correct {key}",
        )


def refuse_unsound_text():
    """Read the text that is about to be taken in, and refuse what its job would refuse."""
    from neuron_specialization.preprocessing.take_over import check_data_bin

    made = files_to_make()
    corpus = CONFIG.corpus
    if corpus.source == "local" and rules.corpus.output.manifest in made:
        check_local(corpus.path, PAIRS, CONFIG.given_heldout_pairs())
    # an archive is not unpacked for it
    if corpus.source == "data-bin" and BINARIZED in made and corpus.path and Path(corpus.path).is_dir():
        check_data_bin(corpus.path, shards=corpus.shards, **DATA_BIN_PARTS)
    for name, testset in CONFIG.testsets.items():
        if testset.path and made & set(pair_files(f"{RESULTS}/testsets/{name}")):
            check_testset(testset.source, testset.path, testset.splits, CONFIG.all_directions())


def other_settings(files):
    """Return the error that names what was made with other settings than the configuration has now."""
    return ConfigError(
        "made with other settings than the configuration has now:\n"
        + "\n".join(f"  - {file}: {'; '.join(MADE_OTHERWISE[file])}" for file in files),
        cause="the configuration was edited; what the plan does not make again, Snakemake has no record of"
        " (results of another folder or name, a .snakemake/ that was lost)",
        hint="nothing for what the plan makes again; for the rest change the settings back, or add to the"
        f" command: --forcerun {' '.join(files)}",
    )


def refuse_other_settings():
    """Refuse to go on with what was made with other settings, where Snakemake would not make it again."""
    # --touch, and --rerun-triggers without params: asked to
    if workflow.touch or RerunTrigger.PARAMS not in workflow.rerun_triggers:
        return
    planned = {str(file) for job in workflow.dag.jobs for file in job.output}
    kept = [file for file in MADE_OTHERWISE if file in planned - files_to_make()]
    if kept:
        raise other_settings(kept)


def check_before_jobs():
    """Check what only the plan can tell: text that is about to be read, GPUs, results of other settings."""
    if workflow.is_main_process:
        refuse(refuse_other_settings)
        refuse(refuse_unsound_text)
        refuse_unusable_gpus()


# Jobs read this file, too.
if workflow.is_main_process:
    refuse(refuse_missing_text)
    for slip in advice(CONFIG):
        announce(f"warning: {slip}")
    if workflow.local_exec and (workflow.resource_settings.cores or 0) > usable_cores():
        announce(
            f"warning: --cores {workflow.resource_settings.cores}, and this machine has {usable_cores()}:"
            " jobs get in each other's way; --cores all takes those there are"
        )
    # now, and not when all is trained
    for reason in unavailable_metrics(CONFIG.scoring.metrics, CONFIG.scored_directions()).values():
        announce(f"warning: {reason}; without it scores lack the metric, and systems are not compared by it")
    MADE_OTHERWISE = {f"{RESULTS}/{file}": how for file, how in disagreements(CONFIG, RESULTS).items()}
    if MADE_OTHERWISE:
        announce(str(other_settings(MADE_OTHERWISE)))
