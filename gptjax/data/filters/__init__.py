"""Named sets of filters: the published rules, each variant by its own name."""
