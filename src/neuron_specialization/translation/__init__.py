"""Translating text with an exported model or a checkpoint."""
