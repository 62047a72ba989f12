"""The model's computations: the masked feed-forward layer and the quick Transformer around it."""
