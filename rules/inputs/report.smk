"""What the rules of report.smk read and which flags they get: scores, comparisons, figures."""

from neuron_specialization.evaluation.significance import enough


def score_folders(wildcards):
    """Return the flags that name the folders of all scores."""
    folders = ["scores", *(["comet"] if CONFIG.scoring.comet else [])]
    return [part for folder in folders for part in ("--scores", f"{RESULTS}/{folder}")]


def released_flags():
    """Return the flag that names the systems that were not trained here, if there are any."""
    return ["--released", ",".join(RELEASED)] if RELEASED else []


def results_folder(wildcards):
    """Return the folder of the experiment."""
    return RESULTS


def translations_of(system, testset):
    """Return the translations of a system, every direction that is scored."""
    return [f"{RESULTS}/translations/{system}/{testset}/{direction}.txt" for direction in SCORED]


def comparison_texts(side):
    """Return the function that gives the translations of one side of a comparison."""

    def texts(wildcards):
        return translations_of(getattr(wildcards, side), wildcards.testset)

    return texts


def reference_files(wildcards):
    """Return the reference of every direction that is scored."""
    return [testset_text(wildcards.testset, direction, side=1) for direction in SCORED]


def comparison_file(testset, system, control):
    """Return the file of a comparison."""
    return f"{RESULTS}/comparisons/{testset}/{system}-{control}.json"


def comparison_files():
    """Return every comparison, those with the control first."""
    return [comparison_file(testset, *pair) for testset in TESTSETS for pair in comparisons(CONFIG)]


def comparison_flags():
    """Return the flags that name every comparison."""
    return [part for file in comparison_files() for part in ("--comparison", file)]


def sweep_runs(system):
    """Return (system, control) of a system's comparisons with the control, one a seed."""
    control = control_of(CONFIG, system)
    return [
        pair
        for pair in comparisons(CONFIG)
        if (split_run(pair[0])[0], split_run(pair[1])[0]) == (system, control)
    ]


def sweep_comparisons(wildcards):
    """Return the comparisons that the figure of the k sweep shows."""
    return [
        comparison_file(wildcards.testset, *pair) for name, _, _ in sweep(CONFIG) for pair in sweep_runs(name)
    ]


def sweep_overlaps():
    """Return the overlap summaries that the figure of the k sweep shows."""
    return [f"{mask_folder(selection)}/overlap.json" for _, _, selection in sweep(CONFIG)]


def sweep_spec(wildcards):
    """Return the points of the k sweep, as JSON."""
    return json.dumps(
        [
            {
                "system": name,
                "k": k,
                "overlap": f"{mask_folder(selection)}/overlap.json",
                "comparisons": [comparison_file(wildcards.testset, *pair) for pair in sweep_runs(name)],
            }
            for name, k, selection in sweep(CONFIG)
        ]
    )


# selections that counted activations lie behind
BY_ACTIVITY = [name for name in SELECTIONS if MASKS[name].method == "activation"]


def selection_counts(wildcards):
    """Return the folder of the counts that a selection is made from."""
    return f"{RESULTS}/{counts_of(wildcards.selection)}"


def all_figures():
    """Return every figure of the experiment."""
    names = ["training", "perplexity"] if TRAINED else []
    names += [f"overlap-{selection}" for selection in SELECTIONS]
    names += [f"activity-{selection}" for selection in BY_ACTIVITY]
    for testset in TESTSETS:
        names += ["-".join(("deltas", testset, *pair)) for pair in main_comparisons(CONFIG)]
        names += [f"sweep-{testset}"] if sweep(CONFIG) else []
    return [f"{RESULTS}/figures/{name}.svg" for name in names]


def page_config():
    """Return the configuration without what changes no result, as JSON."""
    return CONFIG.model_dump_json(by_alias=True, exclude_unset=True, exclude={"mirror", "downloads"})


def score_table():
    """Return the score table as it was printed when it was made; nothing if it is not of what is there now.

    That is, if a score is missing, or a score or a model is newer: a run for something else made it.
    """
    table = Path(rules.tables.log[0])
    made_from = [*rules.tables.input, *expand(f"{RESULTS}/training/{{system}}/model.json", system=SYSTEMS)]
    if not all(Path(file).is_file() for file in [table, *made_from]):
        return ""
    newest = max(Path(file).stat().st_mtime for file in made_from)
    return table.read_text(encoding="utf-8") if table.stat().st_mtime >= newest else ""
