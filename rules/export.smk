"""Export: one CTranslate2 model per direction of a masked system, one for all directions of a dense one."""


rule export_dense:
    """Export {wildcards.system} to CTranslate2."""
    input:
        model=ancient(rules.train_baseline.output.model),
        summary=rules.train_baseline.output.summary,
        vocabulary=DICTIONARY,
    output:
        provenance=f"{RESULTS}/models/{{system}}/dense/provenance.json",
        model=f"{RESULTS}/models/{{system}}/dense/model.bin",
    log:
        f"{LOGS}/export/{{system}}.log",
    benchmark:
        f"{BENCHMARKS}/export/{{system}}.tsv"
    wildcard_constraints:
        system=one_of(name for name in SYSTEMS if not RUNS[name].masks),
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=6000,
        runtime="1h",
    params:
        vocabulary=subpath(input.vocabulary, parent=True),
        format=export_format,
        folder=export_folder,
    shell:
        """
        python -m neuron_specialization export \
            --checkpoint {input.model:q} \
            --vocabulary {params.vocabulary:q} \
            {params.format:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule export_masked:
    """Export {wildcards.system} to CTranslate2, one narrower model for each direction."""
    input:
        model=ancient(rules.train_baseline.output.model),
        summary=rules.train_baseline.output.summary,
        masks=system_masks,
        vocabulary=DICTIONARY,
    output:
        provenance=expand(
            f"{RESULTS}/models/{{system}}/{{direction}}/provenance.json",
            direction=DIRECTIONS,
            allow_missing=True,
        ),
        model=expand(
            f"{RESULTS}/models/{{system}}/{{direction}}/model.bin",
            direction=DIRECTIONS,
            allow_missing=True,
        ),
    log:
        f"{LOGS}/export/{{system}}.log",
    benchmark:
        f"{BENCHMARKS}/export/{{system}}.tsv"
    wildcard_constraints:
        system=one_of(name for name in SYSTEMS if RUNS[name].masks),
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=6000,
        runtime="4h",
    params:
        masks=export_masks,
        directions=",".join(DIRECTIONS),
        vocabulary=subpath(input.vocabulary, parent=True),
        format=export_format,
        folder=export_folder,
    shell:
        """
        python -m neuron_specialization export \
            --checkpoint {input.model:q} \
            --masks {params.masks:q} \
            --directions {params.directions:q} \
            --vocabulary {params.vocabulary:q} \
            {params.format:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """
