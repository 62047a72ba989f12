"""Report: the tables of all scores, and the figures. `snakemake --report report.html` collects them."""


rule tables:
    """Make the tables of {params.systems}."""
    input:
        scores=expand(
            rules.score.output.score,
            system=SYSTEMS,
            testset=TESTSETS,
            direction=SCORED,
        ),
        comet=comet_scores(),
    output:
        scores=report(f"{RESULTS}/tables/scores.csv", category="Scores", labels={"table": "by direction"}),
        directions=report(
            f"{RESULTS}/tables/directions.csv", category="Scores", labels={"table": "over seeds"}
        ),
        summary=report(f"{RESULTS}/tables/summary.csv", category="Scores", labels={"table": "means"}),
        markdown=f"{RESULTS}/tables/summary.md",
    log:
        f"{LOGS}/tables.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        folder=folder_of,
        scores=score_folders,
        groups=json.dumps(CONFIG.groups(), ensure_ascii=False),
        systems=",".join(SYSTEMS),
        testsets=",".join(TESTSETS),
        seed=CONFIG.seed,
    shell:
        """
        python -m neuron_specialization tables \
            {params.scores:q} \
            --groups {params.groups:q} \
            --systems {params.systems:q} \
            --testsets {params.testsets:q} \
            --seed {params.seed:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule training_figure:
    """Draw the training curves of {params.systems}."""
    input:
        metrics=expand(rules.train_baseline.output.metrics, system=TRAINED),
    output:
        curves=report(
            f"{RESULTS}/figures/training.svg",
            category="Training",
            labels={"figure": "loss"},
        ),
        bitmap=f"{RESULTS}/figures/training.png",
    log:
        f"{LOGS}/figures/training.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        training=training_folder,
        systems=",".join(TRAINED),
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization figures \
            --training {params.training:q} \
            --systems {params.systems:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule mask_figures:
    """Draw sparsity, overlap and similarity of the masks ({wildcards.selection})."""
    input:
        overlap=rules.overlap.output.overlap,
    output:
        figures=report(
            expand(
                f"{RESULTS}/figures/{{figure}}-{{selection}}.svg",
                figure=["sparsity", "overlap", "similarity"],
                allow_missing=True,
            ),
            category="Masks",
            labels={"selection": "{selection}"},
        ),
        bitmaps=expand(
            f"{RESULTS}/figures/{{figure}}-{{selection}}.png",
            figure=["sparsity", "overlap", "similarity"],
            allow_missing=True,
        ),
    log:
        f"{LOGS}/figures/{{selection}}.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization figures \
            --overlap {input.overlap:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """
