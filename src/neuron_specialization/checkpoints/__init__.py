"""Checkpoints: loading, saving, and what is exchanged with fairseq and the reference implementation."""
