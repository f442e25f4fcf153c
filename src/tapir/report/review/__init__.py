"""Blind pairwise rating of a run's answers by people, on a local page."""
