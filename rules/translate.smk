"""Translation: one job per system, test set and direction."""


include: "inputs/translate.smk"


rule translate:
    """Translate {wildcards.testset} {wildcards.direction} with {wildcards.system}."""
    input:
        source=translation_source,
        model=translation_model,
        weights=ancient(translation_weights),
    output:
        text=f"{RESULTS}/translations/{{system}}/{{testset}}/{{direction}}.txt",
    log:
        f"{LOGS}/translate/{{system}}/{{testset}}/{{direction}}.log",
    benchmark:
        f"{BENCHMARKS}/translate/{{system}}/{{testset}}/{{direction}}.tsv"
    conda:
        "../envs/workflow.yaml"
    resources:
        gpu=0,
        device="cpu",
        mem_mb=2000,
        runtime="1h",
    params:
        model=model_flags,
        format=translation_format,
        beam=CONFIG.translation.beam,
        length_penalty=CONFIG.translation.length_penalty,
        max_length=CONFIG.translation.max_length,
        batch_size=CONFIG.translation.batch_size,
    shell:
        """
        python -m neuron_specialization translate \
            {params.model:q} \
            --direction {wildcards.direction:q} \
            {params.format:q} \
            --input {input.source:q} \
            --output {output.text:q} \
            --beam {params.beam:q} \
            --length-penalty {params.length_penalty:q} \
            --max-length {params.max_length:q} \
            --batch-size {params.batch_size:q} \
            --threads {threads:q} \
            --device {resources.device:q} \
            >{log:q} 2>&1
        """
