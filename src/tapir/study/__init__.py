"""Grids of variants and seeds at the same budget, and what they show."""
