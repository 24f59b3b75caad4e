"""Evaluation on held-out data, and a report that a stranger can read."""
