"""Text to ids and back: tokenizers, chat templates, text as it streams out."""
