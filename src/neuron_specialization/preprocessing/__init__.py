"""From text to token ids: normalisation, the joint vocabulary, binarisation."""
