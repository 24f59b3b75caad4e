"""New fine-tuning data out of old: edits, back-translation, self-instruct."""
