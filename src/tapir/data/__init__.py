"""What goes in: a corpus is read once, checked, and kept."""
