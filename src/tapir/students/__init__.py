"""A checkpoint answering."""
