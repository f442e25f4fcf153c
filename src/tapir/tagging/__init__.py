"""Taggers learnt in the run."""
