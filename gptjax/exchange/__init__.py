"""Weights, tokenizers and configurations of other libraries, in and out."""
