"""Masks: which neurons each direction keeps, and how far the directions' choices overlap."""


rule masks:
    """Select neurons ({wildcards.selection}): per direction, the fewest with {params.k} % of the activity."""
    input:
        counts=rules.activations.output.counts,
    output:
        masks=mask_files("{selection}"),
    log:
        f"{LOGS}/masks/{{selection}}.log",
    priority: 20
    conda:
        "../envs/workflow.yaml"
    params:
        activations=activation_folder,
        k=selection_k,
        tie_break=selection_tie_break,
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization masks \
            --activations {params.activations:q} \
            --k {params.k:q} \
            --tie-break {params.tie_break:q} \
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
    shell:
        """
        python -m neuron_specialization overlap \
            --masks {params.masks:q} \
            --output {output.overlap:q} \
            >{log:q} 2>&1
        """
