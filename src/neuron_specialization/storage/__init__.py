"""Files: written whole or not at all, read safely, locked where several processes share them."""
