"""Scores: value, signature and interval of each metric; COMET, if it is configured, in its own environment."""


include: "inputs/score.smk"


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


rule comet:
    """Score {wildcards.testset} of {wildcards.system} with COMET, all directions in one job."""
    input:
        translations=expand(rules.translate.output.text, direction=SCORED, allow_missing=True),
        texts=test_texts,
        python=comet_python,
        model=COMET.files(),
    output:
        scores=expand(
            f"{RESULTS}/comet/{{system}}/{{testset}}/{{direction}}.json",
            direction=SCORED,
            allow_missing=True,
        ),
    log:
        f"{LOGS}/comet/{{system}}/{{testset}}.log",
    benchmark:
        f"{BENCHMARKS}/comet/{{system}}/{{testset}}.tsv"
    conda:
        "../envs/workflow.yaml"
    threads: share_of_cores(SYSTEMS)
    resources:
        gpu=0,
        mem_mb=12000,
        runtime="8h",
    params:
        translations=translation_folder,
        texts=test_folder,
        directions=",".join(SCORED),
        model=COMET.model,
        detokenizer=CONFIG.scoring.detokenizer,
        python=comet_python_flag,
        batch_size=COMET.batch_size,
        bootstrap=CONFIG.scoring.bootstrap_samples,
        confidence=CONFIG.scoring.confidence,
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization comet \
            --translations {params.translations:q} \
            --texts {params.texts:q} \
            --directions {params.directions:q} \
            --system {wildcards.system:q} \
            --testset {wildcards.testset:q} \
            --model {params.model:q} \
            --detokenizer {params.detokenizer:q} \
            {params.python:q} \
            --gpus {resources.gpu:q} \
            --batch-size {params.batch_size:q} \
            --bootstrap {params.bootstrap:q} \
            --confidence {params.confidence:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """
