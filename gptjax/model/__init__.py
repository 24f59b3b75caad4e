"""Models: pure functions of parameters, written in a restricted Flax Linen."""
