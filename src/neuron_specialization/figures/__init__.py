"""Figures (matplotlib): SVG and PNG, each with a text for who cannot see it."""
