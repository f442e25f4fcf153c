"""A small local page where a person rates pairs blind."""
