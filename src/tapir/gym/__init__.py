"""The embedded world: skills with exact answers, and everyone the method needs, without a network."""
