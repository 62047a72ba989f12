"""GPUs that a profile gives to rules are refused where they are not there, before anything runs.

Snakemake would give a job what there is, silently, and the trainer would train on the CPU, silently.
"""

from neuron_specialization.training.arguments import update_frequency
from neuron_specialization.training.devices import refuse_scaling, require_gpus

PROFILE_GPUS = "gpu under resources (or --resources gpu=N), and under set-resources in the profile"


def gpus_asked_for():
    """Return how many GPUs each rule asks for, by its own resources, the profile's and the command line's."""
    asked = {}
    for rule_ in workflow.rules:
        wanted = rule_.resources.get("gpu")
        if wanted is not None and wanted.is_evaluable():  # an expression: that of the first attempt
            wanted = wanted.evaluate({}, input=[], attempt=1, threads=1, rulename=rule_.name, async_run=None)
        asked[rule_.name] = (wanted.value if wanted is not None else None) or 0
    return asked


def refuse_unequal_shares(summaries):
    """Refuse GPUs that cannot share an update equally: a job would find out when it has waited for them."""
    asked = gpus_asked_for()
    for rule_name, recipe in (trainings()[summary] for summary in summaries):
        update_frequency(recipe.training.micro_batches, asked[rule_name] or 1, recipe.system)


def gpu_limit():
    """Return how many GPUs this run may use; None where there is no limit, as on a cluster."""
    limit = workflow.global_resources.get("gpu")
    return None if limit is None else limit.value


def refuse_unusable_gpus():
    """Check the GPUs of the jobs that are about to run."""
    refuse(refuse_unequal_shares, files_to_make() & trainings().keys())
    if workflow.local_exec:
        refuse_absent_gpus()


def refuse_absent_gpus():
    """Ask PyTorch for the GPUs of this machine, if jobs of this run want some."""
    asked = gpus_asked_for()
    waiting = {job.rule.name: asked[job.rule.name] for job in workflow.dag.needrun_jobs()}
    wanting = sorted(name for name, number in waiting.items() if number)
    if wanting:
        # at one time no more than the limit are handed out; without one, as many as the largest job wants
        number = gpu_limit() or max(waiting.values())
        refuse(require_gpus, number, who=f"this run ({', '.join(wanting)})", where=PROFILE_GPUS)


# Jobs read this file, too, under resources of their own.
if workflow.is_main_process:
    refuse(refuse_scaling, gpus_asked_for(), gpu_limit())
    # what is trained already may have had other GPUs
    refuse(refuse_unequal_shares, [summary for summary in trainings() if not Path(summary).is_file()])
