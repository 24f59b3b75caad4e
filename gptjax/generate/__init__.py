"""Generation: from a prompt to a completion, one jitted loop over the KV cache."""
