"""One file a family: what its settings and tensors are called elsewhere."""
