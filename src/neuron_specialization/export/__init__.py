"""Models to ship: model directories, bundles, checkpoints for fairseq, and what they say of themselves."""
