"""Activations: count how often each neuron of the baseline fires, per direction."""


include: "inputs/activations.smk"


rule activations:
    """Count the baseline's neuron {wildcards.counts} on the {params.split} text, for every direction."""
    input:
        model=ancient(counted_model),
        summary=counted_summary,
        manifest=BINARIZED,
    output:
        counts=expand(
            f"{RESULTS}/{{counts}}/{{direction}}.safetensors", direction=DIRECTIONS, allow_missing=True
        ),
    log:
        f"{LOGS}/{{counts}}.log",
    benchmark:
        f"{BENCHMARKS}/{{counts}}.tsv"
    # before any other job: the longest chain of jobs leads through here
    priority: 20
    conda:
        "../envs/workflow.yaml"
    threads: share_of_cores(BASELINES)
    resources:
        gpu=0,
        device="cpu",
        mem_mb=6000,
        runtime="4h",
    params:
        data=subpath(input.manifest, parent=True),
        languages=",".join(CONFIG.languages),
        directions=",".join(DIRECTIONS),
        split=CONFIG.activations.split,
        max_tokens=CONFIG.activations.max_tokens,
        padding=activation_flags,
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization activations \
            --checkpoint {input.model:q} \
            --data-bin {params.data:q} \
            --langs {params.languages:q} \
            --directions {params.directions:q} \
            --split {params.split:q} \
            --max-tokens {params.max_tokens:q} \
            {params.padding:q} \
            --device {resources.device:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """
