"""Finding and hiding personal data."""
