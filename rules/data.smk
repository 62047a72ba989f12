"""Data: download, extract, clean, hold out, train the vocabulary, binarise; bring in other test sets."""


include: "inputs/data.smk"


rule fetch:
    """Download {wildcards.file} and verify it."""
    output:
        file=f"{DOWNLOADS}/{{file}}",
    log:
        "logs/fetch/{file}.log",
    wildcard_constraints:
        file=one_of(CATALOGUE),
    localrule: True
    conda:
        "../envs/workflow.yaml"
    resources:
        mirror=download_mirror,
    params:
        name=catalogue_name,
    shell:
        """
        python -m neuron_specialization fetch {params.name:q} \
            --mirror={resources.mirror:q} \
            --output {output.file:q} \
            >{log:q} 2>&1
        """


rule corpus:
    """Make the corpus: clean, hold out and decontaminate the text of {params.source}."""
    input:
        files=corpus_files,
        kept_out=kept_out_files,
    output:
        manifest=f"{RESULTS}/corpus/manifest.json",
        train=pair_files(f"{RESULTS}/corpus/train"),
        valid=pair_files(f"{RESULTS}/corpus/valid"),
        heldout=pair_files(f"{RESULTS}/corpus/heldout", PAIRS + CONFIG.given_heldout_pairs()),
    log:
        f"{LOGS}/corpus.log",
    benchmark:
        f"{BENCHMARKS}/corpus.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        source=CONFIG.corpus.source,
        location=corpus_location,
        spec=corpus_spec_of(CONFIG).model_dump_json(),
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization corpus \
            --source {params.source:q} \
            --input {params.location:q} \
            --spec {params.spec:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule vocabulary:
    """Train the joint SentencePiece vocabulary."""
    input:
        manifest=rules.corpus.output.manifest,
        train=ancient(rules.corpus.output.train),
    output:
        model=f"{RESULTS}/vocabulary/spm.model",
        dictionary=DICTIONARY,
    log:
        f"{LOGS}/vocabulary.log",
    benchmark:
        f"{BENCHMARKS}/vocabulary.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        corpus=subpath(input.manifest, parent=True),
        spec=vocabulary_spec_of(CONFIG).model_dump_json(),
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization vocabulary \
            --corpus {params.corpus:q} \
            --spec {params.spec:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule binarize:
    """Encode the corpus into fairseq's memory-mapped format."""
    input:
        manifest=rules.corpus.output.manifest,
        text=ancient(rules.corpus.output.train + rules.corpus.output.valid + rules.corpus.output.heldout),
        model=rules.vocabulary.output.model,
        dictionary=rules.vocabulary.output.dictionary,
    output:
        # the one file that training depends on: it holds the checksums of all others
        manifest=BINARIZED,
    log:
        f"{LOGS}/binarize.log",
    benchmark:
        f"{BENCHMARKS}/binarize.tsv"
    conda:
        "../envs/workflow.yaml"
    params:
        corpus=subpath(input.manifest, parent=True),
        vocabulary=subpath(input.model, parent=True),
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization binarize \
            --corpus {params.corpus:q} \
            --vocabulary {params.vocabulary:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule testset:
    """Bring the test set {wildcards.testset} ({params.splits}) into the corpus's layout."""
    input:
        origin=testset_origin,
        corpus=testset_corpus,
    output:
        text=pair_files(f"{RESULTS}/testsets/{{testset}}"),
    log:
        f"{LOGS}/testset/{{testset}}.log",
    wildcard_constraints:
        testset=one_of(EXTERNAL_TESTSETS),
    conda:
        "../envs/workflow.yaml"
    params:
        source=testset_source,
        location=testset_location,
        splits=testset_splits,
        directions=",".join(DIRECTIONS),
        corpus=testset_corpus_flag,
        folder=folder_of,
    shell:
        """
        python -m neuron_specialization testset \
            --source {params.source:q} \
            --input {params.location:q} \
            {params.corpus:q} \
            --splits {params.splits:q} \
            --directions {params.directions:q} \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """
