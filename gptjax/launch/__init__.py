"""Commands that start a run and keep it going."""
