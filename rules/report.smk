"""Report: the tables of all scores."""


rule tables:
    """Make the tables of {params.systems}."""
    input:
        scores=expand(
            rules.score.output.score,
            system=SYSTEMS,
            testset=TESTSETS,
            direction=DIRECTIONS,
        ),
    output:
        scores=f"{RESULTS}/tables/scores.csv",
        summary=f"{RESULTS}/tables/summary.csv",
        markdown=f"{RESULTS}/tables/summary.md",
    log:
        f"{LOGS}/tables.log",
    localrule: True
    conda:
        "../envs/workflow.yaml"
    params:
        folder=folder_of,
        scores=score_folder,
        groups=json.dumps(CONFIG.groups(), ensure_ascii=False),
        systems=",".join(SYSTEMS),
        testsets=",".join(TESTSETS),
    shell:
        """
        python -m neuron_specialization tables \
            --scores {params.scores:q} \
            --groups {params.groups:q} \
            --systems {params.systems:q} \
            --testsets {params.testsets:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """
