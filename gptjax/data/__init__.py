"""From raw text to token shards with a manifest, and from shards to batches."""
