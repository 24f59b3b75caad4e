"""The families of models: one file each, its published sizes as Architectures."""
