"""SVG files as parts of a page: no prolog or metadata, own identifiers, a text for who cannot see."""

from __future__ import annotations

import html
import re
from pathlib import Path

from neuron_specialization.errors import NeuronSpecializationError

_DESCRIPTION = re.compile(r"<dc:description>(.*?)</dc:description>", re.DOTALL)


def _description(svg: str) -> str:
    """The description that ``drawing.save`` put into a figure, for screen readers; empty if there is none."""
    found = _DESCRIPTION.search(svg)
    return html.unescape(found[1]) if found else ""


def inline(path: str | Path, prefix: str) -> str:
    """Return an SVG file's ``<svg>`` element, ready to stand in a page with others.

    Args:
        path: the file, written by matplotlib.
        prefix: of its identifiers, unique on the page.

    Raises:
        NeuronSpecializationError: not an SVG, or one that would run code or load something.
    """
    text = Path(path).read_text(encoding="utf-8")
    start = re.search(r"<svg\b[^>]*>", text)
    if start is None or not text.rstrip().endswith("</svg>"):
        raise NeuronSpecializationError("not an SVG file", where=path, hint="delete it and draw it again")
    body = text[start.end() :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style\b.*?</style>", "", body, flags=re.DOTALL)
    if re.search(r"<script|<foreignObject|\son\w+=|href=\"(?!#|data:image/png)", body, re.IGNORECASE):
        raise NeuronSpecializationError("an SVG file with a script or a link", where=path)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    box = re.search(r'viewBox="([^"]+)"', start[0])
    if box is None:
        raise NeuronSpecializationError("an SVG file without a viewBox", where=path)
    words = html.escape(_description(text) or Path(path).stem, quote=True)
    return (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="{box[1]}" role="img" aria-label="{words}">{body.strip()}'
    )
