"""Readers: files of a format to documents, one file a format."""
