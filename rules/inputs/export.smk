"""What the rules of export.smk read and which flags they get: models, bundles, what their cards tell."""


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


def export_format(wildcards):
    """Return the flag for models of text that comes segmented by a model we do not have; none by default."""
    segmented = CONFIG.corpus.source == "data-bin" and not CONFIG.corpus.segmentation
    return ["--input-format", "pieces"] if segmented else []


def zero_shot_masks(wildcards):
    """Return the masks of the zero-shot directions for a specialised system."""
    return mask_files(RUNS[wildcards.system].masks, ZERO_SHOT)


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
