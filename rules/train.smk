"""Training: baselines from scratch, specialised systems from a baseline's model.

The live checkpoints are no output: Snakemake deletes outputs before it runs a job again, and training resumes
from them. Training depends on small files that hold checksums, not on the date of large ones.
"""


include: "inputs/train.smk"


rule train_baseline:
    """Train {wildcards.system} from scratch: {params.summary}."""
    input:
        manifest=BINARIZED,
    output:
        model=f"{RESULTS}/training/{{system}}/model.pt",
        summary=f"{RESULTS}/training/{{system}}/model.json",
        metrics=f"{RESULTS}/training/{{system}}/metrics.jsonl",
    log:
        f"{LOGS}/train/{{system}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{system}}.tsv"
    wildcard_constraints:
        system=one_of(BASELINES),
    priority: 10
    conda:
        "../envs/workflow.yaml"
    threads: share_of_cores(BASELINES)
    resources:
        gpu=0,
        nodes=1,
        launcher="spawn",
        mem_mb=6000,
        runtime="24h",
    params:
        summary=training_summary,
        recipe=training_recipe,
        data=subpath(input.manifest, parent=True),
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization train \
            --recipe {params.recipe:q} \
            --data-bin {params.data:q} \
            --output {params.folder:q} \
            --gpus {resources.gpu:q} \
            --nodes {resources.nodes:q} \
            --launcher {resources.launcher:q} \
            --threads {threads:q} \
            2>&1 | tee {log:q} >&2
        """


rule train_specialised:
    """Train {wildcards.system}, going on from {input.init}: {params.summary}."""
    input:
        manifest=BINARIZED,
        init=ancient(initial_model),
        init_summary=initial_summary,
        masks=system_masks,
    output:
        model=rules.train_baseline.output.model,
        summary=rules.train_baseline.output.summary,
        metrics=rules.train_baseline.output.metrics,
    log:
        f"{LOGS}/train/{{system}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{system}}.tsv"
    wildcard_constraints:
        system=one_of(SPECIALISED),
    priority: 10
    conda:
        "../envs/workflow.yaml"
    threads: share_of_cores(SPECIALISED)
    resources:
        gpu=0,
        nodes=1,
        launcher="spawn",
        mem_mb=6000,
        runtime="12h",
    params:
        summary=training_summary,
        recipe=training_recipe,
        data=subpath(input.manifest, parent=True),
        masks=mask_flag,
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization train \
            --recipe {params.recipe:q} \
            --data-bin {params.data:q} \
            --init {input.init:q} \
            {params.masks:q} \
            --output {params.folder:q} \
            --gpus {resources.gpu:q} \
            --nodes {resources.nodes:q} \
            --launcher {resources.launcher:q} \
            --threads {threads:q} \
            2>&1 | tee {log:q} >&2
        """


rule magnitude_finetune:
    """Fine-tune the baseline on {wildcards.direction} alone, for {wildcards.selection}: {params.summary}."""
    input:
        manifest=BINARIZED,
        init=ancient(masked_model),
        init_summary=masked_summary,
    output:
        model=temp(f"{RESULTS}/magnitude/{{selection}}/{{direction}}/model.pt"),
        summary=f"{RESULTS}/magnitude/{{selection}}/{{direction}}/model.json",
        metrics=f"{RESULTS}/magnitude/{{selection}}/{{direction}}/metrics.jsonl",
    log:
        f"{LOGS}/magnitude/{{selection}}/{{direction}}.log",
    benchmark:
        f"{BENCHMARKS}/magnitude/{{selection}}/{{direction}}.tsv"
    wildcard_constraints:
        selection=one_of(BY_MAGNITUDE),
    conda:
        "../envs/workflow.yaml"
    resources:
        gpu=0,
        nodes=1,
        launcher="spawn",
        mem_mb=6000,
        runtime="4h",
    params:
        summary=magnitude_summary,
        recipe=magnitude_recipe,
        data=subpath(input.manifest, parent=True),
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization train \
            --recipe {params.recipe:q} \
            --data-bin {params.data:q} \
            --init {input.init:q} \
            --discard-checkpoints \
            --output {params.folder:q} \
            --gpus {resources.gpu:q} \
            --nodes {resources.nodes:q} \
            --launcher {resources.launcher:q} \
            --threads {threads:q} \
            >{log:q} 2>&1
        """
