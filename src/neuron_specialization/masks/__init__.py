"""Masks: which neurons a direction keeps, how they are chosen, and how directions compare."""
