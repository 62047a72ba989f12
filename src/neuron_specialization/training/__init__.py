"""Training a system: the trainer as a process of its own, resumed, watched, and its best model published."""
