"""Neuron Specialization, from download to score table. The stages are in rules/, one file each, in this order."""

from snakemake.utils import min_version

min_version("9.27")


# One --configfile replaces config.yaml; several are merged, the later winning key by key.
if not workflow.configfiles:

    configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/released.smk"
include: "rules/activations.smk"
include: "rules/masks.smk"
include: "rules/export.smk"
include: "rules/zero_shot.smk"
include: "rules/translate.smk"
include: "rules/score.smk"
include: "rules/costs.smk"
include: "rules/report.smk"
include: "rules/devices.smk"
include: "rules/checks.smk"


rule all:
    """Everything: models, tables, figures."""
    default_target: True
    input:
        tables=rules.tables.output,
        training=training_tables(),
        overlap=mask_overlaps(),
        figures=all_figures(),
        page=rules.page.output.page,


rule data:
    """The corpus, the vocabulary and the binarised text; trains nothing."""
    input:
        manifest=BINARIZED,
        testsets=testset_files(),


rule models:
    """The trained and exported models; translates nothing."""
    input:
        summaries=expand(rules.train_baseline.output.summary, system=SYSTEMS),
        exports=exported_models(),


rule bundle:
    """Each system as one bundle for all its directions; not part of a plain run."""
    input:
        bundles=expand(rules.export_bundle.output.bundle, system=SYSTEMS),


onstart:
    check_before_jobs()
    announce(
        f"experiment {CONFIG.experiment}: {len(DIRECTIONS)} directions, systems {', '.join(SYSTEMS)}"
    )


onsuccess:
    announce(score_table())


# What a run prints of a job is its rule's docstring with the job's values; --verbose: files and resources.
if not workflow.output_settings.verbose:
    for rule_ in workflow.rules:
        rule_.message = rule_.docstring
