"""Serving: an HTTP interface that OpenAI clients speak, and a chat page."""
