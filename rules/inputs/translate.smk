"""What the rules of translate.smk read and which flags they get: text and model, as the engine needs them."""


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
        *(mask_files(masks, [wildcards.direction]) if masks else []),
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
