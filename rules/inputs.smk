"""The named input and flag functions of the rules, stage by stage: which files a job reads, which flags it gets."""

# ---- any stage ----


def folder_of(wildcards, output):
    """Return the folder that the job's first output lies in."""
    return str(Path(output[0]).parent)


def pair_files(folder, pairs=PAIRS):
    """Return the two text files of each pair in a folder."""
    return [f"{folder}/{pair}.{code}" for pair in pairs for code in pair.split("-")]


def share_of_cores(systems):
    """Return the threads of one training when that many run side by side; more than eight gain nothing."""
    # a cluster has no number of cores: its profile sets the threads
    return max(1, min(8, (workflow.resource_settings.cores or 8) // max(1, len(systems))))


# ---- data ----

DOWNLOADS = CONFIG.downloads
CATALOGUE = {entry.file: name for name, entry in catalogue().items()}


def catalogue_name(wildcards):
    """Return what the catalogue calls a file of the downloads folder."""
    return CATALOGUE[wildcards.file]


def downloaded(name):
    """Return the path of a downloaded file. Its checksum was verified, so a later date means nothing."""
    return ancient(f"{DOWNLOADS}/{catalogue()[name].file}")


def corpus_files(wildcards):
    """Return what the corpus is made of: the downloaded file, or the text files of a local folder."""
    if CONFIG.corpus.source == "homeassistant":
        return downloaded("homeassistant")
    if CONFIG.corpus.source == "data-bin":
        return []  # released.smk takes it over
    files = Path(CONFIG.corpus.path).glob("*.*-*.*")
    return sorted(str(path) for path in files if path.name.split(".")[0] in ("train", "valid", "test"))


def corpus_location(wildcards, input):
    """Return where the corpus command reads: the downloaded file, or the local folder."""
    return CONFIG.corpus.path or str(input[0] if input else "")


def download_mirror(wildcards):
    """Return where a file is looked for first; nowhere by default."""
    return CONFIG.mirror_of(CATALOGUE[wildcards.file]) or ""


def testset_archive(wildcards):
    """Return the downloaded archive of a test set; none where the configuration names a folder."""
    return [] if CONFIG.testsets[wildcards.testset].path else downloaded("flores200")


def testset_location(wildcards, input):
    """Return where the testset command reads."""
    return CONFIG.testsets[wildcards.testset].path or str(input[0])


def testset_source(wildcards):
    """Return the kind of a test set."""
    return CONFIG.testsets[wildcards.testset].source


def testset_splits(wildcards):
    """Return the splits of a test set, comma-separated."""
    return ",".join(CONFIG.testsets[wildcards.testset].splits)


def testset_text(testset, direction, side):
    """Return the file of one side (0 source, 1 target) of a direction's test text."""
    folder = f"testsets/{testset}" if testset in EXTERNAL_TESTSETS else "corpus/heldout"
    codes = direction.split("-")
    return f"{RESULTS}/{folder}/{'-'.join(sorted(codes))}.{codes[side]}"


def testset_files():
    """Return all files of the test sets that are not part of the corpus."""
    files = [file for name in EXTERNAL_TESTSETS for file in pair_files(f"{RESULTS}/testsets/{name}")]
    return files + [
        file for folder in PARALLEL_TEXTS for file in pair_files(f"{RESULTS}/{folder}", ZERO_SHOT_PAIRS)
    ]


# ---- train ----


def training_recipe(wildcards):
    """Return all that decides what a training computes, as JSON."""
    return recipe_of(CONFIG, wildcards.system).model_dump_json()


def training_summary(wildcards):
    """Return what a training is, in a few words, for the run's log."""
    training = recipe_of(CONFIG, wildcards.system).training
    return f"{training.max_updates:,} updates, {training.max_tokens * training.micro_batches:,} tokens each"


def initial_model(wildcards, suffix="pt"):
    """Return the model that a specialised system goes on from."""
    return f"{RESULTS}/training/{RUNS[wildcards.system].init}/model.{suffix}"


def initial_summary(wildcards):
    """Return the summary of that model, which holds its checksum."""
    return initial_model(wildcards, "json")


def system_masks(wildcards):
    """Return the mask files of a specialised system; none for one without masks."""
    selection = RUNS[wildcards.system].masks
    return mask_files(selection) if selection else []


def mask_flag(wildcards):
    """Return the flag that names a system's masks; none for one without masks."""
    selection = RUNS[wildcards.system].masks
    return ["--masks", mask_folder(selection)] if selection else []


# ---- taken over: released models, a binarised corpus ----

# where the archive of a binarised corpus is unpacked, for all experiments that use it
UNPACKED = f"{DOWNLOADS}/unpacked/{CONFIG.corpus.dataset or Path(CONFIG.corpus.path or 'none').name}"


def released_checkpoint(wildcards):
    """Return the checkpoint that a system is taken over from: downloaded, or a file."""
    system = RUNS[wildcards.system]
    return downloaded(system.released) if system.released else system.checkpoint


def released_init(wildcards):
    """Return the summary of the baseline a released model went on from; none for a baseline."""
    return initial_summary(wildcards) if RUNS[wildcards.system].init else []


def released_init_flag(wildcards, input):
    """Return the flag that names that summary; none for a baseline."""
    return ["--init", str(input.init_summary)] if RUNS[wildcards.system].init else []


def mask_source(wildcards):
    """Return the folder of the reference's mask files."""
    return MASKS[wildcards.selection].source


def mask_source_files(wildcards):
    """Return the reference's mask file of every direction."""
    return [f"{mask_source(wildcards)}/{direction}.pt" for direction in DIRECTIONS]


def data_bin_archive(wildcards):
    """Return the archive of the binarised corpus."""
    return downloaded(CONFIG.corpus.dataset) if CONFIG.corpus.dataset else CONFIG.corpus.path


def data_bin_folder(wildcards):
    """Return the folder of the binarised corpus: unpacked, or one that is there. Its date means nothing."""
    path = CONFIG.corpus.path
    return ancient(path if path and Path(path).is_dir() else UNPACKED)


def segmentation_flag(wildcards):
    """Return the flag that names the corpus's SentencePiece model; none where it is not known."""
    return ["--segmentation", CONFIG.corpus.segmentation] if CONFIG.corpus.segmentation else []


# ---- activations ----


def activation_flags(wildcards):
    """Return the flag for counting padding, as the reference does; none by default."""
    return ["--count-padding"] if CONFIG.activations.count_padding else []


# ---- masks ----


def mask_folder(selection):
    """Return the folder of a selection's masks."""
    return f"{RESULTS}/masks/{selection}"


def mask_files(selection, directions=DIRECTIONS):
    """Return the mask file of every direction; of every trained one by default."""
    return [f"{mask_folder(selection)}/{direction}.safetensors" for direction in directions]


def overlap_masks(wildcards):
    """Return the folder of a selection's masks."""
    return mask_folder(wildcards.selection)


def mask_overlaps():
    """Return the overlap summary of every selection in use."""
    return [f"{mask_folder(selection)}/overlap.json" for selection in SELECTIONS]


def mask_spec(wildcards):
    """Return what decides a selection's masks, as JSON."""
    return mask_spec_of(CONFIG, wildcards.selection).model_dump_json()


def mask_method(wildcards):
    """Return how a selection's neurons are chosen, in a word."""
    return MASKS[wildcards.selection].method


def mask_origins(wildcards):
    """Return what a selection is made from: kind → folder (activations, other masks, fine-tuned models)."""
    spec = mask_spec_of(CONFIG, wildcards.selection)
    folders = {"activations": f"{RESULTS}/{counts_of(wildcards.selection)}", "models": "", "like": ""}
    if spec.selection.method == "magnitude":
        folders["models"] = f"{RESULTS}/magnitude/{wildcards.selection}"
    if spec.selection.parent:
        folders["like"] = mask_folder(spec.selection.parent)
    return {kind: folders[kind] for kind in spec.needs}


def mask_origin_files(wildcards):
    """Return the files that a selection is made from; of a model, the small one that holds its checksum."""
    name = {"models": "{}/model.json"}
    return [
        f"{folder}/{name.get(kind, '{}.safetensors').format(direction)}"
        for kind, folder in mask_origins(wildcards).items()
        for direction in DIRECTIONS
    ]


def mask_origin_models(wildcards):
    """Return the fine-tuned models that a selection is made from; they are deleted after it."""
    folder = mask_origins(wildcards).get("models")
    return [ancient(f"{folder}/{direction}/model.pt") for direction in DIRECTIONS] if folder else []


def mask_origin_flags(wildcards):
    """Return the flags that name the folders a selection is made from."""
    return [part for kind, folder in mask_origins(wildcards).items() for part in (f"--{kind}", folder)]


def counts_of(run):
    """Return the folder of the counts that the masks of a run are made from."""
    return run_name(CONFIG, "activations", seed_of_run(CONFIG, run))


def counted_model(wildcards, suffix="pt"):
    """Return the baseline whose activations are counted."""
    return f"{RESULTS}/training/{mask_baseline_run(CONFIG, wildcards.counts)}/model.{suffix}"


def counted_summary(wildcards):
    """Return the summary of that baseline, which holds its checksum."""
    return counted_model(wildcards, "json")


def masked_model(wildcards, suffix="pt"):
    """Return the baseline that a selection is for."""
    return f"{RESULTS}/training/{mask_baseline_run(CONFIG, wildcards.selection)}/model.{suffix}"


def masked_summary(wildcards):
    """Return the summary of that baseline, which holds its checksum."""
    return masked_model(wildcards, "json")


def magnitude_recipe(wildcards):
    """Return all that decides the fine-tuning on one direction, as JSON."""
    return magnitude_recipe_of(CONFIG, wildcards.selection, wildcards.direction).model_dump_json()


def magnitude_summary(wildcards):
    """Return what such a fine-tuning is, in a few words, for the run's log."""
    training = magnitude_recipe_of(CONFIG, wildcards.selection, wildcards.direction).training
    return f"{training.max_updates:,} updates, {training.max_tokens * training.micro_batches:,} tokens each"


def zero_shot_masks(wildcards):
    """Return the masks of the zero-shot directions for a specialised system."""
    return mask_files(RUNS[wildcards.system].masks, ZERO_SHOT)


# ---- export ----


def model_variants(system):
    """Return the names of a system's exported models."""
    return SCORED if RUNS[system].masks else ["dense"]


def model_folder(system, direction):
    """Return the exported model that translates a direction."""
    return f"{RESULTS}/models/{system}/{direction if RUNS[system].masks else 'dense'}"


def exported_models():
    """Return the provenance file of every exported model, if models are exported at all."""
    if CONFIG.translation.engine != "ctranslate2":
        return []
    return [
        f"{RESULTS}/models/{name}/{one}/provenance.json" for name in SYSTEMS for one in model_variants(name)
    ]


def export_masks(wildcards):
    """Return the folder of a system's masks."""
    return mask_folder(RUNS[wildcards.system].masks)


def export_folder(wildcards):
    """Return the folder of a system's models."""
    return f"{RESULTS}/models/{wildcards.system}"


def export_manifest(wildcards):
    """Return the corpus's manifest, for the model cards; none for text that comes binarised."""
    # its licence and citation are read; that a file of the same text is newer means nothing
    return [] if CONFIG.corpus.source == "data-bin" else ancient(f"{RESULTS}/corpus/manifest.json")


def export_manifest_flag(wildcards, input):
    """Return the flag that names it."""
    return ["--manifest", str(input.manifest)] if input.manifest else []


def bundle_zero_shot(wildcards):
    """Return the masks of a specialised system's zero-shot directions; a dense model needs none."""
    return zero_shot_masks(wildcards) if RUNS[wildcards.system].masks else []


def bundle_directions(wildcards):
    """Return what a bundle is for: what was trained, and under masks of their own also zero-shot directions."""
    return ",".join(SCORED if RUNS[wildcards.system].masks else DIRECTIONS)


def bundle_scores(wildcards):
    """Return a system's scores, for the bundle's card."""
    return [
        f"{RESULTS}/scores/{wildcards.system}/{testset}/{direction}.json"
        for testset in TESTSETS
        for direction in SCORED
    ]


def bundle_score_folder(wildcards):
    """Return the folder of a system's scores."""
    return f"{RESULTS}/scores/{wildcards.system}"


def export_format(wildcards):
    """Return the flag for models of text that comes segmented by a model we do not have; none by default."""
    segmented = CONFIG.corpus.source == "data-bin" and not CONFIG.corpus.segmentation
    return ["--input-format", "pieces"] if segmented else []


# ---- translate ----


def translation_source(wildcards):
    """Return the text to translate, or its pieces where it comes segmented."""
    text = testset_text(wildcards.testset, wildcards.direction, side=0)
    if wildcards.testset in SEGMENTED_TESTSETS:
        return str(Path(text).parent / "pieces" / Path(text).name)
    return text


def translation_format(wildcards):
    """Return the flag for text that comes as pieces; none by default."""
    return ["--input-format", "pieces"] if wildcards.testset in SEGMENTED_TESTSETS else []


def translation_model(wildcards):
    """Return what the translation depends on: small files that hold the model's checksums."""
    if CONFIG.translation.engine == "ctranslate2":
        return f"{model_folder(wildcards.system, wildcards.direction)}/provenance.json"
    masks = RUNS[wildcards.system].masks
    return [
        f"{RESULTS}/training/{wildcards.system}/model.json",
        DICTIONARY,
        *([f"{mask_folder(masks)}/{wildcards.direction}.safetensors"] if masks else []),
    ]


def translation_weights(wildcards):
    """Return the large file of the model."""
    if CONFIG.translation.engine == "ctranslate2":
        return f"{model_folder(wildcards.system, wildcards.direction)}/model.bin"
    return f"{RESULTS}/training/{wildcards.system}/model.pt"


def model_flags(wildcards, input):
    """Return the flags that name the model, as the engine needs them."""
    if CONFIG.translation.engine == "ctranslate2":
        return ["--model", str(Path(input.weights).parent)]
    flags = [
        "--engine",
        "fairseq",
        "--checkpoint",
        str(input.weights),
        "--vocabulary",
        str(Path(input.model[1]).parent),
    ]
    return flags + (["--mask", str(input.model[2])] if len(input.model) > 2 else [])


# ---- score ----


def score_reference(wildcards):
    """Return the reference translation."""
    return testset_text(wildcards.testset, wildcards.direction, side=1)


# used where `comet` is asked for as a target and the configuration has no such section
COMET = CONFIG.scoring.comet or Comet()


def test_folder(wildcards):
    """Return the folder of a test set's text."""
    return str(Path(testset_text(wildcards.testset, DIRECTIONS[0], side=0)).parent)


def translation_folder(wildcards):
    """Return the folder of a system's translations of a test set."""
    return f"{RESULTS}/translations/{wildcards.system}/{wildcards.testset}"


def test_texts(wildcards):
    """Return the sources and references of a test set."""
    return pair_files(test_folder(wildcards), PAIRS + ZERO_SHOT_PAIRS)


def comet_python(wildcards):
    """Return the interpreter of COMET's environment, where the configuration names it."""
    return ancient(COMET.python) if COMET.python else []


def comet_python_flag(wildcards):
    """Return the flag that names that interpreter; none where the environment does."""
    return ["--python", COMET.python] if COMET.python else []


def comet_scores():
    """Return every score by COMET, if it is configured."""
    if not CONFIG.scoring.comet:
        return []
    return expand(rules.comet.output.scores, system=SYSTEMS, testset=TESTSETS)


# ---- costs ----


def trained_masks():
    """Return the masks that systems are trained under here."""
    selections = dict.fromkeys(RUNS[name].masks for name in TRAINED if RUNS[name].masks)
    return [file for selection in selections for file in mask_files(selection)]


def runs_of(systems):
    """Return what each run goes on from and under which masks, as JSON."""
    return json.dumps([{"run": name, "init": RUNS[name].init, "masks": RUNS[name].masks} for name in systems])


def trained_groups():
    """Return the groups of the directions that are trained, and thus validated."""
    return [row for row in CONFIG.groups() if row["direction"] in DIRECTIONS]


def training_tables():
    """Return the tables of what was trained here; none where every model is taken over."""
    return [*rules.costs.output, *rules.perplexity.output] if TRAINED else []


# ---- report ----


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


def masks_folder(wildcards):
    """Return the folder of all selections' masks."""
    return f"{RESULTS}/masks"


def training_folder(wildcards):
    """Return the folder of all trainings."""
    return f"{RESULTS}/training"


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


def reference_folder(wildcards):
    """Return the folder of the references."""
    return str(Path(testset_text(wildcards.testset, SCORED[0], side=1)).parent)


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
    """Return the score table as it was printed when it was made; nothing if it is not of the newest scores."""
    table = Path(rules.tables.log[0])
    scores = [Path(score) for score in rules.tables.input]
    newest = max((score.stat().st_mtime for score in scores if score.is_file()), default=None)
    if newest is None or not table.is_file() or table.stat().st_mtime < newest:
        return ""
    return table.read_text(encoding="utf-8")
