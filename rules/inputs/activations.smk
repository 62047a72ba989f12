"""What the rules of activations.smk read and which flags they get: the baseline whose neurons are counted."""


def counts_of(run):
    """Return the folder of the counts that the masks of a run are made from."""
    return run_name(CONFIG, "activations", seed_of_run(CONFIG, run))


def counted_model(wildcards, suffix="pt"):
    """Return the baseline whose activations are counted."""
    return f"{RESULTS}/training/{mask_baseline_run(CONFIG, wildcards.counts)}/model.{suffix}"


def counted_summary(wildcards):
    """Return the summary of that baseline, which holds its checksum."""
    return counted_model(wildcards, "json")


def activation_flags(wildcards):
    """Return the flag for counting padding, as the reference does; none by default."""
    return ["--count-padding"] if CONFIG.activations.count_padding else []
