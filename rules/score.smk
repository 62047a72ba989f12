"""Scores: one job per system, test set and direction; value, signature and interval of each metric."""


rule score:
    """Score {wildcards.testset} {wildcards.direction} of {wildcards.system}."""
    input:
        hypothesis=rules.translate.output.text,
        reference=score_reference,
    output:
        score=f"{RESULTS}/scores/{{system}}/{{testset}}/{{direction}}.json",
    log:
        f"{LOGS}/score/{{system}}/{{testset}}/{{direction}}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        metrics=",".join(CONFIG.scoring.metrics),
        detokenizer=CONFIG.scoring.detokenizer,
        bootstrap=CONFIG.scoring.bootstrap_samples,
        confidence=CONFIG.scoring.confidence,
    shell:
        """
        python -m neuron_specialization score \
            --hypothesis {input.hypothesis:q} \
            --reference {input.reference:q} \
            --direction {wildcards.direction:q} \
            --system {wildcards.system:q} \
            --testset {wildcards.testset:q} \
            --metrics {params.metrics:q} \
            --detokenizer {params.detokenizer:q} \
            --bootstrap {params.bootstrap:q} \
            --confidence {params.confidence:q} \
            --output {output.score:q} \
            >{log:q} 2>&1
        """
