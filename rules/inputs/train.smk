"""What the rules of train.smk read and which flags they get: recipes, the model to go on from, masks."""

from functools import cache


def summary_of(recipe):
    """Return what a training is, in a few words, for the run's log."""
    training = recipe.training
    return f"{training.max_updates:,} updates, {training.max_tokens * training.micro_batches:,} tokens each"


def training_recipe(wildcards):
    """Return all that decides what a training computes, as JSON."""
    return recipe_of(CONFIG, wildcards.system).model_dump_json()


def training_summary(wildcards):
    """Return what the training of a system is."""
    return summary_of(recipe_of(CONFIG, wildcards.system))


@cache
def trainings():
    """Return, for the summary of each training, the rule that makes it and its recipe."""
    found = {
        f"{RESULTS}/training/{name}/model.json": (
            "train_baseline" if name in BASELINES else "train_specialised",
            recipe_of(CONFIG, name),
        )
        for name in TRAINED
    }
    for name in BY_MAGNITUDE:
        for direction in DIRECTIONS:
            summary = f"{RESULTS}/magnitude/{name}/{direction}/model.json"
            found[summary] = "magnitude_finetune", magnitude_recipe_of(CONFIG, name, direction)
    return found


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
    """Return what such a fine-tuning is."""
    return summary_of(magnitude_recipe_of(CONFIG, wildcards.selection, wildcards.direction))
