"""Zero-shot directions: translated and scored, never trained. Nothing that is trained depends on these rules."""

if ZERO_SHOT:

    rule zero_shot_text:
        """Put together the text of {wildcards.folder} for the zero-shot directions."""
        input:
            text=pair_files(f"{RESULTS}/{{folder}}", PIVOT_PAIRS),
        output:
            text=pair_files(f"{RESULTS}/{{folder}}", ZERO_SHOT_PAIRS),
        log:
            f"{LOGS}/zero_shot/{{folder}}.log",
        wildcard_constraints:
            folder=one_of(PARALLEL_TEXTS),
        conda:
            "../envs/workflow.yaml"
        params:
            directions=",".join(ZERO_SHOT),
            pivot=CONFIG.pivot,
            folder=folder_of,
        shell:
            """
            python -m neuron_specialization pair-by-pivot \
                --texts {params.folder:q} \
                --directions {params.directions:q} \
                --pivot {params.pivot:q} \
                >{log:q} 2>&1
            """

    rule zero_shot_masks:
        """Put together the masks of the zero-shot directions ({wildcards.selection})."""
        input:
            masks=mask_files("{selection}", ZERO_SHOT_PARTS),
        output:
            masks=mask_files("{selection}", ZERO_SHOT),
        log:
            f"{LOGS}/zero_shot/masks/{{selection}}.log",
        conda:
            "../envs/workflow.yaml"
        params:
            directions=",".join(ZERO_SHOT),
            pivot=CONFIG.pivot,
            folder=folder_of,
        shell:
            """
            python -m neuron_specialization compose-masks \
                --masks {params.folder:q} \
                --directions {params.directions:q} \
                --pivot {params.pivot:q} \
                --packed \
                >{log:q} 2>&1
            """

    rule export_zero_shot:
        """Export {wildcards.system} to CTranslate2, one model for each zero-shot direction."""
        input:
            model=ancient(rules.train_baseline.output.model),
            summary=rules.train_baseline.output.summary,
            masks=zero_shot_masks,
            vocabulary=DICTIONARY,
        output:
            provenance=expand(
                f"{RESULTS}/models/{{system}}/{{direction}}/provenance.json",
                direction=ZERO_SHOT,
                allow_missing=True,
            ),
            model=expand(
                f"{RESULTS}/models/{{system}}/{{direction}}/model.bin",
                direction=ZERO_SHOT,
                allow_missing=True,
            ),
        log:
            f"{LOGS}/export/{{system}}-zero-shot.log",
        benchmark:
            f"{BENCHMARKS}/export/{{system}}-zero-shot.tsv"
        wildcard_constraints:
            system=one_of(name for name in SYSTEMS if RUNS[name].masks),
        conda:
            "../envs/workflow.yaml"
        resources:
            mem_mb=6000,
            runtime="4h",
        params:
            masks=export_masks,
            directions=",".join(ZERO_SHOT),
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
