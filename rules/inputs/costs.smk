"""What the rules of costs.smk read and which flags they get: what was trained."""


def training_folder(wildcards):
    """Return the folder of all trainings."""
    return f"{RESULTS}/training"


def masks_folder(wildcards):
    """Return the folder of all selections' masks."""
    return f"{RESULTS}/masks"


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


def trained_pairs():
    """Return the systems that are compared with each other and trained here, as JSON."""
    pairs = [pair for pair in comparisons(CONFIG) if set(pair) <= set(TRAINED)]
    # runs of several seeds are one pair of systems
    return json.dumps(list(dict.fromkeys(tuple(split_run(run)[0] for run in pair) for pair in pairs)))


def training_tables():
    """Return the tables of what was trained here; none where every model is taken over."""
    return [*rules.costs.output, *rules.perplexity.output] if TRAINED else []
