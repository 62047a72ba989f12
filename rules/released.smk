"""What others made, taken over: a binarised corpus, and released models in the place of trained ones.

The rules of this file make files that other rules would make from text or by training; they come first.
"""


include: "inputs/released.smk"


rule take_over_model:
    """Take over the released model of {wildcards.system}."""
    input:
        checkpoint=released_checkpoint,
        manifest=BINARIZED,
        init_summary=released_init,
        masks=system_masks,
    output:
        model=rules.train_baseline.output.model,
        summary=rules.train_baseline.output.summary,
    log:
        f"{LOGS}/take_over/{{system}}.log",
    benchmark:
        f"{BENCHMARKS}/take_over/{{system}}.tsv"
    wildcard_constraints:
        system=one_of(RELEASED),
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=12000,
        runtime="1h",
    params:
        recipe=training_recipe,
        data=subpath(input.manifest, parent=True),
        init=released_init_flag,
        masks=mask_flag,
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization take-over-model \
            --checkpoint {input.checkpoint:q} \
            --recipe {params.recipe:q} \
            --data-bin {params.data:q} \
            {params.init:q} \
            {params.masks:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule import_masks:
    """Read the masks of the selection {wildcards.selection} from {params.source}."""
    input:
        files=mask_source_files,
        model=ancient(masked_model),
        summary=masked_summary,
    output:
        masks=mask_files("{selection}"),
    log:
        f"{LOGS}/masks/{{selection}}.log",
    wildcard_constraints:
        selection=one_of(IMPORTED),
    conda:
        "../envs/workflow.yaml"
    resources:
        mem_mb=8000,
    params:
        source=mask_source,
        directions=",".join(DIRECTIONS),
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization import-masks \
            --masks {params.source:q} \
            --directions {params.directions:q} \
            --checkpoint {input.model:q} \
            --packed \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


ruleorder: take_over_model > train_specialised > train_baseline
ruleorder: import_masks > masks


if CONFIG.corpus.source == "data-bin":

    rule unpack:
        """Unpack {input.archive}."""
        input:
            archive=data_bin_archive,
        output:
            folder=directory(UNPACKED),
            # what depends on it compares this small file by its content
            content=f"{UNPACKED}.json",
        log:
            f"logs/unpack/{Path(UNPACKED).name}.log",
        conda:
            "../envs/workflow.yaml"
        resources:
            runtime="4h",
        shell:
            """
            python -m neuron_specialization unpack \
                --archive {input.archive:q} \
                --output {output.folder:q} \
                --content {output.content:q} \
                >{log:q} 2>&1
            """

    rule take_over_data_bin:
        """Check the binarised corpus and link it: {params.splits}."""
        input:
            files=data_bin_files,
            segmentation=segmentation_model,
        output:
            manifest=BINARIZED,
            dictionary=DICTIONARY,
            model=[rules.vocabulary.output.model] if CONFIG.corpus.segmentation else [],
        log:
            f"{LOGS}/take_over/data_bin.log",
        benchmark:
            f"{BENCHMARKS}/take_over/data_bin.tsv"
        conda:
            "../envs/workflow.yaml"
        resources:
            mem_mb=4000,
            runtime="2h",
        params:
            location=data_bin_location,
            languages=",".join(CONFIG.languages),
            pairs=",".join(PAIRS),
            shards=CONFIG.corpus.shards,
            splits=",".join(CONFIG.data_bin_splits()),
            segmentation=segmentation_flag,
            vocabulary=subpath(output.dictionary, parent=True),
            folder=folder_of,
        shell:
            """
            python -m neuron_specialization take-over-data-bin \
                --input {params.location:q} \
                --languages {params.languages:q} \
                --pairs {params.pairs:q} \
                --shards {params.shards:q} \
                --splits {params.splits:q} \
                {params.segmentation:q} \
                --vocabulary {params.vocabulary:q} \
                --output {params.folder:q} \
                >{log:q} 2>&1
            """

    rule testset_from_data_bin:
        """Write the text of the corpus's {params.splits} split as the test set {wildcards.testset}."""
        input:
            manifest=BINARIZED,
        output:
            text=rules.testset.output.text,
            pieces=pair_files(f"{RESULTS}/testsets/{{testset}}/pieces"),
        log:
            f"{LOGS}/testset/{{testset}}.log",
        wildcard_constraints:
            testset=one_of(SEGMENTED_TESTSETS),
        conda:
            "../envs/workflow.yaml"
        params:
            splits=testset_splits,
            data=subpath(input.manifest, parent=True),
            directions=",".join(DIRECTIONS),
            folder=folder_of,
        shell:
            """
            python -m neuron_specialization testset \
                --source data-bin \
                --input {params.data:q} \
                --splits {params.splits:q} \
                --directions {params.directions:q} \
                --output {params.folder:q} \
                >{log:q} 2>&1
            """

    ruleorder: take_over_data_bin > binarize
    ruleorder: take_over_data_bin > vocabulary
    ruleorder: testset_from_data_bin > testset
