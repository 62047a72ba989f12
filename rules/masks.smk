"""Masks: which neurons each direction keeps, and how far the directions' choices overlap."""


include: "inputs/masks.smk"


rule masks:
    """Select the neurons of {wildcards.selection}, per direction ({params.method})."""
    input:
        origins=mask_origin_files,
        models=mask_origin_models,
    output:
        masks=mask_files("{selection}"),
    log:
        f"{LOGS}/masks/{{selection}}.log",
    priority: 20
    conda:
        "../envs/workflow.yaml"
    params:
        method=mask_method,
        spec=mask_spec,
        folders=mask_origin_flags,
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization masks \
            --spec {params.spec:q} \
            {params.folders:q} \
            --packed \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule overlap:
    """Measure how far the directions' masks overlap ({wildcards.selection})."""
    input:
        masks=mask_files("{selection}"),
    output:
        overlap=f"{mask_folder('{selection}')}/overlap.json",
    log:
        f"{LOGS}/overlap/{{selection}}.log",
    conda:
        "../envs/workflow.yaml"
    params:
        masks=overlap_masks,
        directions=",".join(DIRECTIONS),
        permutations=CONFIG.report.permutations,
    shell:
        """
        python -m neuron_specialization overlap \
            --masks {params.masks:q} \
            --directions {params.directions:q} \
            --permutations {params.permutations:q} \
            --output {output.overlap:q} \
            >{log:q} 2>&1
        """
