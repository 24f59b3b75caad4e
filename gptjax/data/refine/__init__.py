"""From raw files to refined documents: the runner, and Apache Beam."""
