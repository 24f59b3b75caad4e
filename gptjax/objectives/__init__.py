"""Objectives: one file a loss, each a `core.LossFn` for the one train step."""
