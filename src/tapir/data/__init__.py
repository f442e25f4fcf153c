"""Corpora, evaluation sets and the run directory."""
