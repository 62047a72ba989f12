"""Export: one CTranslate2 model per direction of a masked system, one for all directions of a dense one."""


include: "inputs/export.smk"


rule export_dense:
    """Export {wildcards.system} to CTranslate2."""
    input:
        model=ancient(rules.train_baseline.output.model),
        summary=rules.train_baseline.output.summary,
        vocabulary=DICTIONARY,
        manifest=export_manifest,
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
        manifest=export_manifest_flag,
        folder=export_folder,
    shell:
        """
        python -m neuron_specialization export \
            --checkpoint {input.model:q} \
            --vocabulary {params.vocabulary:q} \
            {params.format:q} \
            {params.manifest:q} \
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
        manifest=export_manifest,
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
        manifest=export_manifest_flag,
        folder=export_folder,
    shell:
        """
        python -m neuron_specialization export \
            --checkpoint {input.model:q} \
            --masks {params.masks:q} \
            --directions {params.directions:q} \
            --vocabulary {params.vocabulary:q} \
            {params.format:q} \
            {params.manifest:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule export_bundle:
    """Put all directions of {wildcards.system} into one bundle, with its scores on the card."""
    input:
        model=ancient(rules.train_baseline.output.model),
        summary=rules.train_baseline.output.summary,
        masks=system_masks,
        zero_shot=bundle_zero_shot,
        vocabulary=DICTIONARY,
        manifest=export_manifest,
        scores=bundle_scores,
    output:
        bundle=f"{RESULTS}/bundles/{{system}}/bundle.json",
        weights=f"{RESULTS}/bundles/{{system}}/weights.safetensors",
    log:
        f"{LOGS}/bundle/{{system}}.log",
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=6000,
        runtime="1h",
    params:
        masks=mask_flag,
        directions=bundle_directions,
        vocabulary=subpath(input.vocabulary, parent=True),
        format=export_format,
        manifest=export_manifest_flag,
        scores=bundle_score_folder,
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization export \
            --format bundle \
            --checkpoint {input.model:q} \
            {params.masks:q} \
            --directions {params.directions:q} \
            --vocabulary {params.vocabulary:q} \
            {params.format:q} \
            {params.manifest:q} \
            --scores {params.scores:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """
