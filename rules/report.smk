"""Report: tables, comparisons, figures, and the page of them all. `snakemake --report FILE` collects them, too."""


include: "inputs/report.smk"


report: "../report/workflow.rst"


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
        scores=report(
            f"{RESULTS}/tables/scores.csv",
            caption="../report/scores.rst",
            category="Scores",
            labels={"table": "every translation"},
        ),
        directions=report(
            f"{RESULTS}/tables/directions.csv",
            caption="../report/scores.rst",
            category="Scores",
            labels={"table": "by direction, over seeds"},
        ),
        summary=report(
            f"{RESULTS}/tables/summary.csv",
            caption="../report/scores.rst",
            category="Scores",
            labels={"table": "means"},
        ),
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
        released=released_flags(),
    shell:
        """
        python -m neuron_specialization tables \
            {params.scores:q} \
            --groups {params.groups:q} \
            --systems {params.systems:q} \
            --testsets {params.testsets:q} \
            --seed {params.seed:q} \
            {params.released:q} \
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
            caption="../report/training.rst",
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


rule perplexity_figure:
    """Draw the perplexity of every direction over the training of {params.systems}."""
    input:
        perplexity=rules.perplexity.output.perplexity,
    output:
        figure=report(
            f"{RESULTS}/figures/perplexity.svg",
            caption="../report/perplexity.rst",
            category="Training",
            labels={"figure": "perplexity by direction"},
        ),
        bitmap=f"{RESULTS}/figures/perplexity.png",
    log:
        f"{LOGS}/figures/perplexity.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        systems=",".join(TRAINED),
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization figures \
            --perplexity {input.perplexity:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule compare:
    """Test {wildcards.system} against {wildcards.control} on {wildcards.testset}."""
    input:
        system=comparison_texts("system"),
        control=comparison_texts("control"),
        references=reference_files,
    output:
        comparison=f"{RESULTS}/comparisons/{{testset}}/{{system}}-{{control}}.json",
    log:
        f"{LOGS}/compare/{{testset}}/{{system}}-{{control}}.log",
    benchmark:
        f"{BENCHMARKS}/compare/{{testset}}/{{system}}-{{control}}.tsv"
    wildcard_constraints:
        control=one_of(SYSTEMS),
    conda:
        "../envs/workflow.yaml"
    params:
        translations=f"{RESULTS}/translations",
        texts=test_folder,
        groups=json.dumps(CONFIG.groups(), ensure_ascii=False),
        metrics=",".join(CONFIG.scoring.metrics),
        detokenizer=CONFIG.scoring.detokenizer,
        samples=enough(CONFIG.scoring.bootstrap_samples or 1000, len(SCORED)),
        trials=enough(CONFIG.report.trials, len(SCORED)),
        confidence=CONFIG.scoring.confidence,
    shell:
        """
        python -m neuron_specialization compare {wildcards.system:q} {wildcards.control:q} \
            --translations {params.translations:q} \
            --texts {params.texts:q} \
            --testset {wildcards.testset:q} \
            --groups {params.groups:q} \
            --metrics {params.metrics:q} \
            --detokenizer {params.detokenizer:q} \
            --samples {params.samples:q} \
            --trials {params.trials:q} \
            --confidence {params.confidence:q} \
            --processes {threads:q} \
            --output {output.comparison:q} \
            >{log:q} 2>&1
        """


rule evaluation_tables:
    """Make the tables with differences, intervals and significance."""
    input:
        scores=rules.tables.output.scores,
        summary=rules.tables.output.summary,
        comparisons=comparison_files(),
    output:
        csv=report(
            f"{RESULTS}/tables/evaluation.csv",
            caption="../report/evaluation.rst",
            category="Scores",
            labels={"table": "differences and significance"},
        ),
        json=f"{RESULTS}/tables/evaluation.json",
        markdown=f"{RESULTS}/tables/evaluation.md",
        latex=f"{RESULTS}/tables/evaluation.tex",
    log:
        f"{LOGS}/evaluation.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        folder=folder_of,
        comparisons=comparison_flags(),
    shell:
        """
        python -m neuron_specialization evaluation-tables \
            --tables {params.folder:q} \
            {params.comparisons:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule difference_figure:
    """Draw the differences of {wildcards.system} to {wildcards.control} on {wildcards.testset}."""
    input:
        comparison=rules.compare.output.comparison,
    output:
        figure=report(
            f"{RESULTS}/figures/deltas-{{testset}}-{{system}}-{{control}}.svg",
            caption="../report/deltas.rst",
            category="Scores",
            labels={"figure": "{system} − {control}, {testset}"},
        ),
        bitmap=f"{RESULTS}/figures/deltas-{{testset}}-{{system}}-{{control}}.png",
    log:
        f"{LOGS}/figures/deltas-{{testset}}-{{system}}-{{control}}.log",
    wildcard_constraints:
        control=one_of(SYSTEMS),
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        groups=json.dumps(CONFIG.groups(), ensure_ascii=False),
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization figures \
            --comparison {input.comparison:q} \
            --groups {params.groups:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule sweep_figure:
    """Draw score, sparsity and overlap against k on {wildcards.testset}."""
    input:
        comparisons=sweep_comparisons,
        overlaps=sweep_overlaps(),
    output:
        figure=report(
            f"{RESULTS}/figures/sweep-{{testset}}.svg",
            caption="../report/sweep.rst",
            category="Scores",
            labels={"figure": "k sweep, {testset}"},
        ),
        bitmap=f"{RESULTS}/figures/sweep-{{testset}}.png",
    log:
        f"{LOGS}/figures/sweep-{{testset}}.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        sweep=sweep_spec,
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization figures \
            --sweep {params.sweep:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


MASK_FIGURES = ["similarity", "overlap", "clusters", "sharing", "sparsity"]


rule mask_figures:
    """Draw sparsity, overlap, similarity and clusters of the masks ({wildcards.selection})."""
    input:
        overlap=rules.overlap.output.overlap,
    output:
        figures=report(
            expand(
                f"{RESULTS}/figures/{{figure}}-{{selection}}.svg", figure=MASK_FIGURES, allow_missing=True
            ),
            caption="../report/masks.rst",
            category="Masks",
            labels={"selection": "{selection}"},
        ),
        bitmaps=expand(
            f"{RESULTS}/figures/{{figure}}-{{selection}}.png", figure=MASK_FIGURES, allow_missing=True
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


rule activity_figures:
    """Draw the activity that {wildcards.selection} is made from, and where it cuts."""
    input:
        overlap=rules.overlap.output.overlap,
        counts=mask_origin_files,
    output:
        figures=report(
            expand(
                f"{RESULTS}/figures/{{figure}}-{{selection}}.svg",
                figure=["activity", "neurons"],
                allow_missing=True,
            ),
            caption="../report/activity.rst",
            category="Masks",
            labels={"selection": "{selection}, activity"},
        ),
        bitmaps=expand(
            f"{RESULTS}/figures/{{figure}}-{{selection}}.png",
            figure=["activity", "neurons"],
            allow_missing=True,
        ),
    log:
        f"{LOGS}/figures/activity-{{selection}}.log",
    wildcard_constraints:
        selection=one_of(BY_ACTIVITY),
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        activations=selection_counts,
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization figures \
            --activity {input.overlap:q} \
            --activations {params.activations:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule page:
    """Write the report page ({output.page})."""
    input:
        tables=rules.evaluation_tables.output.json,
        training=training_tables(),
        figures=all_figures(),
        overlaps=mask_overlaps(),
        manifest=BINARIZED,
        summaries=expand(f"{RESULTS}/training/{{system}}/model.json", system=SYSTEMS),
    output:
        page=report(
            f"{RESULTS}/report.html",
            caption="../report/page.rst",
            category="Report",
            labels={"page": "report"},
        ),
    log:
        f"{LOGS}/page.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        results=results_folder,
        config=page_config(),
    shell:
        """
        python -m neuron_specialization report \
            --results {params.results:q} \
            --config {params.config:q} \
            --output {output.page:q} \
            >{log:q} 2>&1
        """
