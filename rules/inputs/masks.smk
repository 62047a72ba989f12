"""What the rules of masks.smk read and which flags they get: what a selection is made from."""


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


def overlap_masks(wildcards):
    """Return the folder of a selection's masks."""
    return mask_folder(wildcards.selection)


def mask_overlaps():
    """Return the overlap summary of every selection in use."""
    return [f"{mask_folder(selection)}/overlap.json" for selection in SELECTIONS]
