"""What the rules of score.smk read and which flags they get: references, and what COMET needs."""


def score_reference(wildcards):
    """Return the reference translation."""
    return testset_text(wildcards.testset, wildcards.direction, side=1)


# used where `comet` is asked for as a target and the configuration has no such section
COMET = CONFIG.scoring.comet or Comet()


def test_folder(wildcards):
    """Return the folder of a test set's sources and references."""
    return testset_folder(wildcards.testset)


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
