"""Which neurons fire: counting them over the text of each direction."""
