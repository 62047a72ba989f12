"""What trainings cost, and the loss of each direction over training: tables of what was logged meanwhile."""


include: "inputs/costs.smk"


rule costs:
    """Tabulate what the training of {params.systems} cost."""
    input:
        summaries=expand(rules.train_baseline.output.summary, system=TRAINED),
        metrics=expand(rules.train_baseline.output.metrics, system=TRAINED),
        masks=trained_masks(),
    output:
        costs=report(f"{RESULTS}/tables/costs.csv", category="Training", labels={"table": "costs"}),
        markdown=f"{RESULTS}/tables/costs.md",
    log:
        f"{LOGS}/costs.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        systems=",".join(TRAINED),
        training=training_folder,
        masks=masks_folder,
        benchmarks=f"{BENCHMARKS}/train",
        runs=runs_of(TRAINED),
        seed=CONFIG.seed,
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization costs \
            --training {params.training:q} \
            --masks {params.masks:q} \
            --benchmarks {params.benchmarks:q} \
            --runs {params.runs:q} \
            --seed {params.seed:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule perplexity:
    """Tabulate the loss of each direction over the training of {params.systems}."""
    input:
        summaries=expand(rules.train_baseline.output.summary, system=TRAINED),
        metrics=expand(rules.train_baseline.output.metrics, system=TRAINED),
    output:
        perplexity=report(
            f"{RESULTS}/tables/perplexity.csv", category="Training", labels={"table": "perplexity"}
        ),
        interference=report(
            f"{RESULTS}/tables/interference.csv", category="Training", labels={"table": "interference"}
        ),
    log:
        f"{LOGS}/perplexity.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        training=training_folder,
        systems=",".join(TRAINED),
        groups=json.dumps(trained_groups(), ensure_ascii=False),
        pairs=trained_pairs(),
        seed=CONFIG.seed,
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization perplexity \
            --training {params.training:q} \
            --runs {params.systems:q} \
            --groups {params.groups:q} \
            --pairs {params.pairs:q} \
            --seed {params.seed:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """
