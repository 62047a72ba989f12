"""Scores, their significance, and the tables made from them."""
